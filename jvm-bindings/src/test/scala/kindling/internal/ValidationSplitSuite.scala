package kindling.internal

import org.apache.spark.sql.catalyst.InternalRow
import org.scalatest.funsuite.AnyFunSuite

class ValidationSplitSuite extends AnyFunSuite {
  private def share(seed: Long, partition: Int, fraction: Double): Double = {
    val split = new ValidationSplit(Validation.Fraction(fraction), -1, seed, partition)
    (0 until 10000).count(i => split.of(InternalRow.empty, i.toLong) == Split.Validation) / 10000.0
  }

  test("a fraction chooses about that share of each partition, for any seed") {
    // 10000 draws of p = 0.2 have a standard deviation of 0.004; five of them are allowed.
    for (seed <- Seq(0L, 1L, -1L, Long.MaxValue); partition <- Seq(0, 1, 199))
      assert(math.abs(share(seed, partition, 0.2) - 0.2) < 0.02)
  }

  test("the same row always goes the same way, and another seed another way") {
    def chosen(seed: Long): Seq[Boolean] = (0L until 100L).map(ValidationSplit.uniform(seed, 3, _) < 0.5)
    assert(chosen(7) === chosen(7))
    assert(chosen(7) !== chosen(8))
  }

  test("an indicator decides row by row, and must not be null") {
    val split = new ValidationSplit(Validation.Indicator("val"), 0, 0, 0)
    assert(split.of(InternalRow(true), 0) === Split.Validation)
    assert(split.of(InternalRow(false), 0) === Split.Train)
    assert(intercept[RowProblem](split.of(InternalRow(null), 0)).getMessage.contains("\"val\" is null"))
  }
}
