package kindling.internal

import org.apache.spark.TaskContext
import org.apache.spark.rdd.RDD
import org.apache.spark.sql.{functions, Column, Dataset}
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.classic

import scala.collection.mutable
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
 * A row that cannot be used is a result and no failure: it is not tried four times, and the sentence arrives as it is.
 */
private[kindling] final class Ingest(
    run: String,
    layout: FeatureLayout,
    handleInvalid: HandleInvalid,
    validation: Validation,
    seed: Long,
    loading: NativeLoading,
    runsOver: Seq[String]
) extends Serializable {

  /** Reads the whole of `data`. `cancel` ends this run's jobs; it is called when the first bad row is known. */
  def read(data: Dataset[_], cancel: () => Unit): Seq[IngestOutcome.Stored] = {
    val rows = Ingest.rows(data, layout)
    val outcomes = mutable.ArrayBuffer.empty[IngestOutcome]
    val collect = (_: Int, outcome: IngestOutcome) => {
      val first = outcomes.synchronized {
        outcomes += outcome
        outcome.isInstanceOf[IngestOutcome.BadRow] && outcomes.count(_.isInstanceOf[IngestOutcome.BadRow]) == 1
      }
      if (first) cancel()
    }
    val ingest = this
    val task = (context: TaskContext, partition: Iterator[InternalRow]) => ingest.partition(context, partition)
    try data.sparkSession.sparkContext.runJob(rows, task, rows.partitions.indices, collect)
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

  private def partition(context: TaskContext, rows: Iterator[InternalRow]): IngestOutcome = {
    NativeLibrary.load(loading)
    LocalRuns.forget(runsOver)
    val partition = context.partitionId()
    val writer = ShardWriter.open(run, partition, context.taskAttemptId(), layout, handleInvalid)
    // The listener also runs when the task is killed, between two rows or after the last.
    context.addTaskCompletionListener[Unit] { ended =>
      if (ended.isFailed() || ended.isInterrupted()) writer.discard() else writer.close()
    }: Unit
    val split = ValidationSplit.of(validation, layout, seed, partition)
    var index = 0L
    var skipped = 0L
    try {
      while (rows.hasNext) {
        val row = rows.next()
        if (!writer.write(row, split.of(row, index))) skipped += 1
        index += 1
      }
      IngestOutcome.Stored(writer.seal(), skipped, Place.here())
    } catch {
      case problem: RowProblem => IngestOutcome.BadRow(partition, problem.at(partition, index).getMessage)
    }
  }
}

private[kindling] object Ingest {

  /** The data projected to the layout's columns, as Spark's own rows. */
  def rows(data: Dataset[_], layout: FeatureLayout): RDD[InternalRow] = data.select(columns(layout): _*) match {
    case dataset: classic.Dataset[_] => dataset.queryExecution.toRdd
    case other => throw new IllegalArgumentException(
        s"Kindling trains on a DataFrame of the Spark server, not on a ${other.getClass.getName}"
      )
  }

  /** Quoted, for a name may hold a dot. */
  def columns(layout: FeatureLayout): Seq[Column] = layout.selected.fieldNames.toSeq.map(column)

  def column(name: String): Column = functions.col("`" + name.replace("`", "``") + "`")
}
