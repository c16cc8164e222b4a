package kindling.internal

import org.apache.spark.sql.catalyst.InternalRow

/**
 * Writes rows into native memory: row `slot` of every native column, given the address where each column begins.
 *
 * The rows it sees are projected to `layout.selected`. Ingest and transform share it, so a model sees at prediction what it saw in
 * training. One reader serves one task.
 */
private[kindling] final class FeatureReader(layout: FeatureLayout, handleInvalid: HandleInvalid) {
  private val keep = handleInvalid == HandleInvalid.Keep
  private val writers = layout.columns.map { column =>
    // A label that is invalid is never kept.
    ColumnWriter.of(column, layout.selected.fieldIndex, keep && !column.isLabel)
  }.toArray
  private val strides = layout.columns.map(_.rowBytes).toArray

  /**
   * Writes one row; false means that it holds a null or NaN and `skip` drops it (its slot is then free again).
   * Throws [[RowProblem]], without the row's place, when the row cannot be used.
   */
  def write(row: InternalRow, addresses: Array[Long], slot: Int): Boolean = {
    var i = 0
    while (i < writers.length) {
      if (!writers(i).write(row, addresses(i) + slot * strides(i))) {
        if (handleInvalid == HandleInvalid.Skip) return false
        throw new RowProblem(writers(i).problem(row) + FeatureReader.advice(layout.columns(i), handleInvalid))
      }
      i += 1
    }
    true
  }
}

private[kindling] object FeatureReader {
  private def advice(column: NativeColumn, handleInvalid: HandleInvalid): String =
    if (column.isLabel && handleInvalid == HandleInvalid.Keep)
      ": handleInvalid=keep keeps features only, drop or mend such labels"
    else """: set handleInvalid to "skip" to drop such rows, or mend them first"""
}
