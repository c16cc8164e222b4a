package kindling.internal

import java.nio.charset.StandardCharsets.UTF_8

import kindling.TrainingException
import org.apache.spark.{SparkContext, TaskContext}
import org.apache.spark.broadcast.Broadcast
import org.apache.spark.ml.kindling.EventChannel
import org.slf4j.LoggerFactory

import scala.collection.mutable
import scala.util.control.NonFatal

/** What the ranks bring back. */
private[kindling] final case class TrainingResult(report: Array[Byte], weights: Array[Byte], processes: Int)

/**
 * The barrier job of a run. It waits for slots, sends one task per rank to the executors that hold the rows, shows their progress,
 * and judges how they ended.
 *
 * Spark treats locations as wishes; ranks that landed away from the data start nothing, and the job is run again.
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
    val result = attempts(broadcast, 0)
    // Only after success: tasks of a cancelled job may still be starting, and would stumble over it. Spark's cleaner takes it then.
    broadcast.destroy()
    result
  }

  @annotation.tailrec
  private def attempts(broadcast: Broadcast[Array[Byte]], attempt: Int): TrainingResult = {
    val outcomes = oneAttempt(broadcast, attempt)
    val misplaced = outcomes.collect { case outcome: RankOutcome.Misplaced => outcome }
    if (misplaced.isEmpty || misplaced.size < outcomes.size) judge(outcomes, None)
    else if (attempt + 1 < MaxPlacements) {
      log.warn(s"run ${plan.run}: the ranks landed away from the executors that hold the data, starting them again")
      attempts(broadcast, attempt + 1)
    } else
      throw new TrainingException(
        s"${misplaced.head.uncovered.size} executors hold rows but got no rank in $MaxPlacements tries; ranks ran on " +
          s"${outcomes.map(_.place).distinct.mkString(", ")}: set numWorkers to the number of task slots " +
          "(executors x spark.executor.cores / spark.task.cpus), so that every executor gets one"
      )
  }

  private def oneAttempt(broadcast: Broadcast[Array[Byte]], attempt: Int): Seq[RankOutcome] = {
    val settings = plan.settings
    val current = plan.copyFor(attempt)
    val reservation = slots.reserve(plan.world, settings.slotTimeoutMs)
    val progress = new Progress(System.err, Progress.mode(sc.getConf, System.console() != null), settings.maxEpochs)
    val rendezvous =
      new Rendezvous(plan.run, plan.world, settings.rendezvousTimeoutMs, reason => sc.cancelJobsWithTag(tag, reason))
    val channel = EventChannel.open(current.channel)(receive(progress, rendezvous))
    val outcomes = mutable.ArrayBuffer.empty[RankOutcome]
    sc.setLocalProperty(TrainingRun.Description, s"Kindling ${plan.run}: train")
    try {
      val task = new RankTask(current, broadcast)
      val ranks = new PlacedRDD(sc, placement.ranks).barrier().mapPartitions(_ => Iterator.single(task.run()))
      sc.runJob(
        ranks,
        (_: TaskContext, rank: Iterator[RankOutcome]) => rank.next(),
        ranks.partitions.indices,
        (_: Int, outcome: RankOutcome) => outcomes.synchronized(outcomes += outcome): Unit
      )
      outcomes.synchronized(outcomes.sortBy(_.rank).toSeq)
    } catch {
      case NonFatal(e) =>
        rendezvous.failure.foreach(reason => throw new TrainingException(reason, e))
        judge(outcomes.synchronized(outcomes.sortBy(_.rank).toSeq), Some(e)): Unit
        throw e
    } finally {
      channel.close()
      rendezvous.close()
      progress.close()
      reservation.close()
    }
  }

  private def receive(progress: Progress, rendezvous: Rendezvous)(message: Array[Byte]): Unit =
    try {
      val event = Json.parse(new String(message, UTF_8))
      event.path("type").asText match {
        case "progress" => progress.progress(event)
        case "epoch" => progress.epoch(event)
        case "arrived" => rendezvous.onArrived(event.path("rank").asInt)
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
        TrainingResult(report, weights, finished.map(_.process).distinct.size)
      case _ => throw new TrainingException(s"only ${finished.size} of ${plan.world} ranks came back with a result")
    }
  }
}

private[kindling] object TrainingJob {
  private val log = LoggerFactory.getLogger("kindling.TrainingJob")
  private val MaxPlacements = 5
}
