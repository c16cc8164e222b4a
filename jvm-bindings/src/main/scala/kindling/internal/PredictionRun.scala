package kindling.internal

import org.apache.spark.TaskContext
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.kindling.{Prediction => SparkPrediction, Wiring}

/**
 * One task's use of a model: rows are written into the model's room, then predicted together, and the results copied out. Nothing of
 * the native memory is looked at outside of [[batch]].
 *
 * The model is given back when the partition is done or the task ends, whichever comes first (a limit above stops early), and closed
 * for good after an error. A task may end while a thread of Spark's that feeds a Python worker is still in here: then that thread gives
 * the model up when its batch is done, and is told that the task is over when it wants another.
 */
private[kindling] final class PredictionRun(task: PredictionTask, wiring: Wiring, report: SparkPrediction.Report) {
  private val context = Option(TaskContext.get())
  val partition: Int = context.fold(0)(_.partitionId())
  private val reader = new FeatureReader(
    task.layout,
    task.handleInvalid,
    name => wiring.inputs(task.layout.selected.fieldIndex(name))
  )

  /** The columns that somebody wants, in the order of their ordinals. */
  val wanted: Array[PredictedColumn] = wiring.predicted.map(task.columns).toArray
  private val sources = Array.tabulate(task.results)(i => wanted.exists(_.source == i))

  private val lease = task.borrow()
  private var inside = false
  private var over = false
  context.foreach(_.addTaskCompletionListener[Unit](_ => end()))

  private val inputs = new Array[Long](task.layout.columns.size)
  private val outputs = new Array[Long](task.results)
  private var index = 0L
  private var arrays = wanted.map(_ => Array.empty[Double])
  private var room = 0

  batch(Native.modelReserve(lease.model, task.batchSize, inputs))

  /** Runs what fills and predicts. An error in it is told with the row's place, and the model is not used again. */
  def batch[T](body: => T): T = {
    enter()
    try body
    catch {
      case problem: RowProblem =>
        lease.discard()
        throw new IllegalArgumentException(problem.at(partition, index).getMessage)
      case e: Throwable =>
        lease.discard()
        throw e
    } finally leave()
  }

  /** Writes a row to a place in the room; false means that it is dropped and the place still free. */
  def fill(row: InternalRow, place: Int): Boolean = {
    val taken = reader.write(row, inputs, place)
    index += 1
    taken
  }

  /** Where the room for input `i` begins, for who fills it without a row. */
  def address(i: Int): Long = inputs(i)

  /** So many rows have been written there. */
  def filled(rows: Int): Unit = index += rows

  /** Predicts the first `rows` rows of the room, and copies the wanted results to row `at` of the arrays and on. */
  def predict(rows: Int, results: Array[Array[Double]], at: Int): Unit =
    // Rows are read and judged all the same when nobody wants more of them than their number.
    if (wanted.nonEmpty && rows > 0) {
      val start = System.nanoTime()
      Native.modelPredict(lease.model, rows, sources, outputs)
      report(rows, System.nanoTime() - start)
      var i = 0
      while (i < wanted.length) {
        wanted(i).take(outputs(wanted(i).source), rows, results(i), at)
        i += 1
      }
    }

  /** Room for the wanted results of `rows` rows. It is the same again unless that is too small. */
  def results(rows: Int): Array[Array[Double]] = {
    if (rows > room) {
      arrays = wanted.map { column =>
        val size = rows.toLong * column.width
        if (size > PredictionRun.LargestArray)
          throw new IllegalArgumentException(
            s"$rows rows are predicted at once and each has ${column.width} numbers, more than fit into an array: lower inferBatchSize"
          )
        new Array[Double](size.toInt)
      }
      room = rows
    }
    arrays
  }

  /** The partition is done. */
  def end(): Unit = synchronized {
    over = true
    if (!inside) lease.close()
  }

  private def enter(): Unit = synchronized {
    if (over) throw new IllegalStateException("the task that these rows belong to is over")
    inside = true
  }

  private def leave(): Unit = synchronized {
    inside = false
    if (over) lease.discard()
  }
}

private object PredictionRun {

  /** What a JVM makes for certain. */
  private final val LargestArray = Int.MaxValue - 8
}
