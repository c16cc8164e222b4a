package kindling.internal

import org.apache.spark.SparkConf
import org.slf4j.LoggerFactory

/**
 * What a run keeps outside the JVM heap on the fullest executor, against what the container allows there. A container that goes over
 * is killed without a word that points here, so it is said before the start. `rankBytes` and `sharedBytes`, the memory that it shares
 * with other ranks of its host, count once for each of the `ranks`.
 */
private[kindling] final case class MemoryEstimate(
    shardBytes: Long,
    rankBytes: Long,
    ranks: Int,
    sharedBytes: Long = 0
) {
  def total: Long = shardBytes + (rankBytes + sharedBytes) * ranks
}

private[kindling] object MemoryEstimate {
  private val log = LoggerFactory.getLogger("kindling.MemoryEstimate")
  private val MiB = 1L << 20

  /** `sharedBytesPerPeer`: what a rank shares with each other one of its host, unless all are in one process. */
  def of(
      program: ProgramDescription,
      optimizer: Optimizer,
      placement: Placement,
      shards: Seq[IngestOutcome.Stored],
      sharedBytesPerPeer: Long
  ): MemoryEstimate = {
    val rankBytes = bytesOfRank(program, optimizer)
    // What lies in files is the system's to keep in memory or not.
    val shardBytes = shards.groupBy(_.place).map { case (place, held) => place -> held.map(_.report.residentBytes).sum }
    val ranks = placement.ranks.groupBy(identity).map { case (place, held) => place -> held.size }
    val onHost = placement.ranks.groupBy(_.host).map { case (host, held) => host -> held.size }
    // What ranks lack of their share, they fetch.
    def share(place: Place): Long = shardBytes.values.sum / placement.ranks.size * ranks.getOrElse(place, 0)
    def sharedBytes(place: Place): Long =
      if (ranks.size == 1) 0L else sharedBytesPerPeer * math.max(0, onHost.getOrElse(place.host, 0) - 1)
    (shardBytes.keySet ++ ranks.keySet).toSeq
      .map { place =>
        val rowBytes = math.max(shardBytes.getOrElse(place, 0L), share(place))
        MemoryEstimate(rowBytes, rankBytes, ranks.getOrElse(place, 0), sharedBytes(place))
      }
      .maxBy(_.total)
  }

  /**
   * The least that is needed wherever the rows will lie: the ranks alone, spread evenly. What they share is not known before they
   * have their hosts.
   */
  def ofRanks(program: ProgramDescription, optimizer: Optimizer, world: Int, executors: Int): MemoryEstimate = {
    val places = math.max(1, executors)
    MemoryEstimate(0, bytesOfRank(program, optimizer), (world + places - 1) / places)
  }

  /** Weights and buffers, and for what is trained its gradient, the optimizer's state, and the float32 master of half precision. */
  private def bytesOfRank(program: ProgramDescription, optimizer: Optimizer): Long = {
    val mean = if (program.elements > 0) (program.stateBytes + program.elements - 1) / program.elements else 0L
    // From float32 to float64; the mean over the state lies between the two where a program has both.
    val each = math.min(8L, math.max(4L, mean))
    val masters = if (mean < 4) 1 else 0
    program.stateBytes + program.trainableElements * each * (1 + masters + optimizer.stateCopies)
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
    if (enforced(master) && needed > allowed)
      throw new IllegalArgumentException(
        s"${described(estimate)}, but its memory overhead is $allowed MiB: set spark.executor.memoryOverhead to ${needed + 512}m or more" +
          (if (estimate.shardBytes > 0) ", or shardMemory to less, so that more rows go to disk" else "")
      )
  }

  /** Whether the cluster manager ends an executor that uses more than its container. */
  def enforced(master: String): Boolean = master.startsWith("yarn") || master.startsWith("k8s")

  private def described(estimate: MemoryEstimate): String =
    s"the fullest executor needs about ${toMiB(estimate.total)} MiB outside the heap (${toMiB(estimate.shardBytes)} MiB of rows, " +
      s"${estimate.ranks} ranks of ${toMiB(estimate.rankBytes)} MiB${shared(estimate)})"

  private def shared(estimate: MemoryEstimate): String =
    if (estimate.sharedBytes == 0) ""
    else s" and ${toMiB(estimate.sharedBytes)} MiB each that they share with the other ranks of their host"

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
