package kindling.internal

import org.apache.spark.TaskContext
import org.apache.spark.ml.kindling.TaskEnd
import org.apache.spark.rdd.RDD
import org.apache.spark.sql.{classic, functions, AnalysisException, Column, Dataset, Row}
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.vectorized.ColumnarBatch
import org.apache.spark.storage.StorageLevel
import org.slf4j.LoggerFactory

import scala.collection.mutable
import scala.reflect.ClassTag
import scala.util.control.NonFatal

/** What one partition's task gives back: a sealed shard, or the sentence about a row that ends the run. */
private[kindling] sealed trait IngestOutcome extends Serializable

private[kindling] object IngestOutcome {
  final case class Stored(report: ShardReport, skipped: Long, place: Place) extends IngestOutcome {
    def holdsRows: Boolean = report.rows + report.validationRows > 0
  }
  final case class BadRow(partition: Int, sentence: String) extends IngestOutcome
}

/**
 * The ingest job: every partition of a DataFrame becomes one shard in the process where its task ran. It is an ordinary Spark job,
 * with as many partitions as the data has, without a shuffle (unless `repartition` asks for one), and with Spark's own retries. A
 * task that fails drops its shard. Of attempts that run side by side (speculation) the driver lets one keep its shard.
 *
 * The job computes an RDD of small handles that is persisted beside the rows: whoever computes one again gets the handle, and rows
 * are read anew only where the executor is gone that held both.
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
    val firstPartition: Int = 0,
    repartition: Option[Int] = None
) extends Serializable {

  /** Reads the whole of `data`. `cancel` ends this run's jobs; it is called when the first bad row is known. */
  def read(data: Dataset[_], progress: IngestProgress, cancel: () => Unit): Ingested = {
    val frame = repartition.fold[Dataset[_]](data)(Ingest.select(data, layout).repartition(_))
    val source = RowSource.of(frame, layout)
    Ingest.log.info(s"run $run reads ${source.text}")
    val reading = shards(source)
    read(reading, reading.partitions.indices, progress, cancel)
  }

  /** Reads some of the partitions. */
  def read(
      reading: RDD[IngestOutcome],
      partitions: Seq[Int],
      progress: IngestProgress,
      cancel: () => Unit
  ): Ingested = {
    // An RDD of its own each time: handles may outlive their executor, as Spark moves cached blocks of one that it decommissions.
    // In memory only: with a level that may use disks, Spark fails the task where one of its local directories is lost.
    val handles = reading.mapPartitions(identity, preservesPartitioning = true)
      .setName(s"Kindling: where the rows of $run are").persist(StorageLevel.MEMORY_ONLY)
    try Ingested(this, reading, Seq(handles), outcomes(handles, partitions, progress, cancel))
    catch {
      case e: Throwable =>
        handles.unpersist(): Unit
        throw e
    }
  }

  private def outcomes(
      handles: RDD[IngestOutcome],
      partitions: Seq[Int],
      progress: IngestProgress,
      cancel: () => Unit
  ): Seq[IngestOutcome.Stored] = {
    progress.begin(partitions.size)
    val outcomes = mutable.ArrayBuffer.empty[IngestOutcome]
    val collect = (_: Int, outcome: IngestOutcome) => {
      outcome match {
        case stored: IngestOutcome.Stored => progress.stored(stored.report)
        case _: IngestOutcome.BadRow =>
      }
      val first = outcomes.synchronized {
        outcomes += outcome
        outcome.isInstanceOf[IngestOutcome.BadRow] && outcomes.count(_.isInstanceOf[IngestOutcome.BadRow]) == 1
      }
      if (first) cancel()
    }
    val handle = (_: TaskContext, outcome: Iterator[IngestOutcome]) => outcome.next()
    try handles.sparkContext.runJob(handles, handle, partitions, collect)
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

  private def shards(source: RowSource): RDD[IngestOutcome] = {
    val ingest = this
    source match {
      case RowSource.Rows(rows, _) =>
        Ingest.beside(rows).mapPartitions(rows => ingest.partition((writer, split) => new RowLoop(rows, writer, split)))
      case RowSource.Batches(batches, ordinals, _, filter) =>
        Ingest.beside(batches).mapPartitions(batches =>
          ingest.partition { (writer, split) =>
            val open = filter.map(_.open(TaskContext.getPartitionId()))
            new BatchLoop(batches, new BatchReader(layout, handleInvalid, ordinals, writer, split, open))
          }
        )
    }
  }

  private def partition(open: (ShardWriter, ValidationSplit) => PartitionLoop): Iterator[IngestOutcome] = {
    val context = TaskContext.get()
    NativeLibrary.load(loading)
    LocalRuns.forget(runsOver)
    val (partition, attempt) = (context.partitionId(), context.taskAttemptId())
    val told = new IngestTold(Ingest.channel(run), firstPartition + partition, layout.rowBytes, context)
    val writer = ShardWriter.open(run, firstPartition + partition, attempt, layout, handleInvalid, memory, told)
    // The listener also runs when the task is killed. A sealed shard stays: its handle may be known to others by then.
    context.addTaskCompletionListener[Unit](_ => writer.close()): Unit
    val loop = open(writer, ValidationSplit.of(validation, layout, seed, partition))
    val outcome =
      try {
        loop.run()
        TaskEnd.requirePermission(context)
        IngestOutcome.Stored(served(writer), loop.skipped, Place.here())
      } catch {
        case problem: RowProblem =>
          val where = if (validation == Validation.All) "the validation DataFrame, " else ""
          IngestOutcome.BadRow(partition, where + problem.at(partition, loop.index).getMessage)
      }
    Iterator.single(outcome)
  }

  /** Seals the shard and serves it to other executors, or drops it. */
  private def served(writer: ShardWriter): ShardReport = {
    val report = writer.seal()
    try report.copy(endpoint = if (report.rows + report.validationRows > 0) serving.map(_.endpoint(run)) else None)
    catch {
      case e: Throwable =>
        writer.discard()
        throw e
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

  /** Where the tasks of a run's ingest tell how far they are. */
  def channel(run: String): String = s"kindling-$run"

  /** The data projected to the layout's columns, as Spark's own rows. */
  def rows(data: Dataset[_], layout: FeatureLayout): RDD[InternalRow] = select(data, layout).queryExecution.toRdd

  def select(data: Dataset[_], layout: FeatureLayout): classic.DataFrame = {
    val selected =
      try data.select(columns(layout): _*)
      catch { case e: AnalysisException if e.getCondition == "AMBIGUOUS_REFERENCE" => throw ambiguous(data, layout, e) }
    selected match {
      case dataset: classic.Dataset[Row] => dataset
      case other => throw new IllegalArgumentException(
          s"Kindling trains on a DataFrame of the Spark server, not on a ${other.getClass.getName}"
        )
    }
  }

  /** Two columns that Spark does not tell apart by name; unless it is told to, it takes no notice of case. */
  private def ambiguous(data: Dataset[_], layout: FeatureLayout, e: AnalysisException): IllegalArgumentException = {
    val alike = layout.selected.fieldNames.map(name => data.columns.filter(_.equalsIgnoreCase(name)).toSeq)
    val names = alike.find(_.size > 1).getOrElse(data.columns.toSeq)
    new IllegalArgumentException(
      s"Spark does not tell the columns ${names.map(name => s""""$name"""").mkString(" and ")} apart: rename or drop all but one",
      e
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
