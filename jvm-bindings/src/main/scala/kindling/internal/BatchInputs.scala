package kindling.internal

import java.util.Arrays

import org.apache.spark.sql.vectorized.{ColumnVector, ColumnarBatch}
import org.apache.spark.unsafe.Platform

/**
 * Writes rows of a columnar batch into a model's room: by columns, a tile of rows at a time as [[BatchReader]] does it, where every
 * input can be read so, else row by row. A row with anything to decide is left to the run's row reader, which keeps it or refuses it.
 *
 * `ordinals` say which columns of a batch the layout's selected columns are. The room holds `room` rows.
 */
private[kindling] final class BatchInputs(
    layout: FeatureLayout,
    handleInvalid: HandleInvalid,
    ordinals: Array[Int],
    run: PredictionRun,
    room: Int
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

  /** Writes rows number `first` until `last` of those chosen of the open batch to the beginning of the room. */
  def fill(batch: ColumnarBatch, chosen: ChosenRows, first: Int, last: Int): Unit =
    if (byColumns) {
      var done = first
      while (done < last) {
        // From a row that is wanted on, whatever lies between: what is not wanted is written, and then written over.
        val from = chosen.at(done)
        val most = math.min(judge.length, room - (done - first))
        done += tile(batch, chosen.wanted, from, math.min(most, chosen.at(last - 1) + 1 - from), done - first)
      }
    } else {
      var i = first
      while (i < last) {
        run.fill(batch.getRow(chosen.at(i)), i - first): Unit
        i += 1
      }
    }

  /** Writes the wanted ones of `count` rows, and says how many they are. */
  private def tile(batch: ColumnarBatch, wanted: Array[Boolean], from: Int, count: Int, place: Int): Int = {
    write(from, count, place): Unit
    var kept = 0
    var i = 0
    while (i < count) {
      if (wanted(from + i)) {
        if (judge(i)) run.fill(batch.getRow(from + i), place + kept): Unit
        else {
          if (kept < i) move(place + i, place + kept)
          run.filled(1)
        }
        kept += 1
      }
      i += 1
    }
    kept
  }

  private def move(from: Int, to: Int): Unit = {
    var i = 0
    while (i < strides.length) {
      val start = run.address(i)
      Platform.copyMemory(null, start + from * strides(i), null, start + to * strides(i), strides(i))
      i += 1
    }
  }

  /** False if a row is marked in `judge`. */
  private def write(from: Int, count: Int, place: Int): Boolean = {
    Arrays.fill(judge, 0, count, false)
    var clean = true
    var i = 0
    while (i < columns.length) {
      clean &= columns(i).write(from, count, run.address(i) + place * strides(i), judge)
      i += 1
    }
    clean
  }

  private def tile(batch: ColumnarBatch, from: Int, count: Int, place: Int): Unit =
    if (write(from, count, place)) run.filled(count)
    else {
      var i = 0
      while (i < count) {
        if (judge(i)) run.fill(batch.getRow(from + i), place + i): Unit else run.filled(1)
        i += 1
      }
    }
}
