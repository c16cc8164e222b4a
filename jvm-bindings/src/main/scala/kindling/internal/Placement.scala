package kindling.internal

import org.apache.spark.{Partition, SparkContext, TaskContext}
import org.apache.spark.ml.kindling.Cluster
import org.apache.spark.rdd.RDD

/**
 * Which executor each rank should run on, and which executors hold the rows. A rank reads the rows that lie beside it and fetches
 * the others, so the executors with the most rows come first, and equal shares balance best.
 */
private[kindling] final case class Placement(ranks: Seq[Place], holders: Seq[Place]) {
  def maxPerExecutor: Int = ranks.groupBy(identity).values.map(_.size).max

  /** The holders whose executors are not among the registered ones any more. */
  def lost(registered: Set[String]): Seq[Place] = holders.filterNot(place => registered(place.executor))
}

private[kindling] object Placement {

  /**
   * Spreads `world` ranks evenly over the executors that hold rows, or over the `world` of them that hold the most. Those of one
   * host follow each other: neighbours in the ring then share memory, and only one link in and one out of each host crosses the
   * network.
   */
  def spread(shards: Seq[IngestOutcome.Stored], world: Int): Placement = {
    def rows(held: Seq[IngestOutcome.Stored]): Long = held.map(s => s.report.rows + s.report.validationRows).sum
    val held = shards.groupBy(_.place).map { case (place, of) => place -> rows(of) }.filter(_._2 > 0)
    val holders = held.keys.toSeq.sorted
    val places = holders.sortBy(place => -held(place)).take(world).sorted
    Placement((0 until world).map(rank => places((rank.toLong * places.size / world).toInt)), holders)
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

/**
 * The partitions of `parent`, each with a wish for an executor where Spark has none: neighbours to the same one. Ranks own ranges of
 * neighbouring rows, so what was read beside a rank need not be fetched by it. Where the data lies (blocks of files, cached
 * partitions) stays the first wish.
 */
private[kindling] final class NeighboursRDD[T: scala.reflect.ClassTag](
    parent: RDD[T],
    @transient executors: Seq[Place]
) extends RDD[T](parent) {
  override protected def getPartitions: Array[Partition] = parent.partitions

  override protected def getPreferredLocations(split: Partition): Seq[String] =
    if (executors.isEmpty || Cluster.hasPreferredLocations(parent, split.index)) Nil
    else Seq(executors((split.index.toLong * executors.size / parent.partitions.length).toInt).location)

  override def compute(split: Partition, context: TaskContext): Iterator[T] = parent.iterator(split, context)
}
