package kindling.internal

import org.apache.spark.SparkConf
import org.slf4j.LoggerFactory

/**
 * What a run keeps outside the JVM heap on the fullest executor, against what the container allows there. A container that goes over
 * is killed without a word that points here, so it is said before the start. `rankBytes`, `batchBytes` ([[BatchMemory]]) and
 * `sharedBytes`, the memory that it shares with other ranks of its host, count once for each of the `ranks`; `resultBytes` are the
 * trained weights on their way to the driver, which rank 0 writes out.
 *
 * What forward keeps for backward is not in it: it depends on the program's operators. Nor is the memory of GPUs.
 */
private[kindling] final case class MemoryEstimate(
    shardBytes: Long,
    rankBytes: Long,
    ranks: Int,
    sharedBytes: Long = 0,
    batchBytes: Long = 0,
    resultBytes: Long = 0
) {
  def total: Long = shardBytes + (rankBytes + batchBytes + sharedBytes) * ranks + resultBytes
}

/**
 * What a rank keeps beside its network and its rows while it trains: batches, of which one trains while two are gathered, and what
 * `auc` needs of all validation rows.
 */
private[kindling] object BatchMemory {

  /** As in the native library's loader. */
  private final val Rooms = 3

  /** Bytes of a score and its weight. */
  private final val ScoreBytes = 16L

  /** For a run whose rows are known. */
  def of(settings: Settings, layout: FeatureLayout, rows: Long, validationRows: Long): Long =
    batches(settings, layout, rows) + scores(settings, layout, validationRows)

  /** The most that batches can take, whatever the rows. */
  def most(settings: Settings, layout: FeatureLayout): Long = batches(settings, layout, Long.MaxValue)

  private def batches(settings: Settings, layout: FeatureLayout, rows: Long): Long = {
    val share = parts(math.min(settings.batchSize.toLong, rows), settings.numWorkers.toLong)
    // The share of a batch may be a row more than even.
    Rooms * (parts(share, settings.step.accumulationSteps.toLong) + 1) * layout.rowBytes
  }

  /** A rank's own scores while it sorts and sends them; and those of all, received, put together and merged. */
  private def scores(settings: Settings, layout: FeatureLayout, validationRows: Long): Long =
    if (!settings.measures.comparesScores) 0L
    else {
      val answers = layout.columns.find(_.role == Role.Label).fold(1L)(_.width.toLong)
      ScoreBytes * answers * (3 * validationRows + 2 * parts(validationRows, settings.numWorkers.toLong))
    }

  private def parts(whole: Long, count: Long): Long = (whole + count - 1) / count
}

private[kindling] object MemoryEstimate {
  private val log = LoggerFactory.getLogger("kindling.MemoryEstimate")
  private val MiB = 1L << 20

  /**
   * `sharedBytesPerPeer`: what a rank shares with each other one of its host, unless all are in one process. `fetched`: by rank, the
   * rows that come to it from elsewhere. `most`: what all rows of an executor may take, if that is known.
   */
  def of(
      program: ProgramDescription,
      optimizer: Optimizer,
      placement: Placement,
      shards: Seq[IngestOutcome.Stored],
      sharedBytesPerPeer: Long,
      batchBytes: Long = 0,
      fetched: Seq[Long] = Nil,
      most: Option[Long] = None
  ): MemoryEstimate = {
    val rankBytes = bytesOfRank(program, optimizer)
    // What lies in files is the system's to keep in memory or not.
    val shardBytes = shards.groupBy(_.place).map { case (place, held) => place -> held.map(_.report.residentBytes).sum }
    val rows = shards.map(held => held.report.rows + held.report.validationRows).sum
    val rowBytes = if (rows == 0) 0.0 else shards.map(_.report.bytes).sum.toDouble / rows
    val fetchedBytes = placement.ranks.zip(fetched).groupMapReduce(_._1)(_._2 * rowBytes)(_ + _)
    val ranks = placement.ranks.groupBy(identity).map { case (place, held) => place -> held.size }
    val onHost = placement.ranks.groupBy(_.host).map { case (host, held) => host -> held.size }
    // Who gives rows away keeps them, so what comes is added to what is there, up to where rows go to files.
    def resident(place: Place): Long = {
      val bytes = shardBytes.getOrElse(place, 0L) + fetchedBytes.getOrElse(place, 0.0).toLong
      most.fold(bytes)(math.min(bytes, _))
    }
    def sharedBytes(place: Place): Long =
      if (ranks.size == 1) 0L else sharedBytesPerPeer * math.max(0, onHost.getOrElse(place.host, 0) - 1)
    (shardBytes.keySet ++ ranks.keySet).toSeq
      .map { place =>
        val result = if (placement.ranks.headOption.contains(place)) program.stateBytes else 0L
        val own = ranks.getOrElse(place, 0)
        MemoryEstimate(resident(place), rankBytes, own, sharedBytes(place), batchBytes, result)
      }
      .maxBy(_.total)
  }

  /**
   * The least that is needed wherever the rows will lie: the ranks alone, spread evenly. What they share is not known before they
   * have their hosts.
   */
  def ofRanks(program: ProgramDescription, optimizer: Optimizer, world: Int, executors: Int): MemoryEstimate = {
    val places = math.max(1, executors)
    val ranks = (world + places - 1) / places
    MemoryEstimate(0, bytesOfRank(program, optimizer), ranks, resultBytes = program.stateBytes)
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

  private def described(estimate: MemoryEstimate): String = {
    def and(bytes: Long, what: String) = if (bytes == 0) "" else s", ${toMiB(bytes)} MiB $what"
    s"the fullest executor needs about ${toMiB(estimate.total)} MiB outside the heap, beside what forward keeps for backward " +
      s"(${toMiB(estimate.shardBytes)} MiB of rows, ${estimate.ranks} ranks of ${toMiB(estimate.rankBytes)} MiB" +
      and(estimate.batchBytes, "each of batches and answers") +
      and(estimate.sharedBytes, "each that they share with the other ranks of their host") +
      and(estimate.resultBytes, "of trained weights for the driver") + ")"
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
