package kindling.internal

import org.apache.spark.TaskContext
import org.apache.spark.ml.linalg.Vectors
import org.apache.spark.sql.Row
import org.apache.spark.sql.catalyst.encoders.ExpressionEncoder
import org.apache.spark.sql.types.StructType
import org.apache.spark.unsafe.Platform

import scala.collection.mutable

/**
 * The rows of one partition with predictions added, a batch at a time.
 *
 * Rows are turned back into Spark's own rows, of the needed columns only, so that they pass through the reader that training used.
 * The model is given back when the partition is done or the task ends, whichever comes first, and closed for good after an error.
 */
private[kindling] final class PredictedRows(task: PredictionTask, rows: Iterator[Row]) extends Iterator[Row] {
  private val context = Option(TaskContext.get())
  private val partition = context.fold(0)(_.partitionId())
  private val reader = new FeatureReader(task.layout, task.handleInvalid)
  private val ordinals = task.layout.selected.fieldNames.map(task.schema.fieldIndex)
  // A filter upstream can make a column's schema stricter than its rows are declared here; the reader judges nulls itself.
  private val serialize =
    ExpressionEncoder(StructType(task.layout.selected.map(_.copy(nullable = true)))).createSerializer()
  private val lease = task.borrow()
  context.foreach(_.addTaskCompletionListener[Unit](_ => lease.discard()))

  private val inputs = new Array[Long](task.layout.columns.size)
  private val outputs = new Array[Long](2)
  private val batch = new mutable.ArrayBuffer[Row](task.batchSize)
  private var results: Iterator[Row] = Iterator.empty
  private var index = 0L

  override def hasNext: Boolean = {
    while (!results.hasNext && rows.hasNext) results = guarded(predictBatch())
    val more = results.hasNext
    if (!more) lease.close()
    more
  }

  override def next(): Row = if (hasNext) results.next() else Iterator.empty.next()

  /** Empty if all rows of the batch were skipped. */
  private def predictBatch(): Iterator[Row] = {
    batch.clear()
    Native.modelReserve(lease.model, task.batchSize, inputs)
    while (batch.size < task.batchSize && rows.hasNext) {
      val row = rows.next()
      if (reader.write(serialize(Row.fromSeq(ordinals.toSeq.map(row.get))), inputs, batch.size)) batch += row
      index += 1
    }
    if (batch.isEmpty) Iterator.empty
    else {
      Native.modelPredict(lease.model, batch.size, outputs)
      // The addresses hold only until the model's next call, so the results are taken now.
      batch.indices.map(withOutputs).iterator
    }
  }

  private def withOutputs(i: Int): Row = {
    val extra = task.columns.prediction.map { _ =>
      if (task.columns.wide) Vectors.dense(doubles(outputs(0), i, task.output.width))
      else Platform.getDouble(null, outputs(0) + i * 8L)
    } ++ task.columns.probability.map(_ => Vectors.dense(doubles(outputs(1), i, classes)))
    Row.fromSeq(batch(i).toSeq ++ extra)
  }

  private def classes: Int = task.output.classes.fold(0)(_.toInt)

  private def doubles(address: Long, row: Int, width: Int): Array[Double] = {
    val values = new Array[Double](width)
    Platform.copyMemory(null, address + row.toLong * width * 8, values, Platform.DOUBLE_ARRAY_OFFSET, width * 8L)
    values
  }

  private def guarded[T](body: => T): T =
    try body
    catch {
      case problem: RowProblem =>
        lease.discard()
        throw new IllegalArgumentException(problem.at(partition, index).getMessage)
      case e: Throwable =>
        lease.discard()
        throw e
    }
}
