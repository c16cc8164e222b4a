package kindling.internal

import org.apache.spark.SparkConf
import org.slf4j.LoggerFactory

/**
 * What a run keeps outside the JVM heap on the fullest executor, against what the container allows there. A container that goes over
 * is killed without a word that points here, so it is said before the start.
 */
private[kindling] final case class MemoryEstimate(shardBytes: Long, rankBytes: Long, ranks: Int) {
  def total: Long = shardBytes + rankBytes * ranks
}

private[kindling] object MemoryEstimate {
  private val log = LoggerFactory.getLogger("kindling.MemoryEstimate")
  private val MiB = 1L << 20

  def of(
      program: ProgramDescription,
      optimizer: Optimizer,
      placement: Placement,
      shards: Seq[IngestOutcome.Stored]
  ): MemoryEstimate = {
    // Weights and buffers, and for what is trained its gradient and the optimizer's state, all as float32 at least.
    val rankBytes = program.stateBytes + program.trainableElements * 4 * (1 + optimizer.stateCopies)
    val shardBytes = shards.groupBy(_.place).map { case (place, held) => place -> held.map(_.report.bytes).sum }
    val ranks = placement.ranks.groupBy(identity).map { case (place, held) => place -> held.size }
    (shardBytes.keySet ++ ranks.keySet).toSeq
      .map(place => MemoryEstimate(shardBytes.getOrElse(place, 0L), rankBytes, ranks.getOrElse(place, 0)))
      .maxBy(_.total)
  }

  /** An error where the cluster manager enforces a limit (YARN, Kubernetes), a log line elsewhere. */
  def check(estimate: MemoryEstimate, master: String, conf: SparkConf): Unit = {
    val needed = toMiB(estimate.total)
    val allowed = overheadMiB(conf)
    val enforced = master.startsWith("yarn") || master.startsWith("k8s")
    val line =
      s"the fullest executor needs about $needed MiB outside the heap (${toMiB(estimate.shardBytes)} MiB of rows, " +
        s"${estimate.ranks} ranks of ${toMiB(estimate.rankBytes)} MiB)"
    if (enforced && needed > allowed)
      throw new IllegalArgumentException(
        s"$line, but its memory overhead is $allowed MiB: set spark.executor.memoryOverhead to ${needed + 512}m or more"
      )
    log.info(line)
  }

  /** As Spark's resource managers compute it. */
  private[internal] def overheadMiB(conf: SparkConf): Long =
    conf.getOption("spark.executor.memoryOverhead") match {
      case Some(_) => conf.getSizeAsMb("spark.executor.memoryOverhead")
      case None =>
        val factor = conf.getDouble("spark.executor.memoryOverheadFactor", 0.1)
        val least = conf.getSizeAsMb("spark.executor.minMemoryOverhead", "384m")
        math.max((conf.getSizeAsMb("spark.executor.memory", "1g") * factor).toLong, least)
    }

  private def toMiB(bytes: Long): Long = (bytes + MiB - 1) / MiB
}
