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
    val rankBytes = bytesOfRank(program, optimizer)
    val shardBytes = shards.groupBy(_.place).map { case (place, held) => place -> held.map(_.report.bytes).sum }
    val ranks = placement.ranks.groupBy(identity).map { case (place, held) => place -> held.size }
    (shardBytes.keySet ++ ranks.keySet).toSeq
      .map(place => MemoryEstimate(shardBytes.getOrElse(place, 0L), rankBytes, ranks.getOrElse(place, 0)))
      .maxBy(_.total)
  }

  /** The least that is needed wherever the rows will lie: the ranks alone, spread evenly. */
  def ofRanks(program: ProgramDescription, optimizer: Optimizer, world: Int, executors: Int): MemoryEstimate = {
    val places = math.max(1, executors)
    MemoryEstimate(0, bytesOfRank(program, optimizer), (world + places - 1) / places)
  }

  /** Weights and buffers, and for what is trained its gradient and the optimizer's state. */
  private def bytesOfRank(program: ProgramDescription, optimizer: Optimizer): Long =
    program.stateBytes + program.trainableElements * elementBytes(program) * (1 + optimizer.stateCopies)

  /** From float32 to float64; the mean over the state lies between the two where a program has both. */
  private def elementBytes(program: ProgramDescription): Long = {
    val mean = if (program.elements > 0) (program.stateBytes + program.elements - 1) / program.elements else 0L
    math.min(8L, math.max(4L, mean))
  }

  /** [[require]], and a log line of what is needed. */
  def check(estimate: MemoryEstimate, master: String, conf: SparkConf): Unit = {
    require(estimate, master, conf)
    val allowed = overheadMiB(conf)
    // In local mode there is no executor's container, so its overhead says nothing.
    if (master.startsWith("local")) log.info(described(estimate))
    else {
      val line = s"${described(estimate)}; its memory overhead is $allowed MiB (spark.executor.memoryOverhead)"
      if (toMiB(estimate.total) > allowed) log.warn(line) else log.info(line)
    }
  }

  /** An error where the cluster manager enforces a limit (YARN, Kubernetes). */
  def require(estimate: MemoryEstimate, master: String, conf: SparkConf): Unit = {
    val needed = toMiB(estimate.total)
    val allowed = overheadMiB(conf)
    val enforced = master.startsWith("yarn") || master.startsWith("k8s")
    if (enforced && needed > allowed)
      throw new IllegalArgumentException(
        s"${described(estimate)}, but its memory overhead is $allowed MiB: set spark.executor.memoryOverhead to ${needed + 512}m or more"
      )
  }

  private def described(estimate: MemoryEstimate): String =
    s"the fullest executor needs about ${toMiB(estimate.total)} MiB outside the heap (${toMiB(estimate.shardBytes)} MiB of rows, " +
      s"${estimate.ranks} ranks of ${toMiB(estimate.rankBytes)} MiB)"

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
