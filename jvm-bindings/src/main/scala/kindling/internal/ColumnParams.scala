package kindling.internal

import org.apache.spark.ml.param.{Param, Params, StringArrayParam}

/** How columns that hold no numbers become some, and what `transform` tells beside the prediction. */
private[kindling] trait ColumnParams extends Params {

  final val indexCols: StringArrayParam = new StringArrayParam(
    this,
    "indexCols",
    "string columns, of the inputs or the label, whose values become the numbers 0, 1, 2, ... by a vocabulary that fit makes and " +
      "the model keeps; by default none, and a string column is refused",
    Check.named("indexCols")
  )

  final val stringOrderType: Param[String] = new Param[String](
    this,
    "stringOrderType",
    s"the order of the values of an indexed column, as in StringIndexer: ${Vocabulary.orders.mkString(", ")}",
    Check.oneOf("stringOrderType", Vocabulary.orders: _*)
  )

  final val predictedLabelCol: Param[String] = new Param[String](
    this,
    "predictedLabelCol",
    "a column for the predicted class as the string that it stands for, where the label is in indexCols; by default none"
  )

  final val pixelRange: Param[String] = new Param[String](
    this,
    "pixelRange",
    "what the pixels of pictures become in a floating input: unit (0 to 1) or byte (0 to 255); unit if unset, and 0 to 255 in an " +
      "input of integers",
    Check.oneOf("pixelRange", "unit", "byte")
  )

  final val outputCols: StringArrayParam = new StringArrayParam(
    this,
    "outputCols",
    "columns for the program's outputs as they are, one for each in the program's order, beside the prediction; an empty name " +
      "leaves one out; by default none",
    Check.someNamed("outputCols")
  )

  setDefault(stringOrderType -> "frequencyDesc")

  final def getIndexCols: Array[String] = $(indexCols)
  final def getStringOrderType: String = $(stringOrderType)
  final def getOutputCols: Array[String] = $(outputCols)
  final def getPixelRange: String = $(pixelRange)
  final def getPredictedLabelCol: String = $(predictedLabelCol)
}
