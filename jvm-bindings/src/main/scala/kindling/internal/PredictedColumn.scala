package kindling.internal

import org.apache.spark.ml.linalg.SQLDataTypes
import org.apache.spark.sql.types.{DataType, DoubleType, StringType}
import org.apache.spark.unsafe.Platform
import org.apache.spark.unsafe.types.UTF8String

/**
 * One column that `transform` adds: `width` numbers a row, as a vector or (one of them) as a plain number, or as the string of
 * `words` that it stands for. They come from the native library's result number `source`, which has `held` numbers a row.
 */
private[kindling] final case class PredictedColumn(
    source: Int,
    held: Int,
    width: Int,
    isVector: Boolean,
    words: Option[Vocabulary] = None
) {

  def dataType: DataType =
    if (words.isDefined) StringType else if (isVector) SQLDataTypes.VectorType else DoubleType

  /** The string of each class; a class behind them has none. */
  @transient lazy val texts: Array[UTF8String] =
    words.fold(Array.empty[UTF8String])(_.values.map(UTF8String.fromString).toArray)

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

  /** Results of the native library before those of other outputs: the prediction and the probabilities. */
  final val Own = 2

  /** In the order of `columns.fields`; `label` is the vocabulary of the label, where that is a string. */
  def of(columns: OutputColumns, output: OutputLayout, label: Option[Vocabulary]): Seq[PredictedColumn] = {
    val prediction = columns.prediction.map(_ => PredictedColumn(0, output.width, output.width, columns.wide))
    val probability = columns.probability.map { _ =>
      val width = if (output.binary && output.probabilities == 1) 2 else output.probabilities
      PredictedColumn(1, output.probabilities, width, isVector = true)
    }
    val text = columns.label.map { _ =>
      val words = label.getOrElse(
        throw new IllegalArgumentException(
          "predictedLabelCol is set, but this model was fitted without the label in indexCols: clear it, or fit again"
        )
      )
      PredictedColumn(0, output.width, 1, isVector = false, Some(words))
    }
    val others = output.others.zipWithIndex.map { case (other, i) =>
      PredictedColumn(PredictedColumn.Own + i, other.width, other.width, other.width > 1)
    }
    prediction.toSeq ++ probability ++ text ++ others
  }
}
