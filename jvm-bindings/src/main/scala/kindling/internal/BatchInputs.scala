package kindling.internal

import java.util.Arrays

import org.apache.spark.sql.vectorized.{ColumnVector, ColumnarBatch}

/**
 * Writes rows of a columnar batch into a model's room: by columns, a tile of rows at a time as [[BatchReader]] does it, where every
 * input can be read so, else row by row. A row with anything to decide is left to the run's row reader, which keeps it or refuses it.
 *
 * `ordinals` say which columns of a batch the layout's selected columns are.
 */
private[kindling] final class BatchInputs(
    layout: FeatureLayout,
    handleInvalid: HandleInvalid,
    ordinals: Array[Int],
    run: PredictionRun
) {
  private val byColumns = layout.columns.forall(column => BatchColumn.serves(column.filling))
  private val columns =
    if (byColumns)
      layout.columns.map(BatchColumn.of(_, layout.selected.fieldIndex, handleInvalid == HandleInvalid.Keep)).toArray
    else Array.empty[BatchColumn]
  private val strides = layout.columns.map(_.rowBytes).toArray
  private val judge = new Array[Boolean](BatchReader.tileRows(layout.rowBytes))
  private val vectors = new Array[ColumnVector](ordinals.length)

  /** A batch comes. */
  def open(batch: ColumnarBatch): Unit = {
    ordinals.indices.foreach(i => vectors(i) = batch.column(ordinals(i)))
    columns.foreach(_.open(vectors, batch.numRows()))
  }

  /** Writes `count` rows from row `from` of the open batch to the beginning of the room. */
  def fill(batch: ColumnarBatch, from: Int, count: Int): Unit =
    if (byColumns) {
      var done = 0
      while (done < count) {
        val rows = math.min(judge.length, count - done)
        tile(batch, from + done, rows, done)
        done += rows
      }
    } else {
      var i = 0
      while (i < count) {
        run.fill(batch.getRow(from + i), i): Unit
        i += 1
      }
    }

  private def tile(batch: ColumnarBatch, from: Int, count: Int, place: Int): Unit = {
    Arrays.fill(judge, 0, count, false)
    var clean = true
    var i = 0
    while (i < columns.length) {
      clean &= columns(i).write(from, count, run.address(i) + place * strides(i), judge)
      i += 1
    }
    if (clean) run.filled(count)
    else {
      i = 0
      while (i < count) {
        if (judge(i)) run.fill(batch.getRow(from + i), place + i): Unit else run.filled(1)
        i += 1
      }
    }
  }
}
