package kindling.internal

import org.apache.spark.ml.linalg.SQLDataTypes
import org.apache.spark.sql.types.{DataType, DoubleType}
import org.apache.spark.unsafe.Platform

/**
 * One column that `transform` adds: `width` numbers a row, as a vector or (one of them) as a plain number. They come from the
 * native library's result number `source`, which has `held` numbers a row.
 */
private[kindling] final case class PredictedColumn(source: Int, held: Int, width: Int, isVector: Boolean) {

  def dataType: DataType = if (isVector) SQLDataTypes.VectorType else DoubleType

  /** Copies `rows` rows from the library's memory to row `at` of `values` and on. */
  def take(address: Long, rows: Int, values: Array[Double], at: Int): Unit =
    if (held == width)
      Platform.copyMemory(
        null,
        address,
        values,
        Platform.DOUBLE_ARRAY_OFFSET + at.toLong * width * 8,
        rows.toLong * width * 8
      )
    else {
      // Of one yes or no, Spark ML's pair: the probability of 0 and that of 1.
      var i = 0
      while (i < rows) {
        val yes = Platform.getDouble(null, address + i * 8L)
        values((at + i) * 2) = 1 - yes
        values((at + i) * 2 + 1) = yes
        i += 1
      }
    }
}

private[kindling] object PredictedColumn {

  /** In the order of `columns.fields`. */
  def of(columns: OutputColumns, output: OutputLayout): Seq[PredictedColumn] = {
    val prediction = columns.prediction.map(_ => PredictedColumn(0, output.width, output.width, columns.wide))
    val probability = columns.probability.map { _ =>
      val width = if (output.binary && output.probabilities == 1) 2 else output.probabilities
      PredictedColumn(1, output.probabilities, width, isVector = true)
    }
    prediction.toSeq ++ probability
  }
}
