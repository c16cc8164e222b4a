package kindling.internal

import org.apache.spark.sql.kindling.{Prediction => SparkPrediction, Wiring}
import org.apache.spark.sql.vectorized.{ColumnVector, ColumnarBatch}

/**
 * The batches of one partition with predictions added. A batch goes out for each that comes in, with the columns that came in as they
 * are and new ones for the predictions.
 *
 * The network is run on at most inferBatchSize rows at once: a larger batch is cut into parts of about one size. Smaller ones are
 * not put together, for their columns are reused by whoever made them and would have to be copied.
 *
 * Copies: a row's inputs once, into the model's room; a prediction once, out of it; nothing else.
 */
private[kindling] final class PredictedBatches(
    task: PredictionTask,
    batches: Iterator[ColumnarBatch],
    wiring: Wiring,
    report: SparkPrediction.Report
) extends Iterator[ColumnarBatch] {
  private val run = new PredictionRun(task, wiring, report)
  private val inputs = new BatchInputs(task.layout, task.handleInvalid, wiring.inputs.toArray, run)
  private val unwanted = wiring.below.indices.diff(wiring.passed)

  override def hasNext: Boolean = {
    val more = batches.hasNext
    if (!more) run.end()
    more
  }

  override def next(): ColumnarBatch = {
    val batch = batches.next()
    val results = run.batch(predict(batch))
    // Whoever takes the new batch frees the columns that it sees.
    unwanted.foreach(batch.column(_).closeIfFreeable())
    new ColumnarBatch(wiring.output.map(column(batch, results, _)).toArray, batch.numRows())
  }

  private def predict(batch: ColumnarBatch): Array[Array[Double]] = {
    val rows = batch.numRows()
    val results = run.results(rows)
    inputs.open(batch)
    val parts = (rows + task.batchSize - 1) / task.batchSize
    for (part <- 0 until parts) {
      val from = (rows.toLong * part / parts).toInt
      val until = (rows.toLong * (part + 1) / parts).toInt
      inputs.fill(batch, from, until - from)
      run.predict(until - from, results, from)
    }
    results
  }

  private def column(batch: ColumnarBatch, results: Array[Array[Double]], ordinal: Int): ColumnVector =
    if (ordinal < wiring.below.length) batch.column(ordinal)
    else {
      val at = wiring.predicted.indexOf(ordinal - wiring.below.length)
      PredictionVectors.of(run.wanted(at), results(at))
    }
}
