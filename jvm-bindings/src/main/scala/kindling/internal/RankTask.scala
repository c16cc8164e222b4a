package kindling.internal

import java.nio.charset.StandardCharsets.UTF_8

import com.fasterxml.jackson.databind.JsonNode
import org.apache.spark.BarrierTaskContext
import org.apache.spark.broadcast.Broadcast
import org.apache.spark.ml.kindling.{AllGather, EventChannel}
import org.slf4j.LoggerFactory

import scala.util.control.NonFatal
import scala.util.{Failure, Success, Try}

/**
 * What every rank of a run is told. It travels in the task closure, the only place where the run's secret is ever written; no
 * `toString` shows it.
 */
private[kindling] final class RankPlan(
    val run: String,
    val attempt: Int,
    val world: Int,
    val secret: String,
    val threads: Int,
    val device: DeviceChoice,
    val settings: Settings,
    val shards: Seq[ShardReport],
    val channel: String,
    val loading: NativeLoading,
    val network: NetworkSettings,
    val columns: Seq[NativeColumn],
    val memory: ShardMemory,
    val rows: RankPlan.Rows
) extends Serializable {

  /** Where the ranks meet before they know of each other. */
  def gathering: String = s"$channel-gathering"

  /**
   * Drops what is in this process of tasks that ran twice although the driver let one keep its shard, as its word was lost on the way
   * there: of each partition, the driver chose one.
   */
  def dropDuplicates(process: String): Unit = {
    val kept = Json.obj().put("run", rows.run)
    val keys = kept.putArray("keys")
    shards.filter(_.process == process).foreach(shard => keys.add(shard.key))
    Native.shardRetain(Json.bytes(kept)): Unit
  }
}

private[kindling] object RankPlan {

  /** The name under which the rows are held, the secret that opens them, and whether they stay when this run is over. */
  final case class Rows(run: String, secret: String, stay: Boolean) {
    override def toString: String = s"Rows($run)"
  }
}

/**
 * One rank, as the body of a barrier task: open a session, meet the others, train, bring back the result.
 *
 * Whatever happens, the rank first takes part in the gathering: a rank that stayed away would leave the others waiting for it. Who
 * failed to open says so there. The session is always closed, after its watcher.
 */
private[kindling] final class RankTask(plan: RankPlan, program: Broadcast[Array[Byte]]) extends Serializable {

  def run(): RankOutcome = {
    val context = BarrierTaskContext.get()
    val rank = context.partitionId()
    val place = Place.here()
    val liveRuns = LocalRuns.enter(plan.run)
    try {
      RankTask.tell(plan.channel, Json.obj().put("type", "started").put("rank", rank))
      val opened = attempt(open(context, rank, liveRuns))
      try {
        val hello = opened.fold(failure => Json.obj().put("failure", sentence(failure)), _.endpoint)
        val answers = gather(context, rank, hello)
        opened match {
          case Failure(e) => RankOutcome.Failed(rank, place, sentence(e), FailureKind.of(e), secondary = false)
          case Success(open) =>
            attempt(together(context, rank, place, open.session, answers)).fold(
              failure => failed(rank, place, failure),
              identity
            )
        }
      } finally opened.foreach(open => Native.sessionClose(open.session))
    } finally LocalRuns.leave(plan.run, Some(plan.rows.run).filterNot(_ => plan.rows.stay))
  }

  /** A session and where it listens, or neither. */
  private def open(context: BarrierTaskContext, rank: Int, liveRuns: Seq[String]): RankTask.Open = {
    NativeLibrary.load(plan.loading): Unit
    val host = RankTask.hostOf(context.getTaskInfos()(rank).address)
    val config = SessionConfig.json(plan, rank, host, plan.device.device(rank), liveRuns)
    val session = Native.sessionOpen(Json.bytes(config), program.value, null)
    try {
      val endpoint = Json.parse(Native.sessionEndpoint(session))
      plan.dropDuplicates(endpoint.path("process").asText)
      RankTask.Open(session, endpoint)
    } catch {
      case e: Throwable =>
        Native.sessionClose(session)
        throw e
    }
  }

  /** What each rank has to say to the others, by rank. The driver watches that all come, and should be the one to speak first. */
  private def gather(context: BarrierTaskContext, rank: Int, hello: JsonNode): Seq[JsonNode] = {
    val limitMs = plan.settings.rendezvousTimeoutMs + 2 * Rendezvous.GraceMs
    AllGather
      .gather(plan.gathering, rank, Json.bytes(hello), context, limitMs, "rendezvousTimeout")
      .map(Json.parse)
  }

  private def together(
      context: BarrierTaskContext,
      rank: Int,
      place: Place,
      session: Long,
      answers: Seq[JsonNode]
  ): RankOutcome = {
    val firstFailure = answers.indexWhere(_.has("failure"))
    if (firstFailure >= 0) {
      val reason = answers(firstFailure).path("failure").asText
      RankOutcome.Failed(
        rank,
        place,
        s"rank $firstFailure could not start: $reason",
        FailureKind.Other,
        secondary = true
      )
    } else {
      val watcher = new Watcher(session, rank, context)
      try {
        Native.sessionConnect(session, Json.bytes(Json.array(answers)))
        RankTask.tell(plan.channel, Json.obj().put("type", "connected").put("rank", rank))
        val report = Native.sessionFit(session, eventSink(rank))
        val weights = if (rank == 0) Some(Native.sessionWeights(session)) else None
        RankOutcome.Finished(rank, place, answers(rank).path("process").asText, report, weights)
      } finally watcher.close()
    }
  }

  private def eventSink(rank: Int): EventSink =
    if (rank == 0) {
      val send = EventChannel.sender(plan.channel)
      // Reports are for people: one that gets lost must not end the training.
      event =>
        try send(event)
        catch { case NonFatal(e) => RankTask.log.debug("an event was not sent", e) }
    } else _ => ()

  private def failed(rank: Int, place: Place, e: Throwable): RankOutcome =
    RankOutcome.Failed(rank, place, sentence(e), FailureKind.of(e), e.isInstanceOf[PeerLostException])

  private def sentence(e: Throwable): String = RankTask.sentence(e)

  /** Also catches what loading a library throws; a fatal error of the JVM goes on to Spark. */
  private def attempt[T](body: => T): Try[T] =
    try Success(body)
    catch {
      case NonFatal(e) => Failure(e)
      case e: LinkageError => Failure(e)
    }
}

private[kindling] object RankTask {
  private val log = LoggerFactory.getLogger("kindling.RankTask")

  private final case class Open(session: Long, endpoint: JsonNode)

  def sentence(e: Throwable): String = Option(e.getMessage).filter(_.nonEmpty).getOrElse(e.getClass.getName)

  /** A note to the driver; the run does not depend on it. */
  private def tell(channel: String, note: JsonNode): Unit =
    try EventChannel.sender(channel)(Json.text(note).getBytes(UTF_8))
    catch { case NonFatal(e) => log.debug("a note was not sent", e) }

  /** `host:port`, where the host may be an IPv6 address in brackets. */
  private[internal] def hostOf(address: String): String = {
    val colon = address.lastIndexOf(':')
    val host = if (colon >= 0) address.substring(0, colon) else address
    host.stripPrefix("[").stripSuffix("]")
  }
}
