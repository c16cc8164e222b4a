package kindling.internal

import java.util.Arrays

import org.apache.spark.sql.vectorized.{ColumnVector, ColumnarBatch}
import org.apache.spark.unsafe.Platform

/**
 * Reads columnar batches into a shard, a tile of rows at a time, without a row object.
 *
 * A tile is few enough rows that their place in native memory stays in the processor's first cache while one source column after
 * the other is spread over it. It is written as if all its rows were for training. If no column marked a row and nothing is held
 * back for validation, that was all. Otherwise the tile's rows are gone through in order: marked ones are given to the row reader,
 * and the others moved to where they belong, which the cache makes cheap.
 *
 * With a filter, a tile is written in the same way unless it has no row that is wanted, and then the wanted rows are moved together.
 *
 * `ordinals` say which columns of a batch the layout's selected columns are.
 */
private[kindling] final class BatchReader(
    layout: FeatureLayout,
    handleInvalid: HandleInvalid,
    ordinals: Array[Int],
    writer: ShardWriter,
    split: ValidationSplit,
    filter: Option[BatchFilter.Rows] = None
) {
  private val columns = layout.columns.map { column =>
    val keep = handleInvalid == HandleInvalid.Keep && column.role == Role.Input
    BatchColumn.of(column, layout.selected.fieldIndex, keep)
  }.toArray
  private val strides = layout.columns.map(_.rowBytes).toArray
  private val judge = new Array[Boolean](BatchReader.tileRows(layout.rowBytes))
  private val vectors = new Array[ColumnVector](ordinals.length)
  private var wanted = Array.empty[Boolean]

  /** Rows read, written or not: the number of the row at hand in its partition, among those that the filter lets through. */
  var index: Long = 0L

  var skipped: Long = 0L

  /** Reads all rows of a batch. Throws [[RowProblem]], with `index` at the row that cannot be used. */
  def read(batch: ColumnarBatch): Unit = {
    val rows = batch.numRows
    val all = filter.forall { filter =>
      if (wanted.length < rows) wanted = new Array[Boolean](rows)
      filter.choose(batch, wanted) == rows
    }
    ordinals.indices.foreach(i => vectors(i) = batch.column(ordinals(i)))
    val selected = new ColumnarBatch(vectors, rows)
    columns.foreach(_.open(vectors, rows))
    var from = 0
    while (from < rows) {
      val count = math.min(judge.length, rows - from)
      if (all) from += tile(selected, from, count, all)
      else {
        // Rows before the first that is wanted need not be written to be left out.
        while (from < rows && !wanted(from)) from += 1
        if (from < rows) from += tile(selected, from, math.min(judge.length, rows - from), all)
      }
    }
  }

  /** Reads up to `most` rows and says how many: as many as there is room for in the block at hand. */
  private def tile(batch: ColumnarBatch, from: Int, most: Int, all: Boolean): Int = {
    val train = writer.half(Split.Train)
    val addresses = train.addressesOfFreeSlot()
    val first = train.used
    val count = math.min(most, train.room)
    Arrays.fill(judge, 0, count, false)
    var clean = true
    var i = 0
    while (i < columns.length) {
      clean &= columns(i).write(from, count, addresses(i) + first * strides(i), judge)
      i += 1
    }
    if (clean && split.trainsAll) {
      val kept = if (all) count else together(from, count, first)
      train.used += kept
      index += kept
    } else settle(batch, from, count, first, all)
    count
  }

  /** Rows `first` on of the block at hand hold rows `from` on of the batch; leaves there what trains, and moves what validates. */
  private def settle(batch: ColumnarBatch, from: Int, count: Int, first: Int, all: Boolean): Unit = {
    val train = writer.half(Split.Train)
    var i = 0
    while (i < count) {
      if (all || wanted(from + i)) settle(batch, from + i, i, train, first)
      i += 1
    }
  }

  /** Row `at` of the batch, which is row `i` of the tile. */
  private def settle(batch: ColumnarBatch, at: Int, i: Int, train: ShardWriter#Half, first: Int): Unit = {
    val row = batch.getRow(at)
    val to = split.of(row, index)
    if (judge(i)) {
      if (!writer.write(row, to)) skipped += 1
    } else {
      val half = writer.half(to)
      if ((half ne train) || half.used != first + i) {
        val there = half.addressesOfFreeSlot()
        move(train.addresses, first + i, there, half.used, 1)
      }
      half.used += 1
    }
    index += 1
  }

  /** Moves the wanted ones of the tile's rows together, run by run, and says how many they are. */
  private def together(from: Int, count: Int, first: Int): Int = {
    val addresses = writer.half(Split.Train).addresses
    var kept = 0
    var i = 0
    while (i < count) {
      while (i < count && !wanted(from + i)) i += 1
      val start = i
      while (i < count && wanted(from + i)) i += 1
      // The first run may be in its place. Others go down, and may overlap where they go.
      if (start != kept) move(addresses, first + start, addresses, first + kept, i - start)
      kept += i - start
    }
    kept
  }

  private def move(from: Array[Long], slot: Int, to: Array[Long], free: Int, rows: Int): Unit = {
    var i = 0
    while (i < strides.length) {
      Platform.copyMemory(null, from(i) + slot * strides(i), null, to(i) + free * strides(i), rows * strides(i))
      i += 1
    }
  }
}

private[kindling] object BatchReader {

  /** Half of a first-level cache of 32 KiB. */
  private val TileBytes = 16L << 10
  private val MinRows = 16L
  private val MaxRows = 1024L

  private[internal] def tileRows(rowBytes: Long): Int = math.max(MinRows, math.min(MaxRows, TileBytes / rowBytes)).toInt
}
