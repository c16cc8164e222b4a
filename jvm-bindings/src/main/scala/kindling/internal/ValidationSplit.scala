package kindling.internal

import org.apache.spark.sql.catalyst.InternalRow

/**
 * Sends each row to training or validation inside the task that reads it. Spark's `randomSplit` would sort and sample first.
 *
 * A fraction is decided by a hash of (seed, partition, row number), so the same data in the same partitions is split the same way
 * every time, however often a task runs.
 */
private[kindling] final class ValidationSplit(
    validation: Validation,
    indicatorOrdinal: Int,
    seed: Long,
    partition: Int
) {

  /** Whether every row trains. */
  val trainsAll: Boolean = validation == Validation.None

  /** [[Split.Train]] or [[Split.Validation]]; throws [[RowProblem]] when the indicator is null. */
  def of(row: InternalRow, index: Long): Int = validation match {
    case Validation.None | Validation.Frame => Split.Train
    case Validation.All => Split.Validation
    case Validation.Fraction(fraction) =>
      if (ValidationSplit.uniform(seed, partition, index) < fraction) Split.Validation else Split.Train
    case Validation.Indicator(column) =>
      if (row.isNullAt(indicatorOrdinal))
        throw new RowProblem(s"""the column "$column" is null, but it must say whether the row validates""")
      if (row.getBoolean(indicatorOrdinal)) Split.Validation else Split.Train
  }
}

private[kindling] object ValidationSplit {

  def of(validation: Validation, layout: FeatureLayout, seed: Long, partition: Int): ValidationSplit =
    new ValidationSplit(
      validation,
      layout.indicator.map(f => layout.selected.fieldIndex(f.name)).getOrElse(-1),
      seed,
      partition
    )

  /** A number in [0, 1) that looks random in each of its three arguments. */
  def uniform(seed: Long, partition: Int, index: Long): Double =
    (mix(mix(mix(seed) + partition) + index) >>> 11) * (1.0 / (1L << 53))

  /** splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014). */
  private def mix(value: Long): Long = {
    var z = value + 0x9e3779b97f4a7c15L
    z = (z ^ (z >>> 30)) * 0xbf58476d1ce4e5b9L
    z = (z ^ (z >>> 27)) * 0x94d049bb133111ebL
    z ^ (z >>> 31)
  }
}
