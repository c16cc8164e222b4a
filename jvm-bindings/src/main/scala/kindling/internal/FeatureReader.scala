package kindling.internal

import org.apache.spark.sql.catalyst.InternalRow

/**
 * Writes rows into native memory: row `slot` of every native column, given the address where each column begins.
 *
 * `ordinal` says where the columns of `layout.selected` stand in the rows it sees; by default the rows are projected to these.
 * Ingest and transform share it, so a model sees at prediction what it saw in training. One reader serves one task.
 */
private[kindling] final class FeatureReader(
    layout: FeatureLayout,
    handleInvalid: HandleInvalid,
    ordinal: String => Int
) {
  def this(layout: FeatureLayout, handleInvalid: HandleInvalid) =
    this(layout, handleInvalid, layout.selected.fieldIndex)

  private val keep = handleInvalid == HandleInvalid.Keep
  private val writers = layout.columns.map { column =>
    // A label or weight that is invalid is never kept.
    ColumnWriter.of(column, ordinal, keep && column.role == Role.Input)
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
    if (column.role != Role.Input && handleInvalid == HandleInvalid.Keep)
      s": handleInvalid=keep keeps features only, drop or mend such ${column.role.name}s"
    else """: set handleInvalid to "skip" to drop such rows, or mend them first"""
}
