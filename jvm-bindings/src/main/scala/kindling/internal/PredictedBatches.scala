package kindling.internal

import org.apache.spark.sql.kindling.{Prediction => SparkPrediction, Wiring}
import org.apache.spark.sql.vectorized.{ColumnVector, ColumnarBatch}

/**
 * The batches of one partition with predictions added. A batch goes out for each that comes in, with the columns that came in as they
 * are and new ones for the predictions. With a condition only the rows that fulfil it are predicted and go out, and a batch without
 * such rows does not.
 *
 * The network is run on at most inferBatchSize rows at once: a larger batch is cut into parts of about one size. Smaller ones are
 * not put together, for their columns are reused by whoever made them and would have to be copied.
 *
 * Copies: a row's inputs once, into the model's room (twice where a condition leaves out rows before it); a prediction once, out of it;
 * nothing else.
 */
private[kindling] final class PredictedBatches(
    task: PredictionTask,
    batches: Iterator[ColumnarBatch],
    wiring: Wiring,
    report: SparkPrediction.Report
) extends Iterator[ColumnarBatch] {
  private val run = new PredictionRun(task, wiring, report)
  private val inputs = new BatchInputs(task.layout, task.handleInvalid, wiring.inputs.toArray, run, task.batchSize)
  private val unwanted = wiring.below.indices.diff(wiring.passed)
  private val filter = wiring.condition.map(new ChosenRows.Filter(_, run.partition))
  // The batch at hand, and which of its rows are wanted if not all are.
  private var batch: ColumnarBatch = _
  private var some = Option.empty[ChosenRows]

  override def hasNext: Boolean = {
    while (batch == null && batches.hasNext) {
      batch = batches.next()
      some = filter.flatMap(_.of(batch))
      if (some.exists(_.count == 0)) {
        batch.closeIfFreeable()
        batch = null
      }
    }
    val more = batch != null
    if (!more) run.end()
    more
  }

  override def next(): ColumnarBatch =
    if (hasNext) {
      val results = run.batch(predict())
      // Whoever takes the new batch frees the columns that it sees.
      unwanted.foreach(batch.column(_).closeIfFreeable())
      val predicted = new ColumnarBatch(wiring.output.map(column(results, _)).toArray, rows)
      batch = null
      predicted
    } else Iterator.empty.next()

  private def rows: Int = some.fold(batch.numRows())(_.count)

  private def predict(): Array[Array[Double]] = {
    val count = rows
    val results = run.results(count)
    inputs.open(batch)
    val parts = (count + task.batchSize - 1) / task.batchSize
    for (part <- 0 until parts) {
      val from = (count.toLong * part / parts).toInt
      val until = (count.toLong * (part + 1) / parts).toInt
      some.fold(inputs.fill(batch, from, until - from))(inputs.fill(batch, _, from, until))
      run.predict(until - from, results, from)
    }
    results
  }

  private def column(results: Array[Array[Double]], ordinal: Int): ColumnVector =
    if (ordinal < wiring.below.length) some.fold(batch.column(ordinal))(_.column(batch.column(ordinal)))
    else {
      val at = wiring.predicted.indexOf(ordinal - wiring.below.length)
      PredictionVectors.of(run.wanted(at), results(at), rows)
    }
}
