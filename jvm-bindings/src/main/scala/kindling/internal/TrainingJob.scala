package kindling.internal

import java.nio.charset.StandardCharsets.UTF_8
import java.util.concurrent.TimeUnit

import kindling.TrainingException
import org.apache.spark.{SparkContext, TaskContext}
import org.apache.spark.broadcast.Broadcast
import org.apache.spark.ml.kindling.{AllGather, Cluster, EventChannel}
import org.slf4j.LoggerFactory

import scala.collection.mutable
import scala.util.Using
import scala.util.control.NonFatal

/** What the ranks bring back. `movedRows` and `movedBytes` are what they fetched from other executors. */
private[kindling] final case class TrainingResult(
    report: Array[Byte],
    weights: Array[Byte],
    processes: Int,
    movedRows: Long,
    movedBytes: Long
)

/** Rows went with their executor before any rank was started. */
private[kindling] final class RowsLost(place: Place)
    extends RuntimeException(s"$place was lost, and the rows that it held are gone with it")

/**
 * The barrier job of a run. It waits for slots, sends one task per rank to the executors that hold the rows, shows their progress,
 * and judges how they ended.
 *
 * Spark treats locations as wishes; a rank that landed away from its rows fetches them. Before the job starts, the executors that
 * hold the rows must still be there.
 */
private[kindling] final class TrainingJob(
    sc: SparkContext,
    plan: RankPlan,
    program: Program,
    placement: Placement,
    slots: Slots,
    tag: String
) {
  import TrainingJob._

  def run(): TrainingResult = {
    val broadcast = sc.broadcast(program.bytes)
    val result = judge(train(broadcast), None)
    // Only after success: tasks of a cancelled job may still be starting, and would stumble over it. Spark's cleaner takes it then.
    broadcast.destroy()
    result
  }

  private def train(broadcast: Broadcast[Array[Byte]]): Seq[RankOutcome] = {
    requireHolders()
    Using.resource(reserve()) { reservation =>
      // Waiting may have taken minutes.
      requireHolders()
      watched(broadcast, plan, () => reservation.close())
    }
  }

  private def reserve(): Slots.Reservation =
    try slots.reserve(plan.world, plan.settings.slotTimeoutMs)
    catch {
      // The cluster has too few slots now and had enough before: if that is the loss of a holder, fewer ranks would not help.
      case e: IllegalArgumentException =>
        // Spark counts an executor's slots out a moment before the executor.
        (1 to NoticePolls).foreach { _ =>
          requireHolders()
          TimeUnit.MILLISECONDS.sleep(NoticePollMs)
        }
        throw e
    }

  /** Rows live and die with their executor: without it, no attempt can succeed before they are read again. */
  private def requireHolders(): Unit =
    placement.lost(Cluster.executors(sc).map(_._1).toSet).headOption.foreach { place =>
      throw new RowsLost(place)
    }

  /** One barrier job, with its progress shown and its ranks' meeting watched. `started` is called when all its ranks run. */
  private def watched(broadcast: Broadcast[Array[Byte]], current: RankPlan, started: () => Unit): Seq[RankOutcome] = {
    val settings = plan.settings
    val mode = Progress.mode(sc.getConf, Progress.terminal)
    val cancel = (reason: String) => if (!sc.isStopped) sc.cancelJobsWithTag(tag, reason)
    Using.Manager { use =>
      val progress = use(new Progress(System.err, mode, settings.maxEpochs))
      val rendezvous = use(
        new Rendezvous(
          plan.run,
          plan.world,
          settings.slotTimeoutMs,
          settings.rendezvousTimeoutMs,
          cancel,
          started
        )
      )
      val grace = use(new Grace(plan.run, cancel))
      use(EventChannel.open(current.channel)(receive(progress, rendezvous))): Unit
      use(AllGather.open(current.gathering, plan.world)(rendezvous.onArrived)): Unit
      barrierJob(broadcast, current, rendezvous, grace)
    }.get
  }

  private def barrierJob(
      broadcast: Broadcast[Array[Byte]],
      current: RankPlan,
      rendezvous: Rendezvous,
      grace: Grace
  ): Seq[RankOutcome] = {
    val outcomes = mutable.ArrayBuffer.empty[RankOutcome]
    def add(outcome: RankOutcome): Unit = {
      outcomes.synchronized(outcomes += outcome): Unit
      if (outcome.isInstanceOf[RankOutcome.Failed]) grace.onFailed()
    }
    sc.setLocalProperty(TrainingRun.Description, s"Kindling ${plan.run}: train")
    try {
      val task = new RankTask(current, broadcast)
      val ranks = new PlacedRDD(sc, placement.ranks).barrier().mapPartitions(_ => Iterator.single(task.run()))
      sc.runJob(
        ranks,
        (_: TaskContext, rank: Iterator[RankOutcome]) => rank.next(),
        ranks.partitions.indices,
        (_: Int, outcome: RankOutcome) => add(outcome)
      )
      outcomes.synchronized(outcomes.sortBy(_.rank).toSeq)
    } catch {
      case NonFatal(e) =>
        rendezvous.failure.foreach(reason => throw new TrainingException(reason, e))
        // That the job was cancelled for lack of an answer says nothing: the failure before it does.
        val job = if (grace.exceeded) None else Some(e)
        judge(outcomes.synchronized(outcomes.sortBy(_.rank).toSeq), job): Unit
        throw e
    }
  }

  private def receive(progress: Progress, rendezvous: Rendezvous)(message: Array[Byte]): Unit =
    try {
      val event = Json.parse(new String(message, UTF_8))
      event.path("type").asText match {
        case "progress" =>
          rendezvous.onTraining()
          progress.progress(event)
        case "epoch" =>
          rendezvous.onTraining()
          progress.epoch(event)
        case "started" => rendezvous.onStarted(event.path("rank").asInt)
        case "connected" => rendezvous.onConnected(event.path("rank").asInt)
        case other => log.debug("an event of the unknown type {} is ignored", other)
      }
    } catch {
      // This runs on a thread of Spark's RPC, which a broken message must not harm.
      case NonFatal(e) => log.debug("an event could not be read", e)
    }

  /** The result, or the failure that came first: one that is not merely the echo of another rank's. */
  private def judge(outcomes: Seq[RankOutcome], job: Option[Throwable]): TrainingResult = {
    val failed = outcomes.collect { case failure: RankOutcome.Failed => failure }
    failed.find(!_.secondary).foreach(failure => throw Failures.ofRank(failure, job))
    job.foreach(e => throw Failures.ofTrainingJob(e, failed.headOption))
    failed.headOption.foreach(failure => throw Failures.ofRank(failure, None))
    val finished = outcomes.collect { case done: RankOutcome.Finished => done }
    finished.find(_.weights.isDefined) match {
      case Some(RankOutcome.Finished(_, _, _, report, Some(weights))) if finished.size == plan.world =>
        val reports = finished.map(rank => Json.parse(rank.report))
        def moved(field: String): Long = reports.map(Json.required(_, field).asLong).sum
        val processes = finished.map(_.process).distinct.size
        TrainingResult(report, weights, processes, moved("fetchedRows"), moved("fetchedBytes"))
      case _ => throw new TrainingException(s"only ${finished.size} of ${plan.world} ranks came back with a result")
    }
  }
}

private[kindling] object TrainingJob {
  private val log = LoggerFactory.getLogger("kindling.TrainingJob")
  private val NoticePolls = 30
  private val NoticePollMs = 100L
}
