package kindling.internal

import org.apache.spark.{SparkContext, TaskContext}
import org.apache.spark.rdd.RDD
import org.apache.spark.sql.{classic, functions, Column, Dataset, Row}
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.vectorized.ColumnarBatch
import org.slf4j.LoggerFactory

import scala.collection.mutable
import scala.reflect.ClassTag
import scala.util.control.NonFatal

/** What one partition's task gives back: a sealed shard, or the sentence about a row that ends the run. */
private[kindling] sealed trait IngestOutcome extends Serializable

private[kindling] object IngestOutcome {
  final case class Stored(report: ShardReport, skipped: Long, place: Place) extends IngestOutcome
  final case class BadRow(partition: Int, sentence: String) extends IngestOutcome
}

/**
 * The ingest job: every partition of a DataFrame becomes one shard in the process where its task ran. It is an ordinary Spark job,
 * with as many partitions as the data has, without a shuffle, and with Spark's own retries. A task that fails drops its shard.
 *
 * `firstPartition` is the number under which the first partition is kept: a run that reads two DataFrames numbers on.
 *
 * A row that cannot be used is a result and no failure: it is not tried four times, and the sentence arrives as it is.
 *
 * Rows are read by the fastest reader that the plan allows ([[RowSource]]); all of them give the same rows in the same order.
 */
private[kindling] final class Ingest(
    run: String,
    layout: FeatureLayout,
    handleInvalid: HandleInvalid,
    validation: Validation,
    seed: Long,
    loading: NativeLoading,
    runsOver: Seq[String],
    memory: ShardMemory,
    serving: Option[Serving],
    firstPartition: Int = 0
) extends Serializable {

  /** Reads the whole of `data`. `cancel` ends this run's jobs; it is called when the first bad row is known. */
  def read(data: Dataset[_], cancel: () => Unit): Seq[IngestOutcome.Stored] = {
    val source = RowSource.of(data, layout)
    Ingest.log.info(s"run $run reads ${source.text}")
    val outcomes = mutable.ArrayBuffer.empty[IngestOutcome]
    val collect = (_: Int, outcome: IngestOutcome) => {
      val first = outcomes.synchronized {
        outcomes += outcome
        outcome.isInstanceOf[IngestOutcome.BadRow] && outcomes.count(_.isInstanceOf[IngestOutcome.BadRow]) == 1
      }
      if (first) cancel()
    }
    try run(data.sparkSession.sparkContext, source, collect)
    catch {
      // The job was cancelled because of the bad row, or failed otherwise after it: the row is the cause.
      case NonFatal(e) if !outcomes.synchronized(outcomes.exists(_.isInstanceOf[IngestOutcome.BadRow])) => throw e
      case NonFatal(_) =>
    }
    val all = outcomes.synchronized(outcomes.toSeq)
    all.collect { case bad: IngestOutcome.BadRow => bad }.minByOption(_.partition).foreach { bad =>
      throw new IllegalArgumentException(bad.sentence)
    }
    all.collect { case stored: IngestOutcome.Stored => stored }.sortBy(_.report.partition)
  }

  private def run(sc: SparkContext, source: RowSource, collect: (Int, IngestOutcome) => Unit): Unit = {
    val ingest = this
    source match {
      case RowSource.Rows(rows, _) =>
        val rdd = Ingest.beside(rows)
        val task = (context: TaskContext, rows: Iterator[InternalRow]) =>
          ingest.partition(context)((writer, split) => new RowLoop(rows, writer, split))
        sc.runJob(rdd, task, rdd.partitions.indices, collect)
      case RowSource.Batches(batches, ordinals, _, filter) =>
        val rdd = Ingest.beside(batches)
        val task = (context: TaskContext, batches: Iterator[ColumnarBatch]) =>
          ingest.partition(context)((writer, split) =>
            new BatchLoop(
              batches,
              new BatchReader(layout, handleInvalid, ordinals, writer, split, filter.map(_.open(context.partitionId())))
            )
          )
        sc.runJob(rdd, task, rdd.partitions.indices, collect)
    }
  }

  private def partition(context: TaskContext)(open: (ShardWriter, ValidationSplit) => PartitionLoop): IngestOutcome = {
    NativeLibrary.load(loading)
    LocalRuns.forget(runsOver)
    val partition = context.partitionId()
    val writer =
      ShardWriter.open(run, firstPartition + partition, context.taskAttemptId(), layout, handleInvalid, memory)
    // The listener also runs when the task is killed, between two rows or after the last.
    context.addTaskCompletionListener[Unit] { ended =>
      if (ended.isFailed() || ended.isInterrupted()) writer.discard() else writer.close()
    }: Unit
    val loop = open(writer, ValidationSplit.of(validation, layout, seed, partition))
    try {
      loop.run()
      val report = writer.seal()
      val served = if (report.rows + report.validationRows > 0) serving.map(_.endpoint(run)) else None
      IngestOutcome.Stored(report.copy(endpoint = served), loop.skipped, Place.here())
    } catch {
      case problem: RowProblem =>
        val where = if (validation == Validation.All) "the validation DataFrame, " else ""
        IngestOutcome.BadRow(partition, where + problem.at(partition, loop.index).getMessage)
    }
  }
}

/** Reads one partition to its end. A [[RowProblem]] is thrown with `index` at its row. */
private[kindling] sealed trait PartitionLoop {
  def run(): Unit
  def index: Long
  def skipped: Long
}

private final class RowLoop(rows: Iterator[InternalRow], writer: ShardWriter, split: ValidationSplit)
    extends PartitionLoop {
  var index = 0L
  var skipped = 0L

  override def run(): Unit =
    while (rows.hasNext) {
      val row = rows.next()
      if (!writer.write(row, split.of(row, index))) skipped += 1
      index += 1
    }
}

private final class BatchLoop(batches: Iterator[ColumnarBatch], reader: BatchReader) extends PartitionLoop {
  override def run(): Unit = batches.foreach(reader.read)
  override def index: Long = reader.index
  override def skipped: Long = reader.skipped
}

private[kindling] object Ingest {

  private val log = LoggerFactory.getLogger("kindling.Ingest")

  /** The data projected to the layout's columns, as Spark's own rows. */
  def rows(data: Dataset[_], layout: FeatureLayout): RDD[InternalRow] = select(data, layout).queryExecution.toRdd

  def select(data: Dataset[_], layout: FeatureLayout): classic.DataFrame =
    data.select(columns(layout): _*) match {
      case dataset: classic.Dataset[Row] => dataset
      case other => throw new IllegalArgumentException(
          s"Kindling trains on a DataFrame of the Spark server, not on a ${other.getClass.getName}"
        )
    }

  /** Neighbouring partitions on the same executor, as far as it is open where they are read. */
  private def beside[T: ClassTag](partitions: RDD[T]): RDD[T] = {
    val executors = Place.all(partitions.sparkContext)
    if (executors.size < 2) partitions
    else new NeighboursRDD(partitions, executors.sorted)
  }

  /** Quoted, for a name may hold a dot. */
  def columns(layout: FeatureLayout): Seq[Column] = layout.selected.fieldNames.toSeq.map(column)

  def column(name: String): Column = functions.col("`" + name.replace("`", "``") + "`")
}
