package kindling.internal

import org.apache.spark.{Partition, SparkContext, TaskContext}
import org.apache.spark.rdd.RDD

/**
 * Which executor each rank should run on. Ranks read the rows that lie in their own process, so every process with rows needs at
 * least one rank, and equal shares balance best.
 */
private[kindling] final case class Placement(ranks: Seq[Place]) {
  def maxPerExecutor: Int = ranks.groupBy(identity).values.map(_.size).max

  /** The places whose executors are not among the registered ones any more. */
  def lost(registered: Set[String]): Seq[Place] = ranks.distinct.filterNot(place => registered(place.executor))
}

private[kindling] object Placement {

  /** Spreads `world` ranks evenly over the executors that hold rows. */
  def spread(shards: Seq[IngestOutcome.Stored], world: Int): Placement = {
    val withRows = shards.filter(s => s.report.rows + s.report.validationRows > 0)
    val processes = withRows.map(_.report.process).distinct
    if (processes.size > world)
      throw new IllegalArgumentException(
        s"the data was read by ${processes.size} executors, but numWorkers is $world and each of them needs a rank to read its " +
          s"rows: set numWorkers to ${processes.size} or more, or coalesce the data to fewer partitions"
      )
    val places = withRows.map(_.place).distinct.sortBy(place => (place.executor.length, place.executor))
    Placement((0 until world).map(rank => places((rank.toLong * places.size / world).toInt)))
  }
}

/**
 * An RDD of empty partitions, each with a place where it should run: the way to send a task to an executor. Spark treats it as a
 * wish and waits `spark.locality.wait` for it.
 */
private[kindling] final class PlacedRDD(@transient sc: SparkContext, places: Seq[Place]) extends RDD[Int](sc, Nil) {
  override protected def getPartitions: Array[Partition] = Array.tabulate(places.size)(i => PlacedRDD.Slot(i))

  override protected def getPreferredLocations(split: Partition): Seq[String] = Seq(places(split.index).location)

  override def compute(split: Partition, context: TaskContext): Iterator[Int] = Iterator.single(split.index)
}

private[kindling] object PlacedRDD {
  final case class Slot(index: Int) extends Partition
}
