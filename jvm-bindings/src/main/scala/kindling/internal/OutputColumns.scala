package kindling.internal

import org.apache.spark.ml.linalg.SQLDataTypes
import org.apache.spark.sql.types.{DoubleType, StringType, StructField, StructType}

/**
 * The columns that a model adds: the prediction (a class index or number as Double, several numbers as a Vector), for losses that make
 * the output one the probabilities, of an indexed label the string that the predicted class stands for, and other outputs of the
 * program as they are, with whether they have several numbers a row. An empty name leaves a column out, as Spark ML does it.
 */
private[kindling] final case class OutputColumns(
    prediction: Option[String],
    probability: Option[String],
    wide: Boolean,
    label: Option[String] = None,
    others: Seq[(String, Boolean)] = Nil
) {

  private def named: Seq[(String, StructField)] =
    prediction.map(name => "predictionCol" -> numbers(name, wide)).toSeq ++
      probability.map(name => "probabilityCol" -> StructField(name, SQLDataTypes.VectorType, nullable = false)) ++
      // The network may have more classes than the label has values.
      label.map(name => "predictedLabelCol" -> StructField(name, StringType, nullable = true)) ++
      others.map { case (name, wide) => "outputCols" -> numbers(name, wide) }

  private def numbers(name: String, wide: Boolean): StructField =
    StructField(name, if (wide) SQLDataTypes.VectorType else DoubleType, nullable = false)

  def fields: Seq[StructField] = named.map { case (_, field) => field }

  def appendTo(schema: StructType): StructType = {
    named.groupBy { case (_, field) => field.name }.foreach { case (name, same) =>
      if (same.size > 1)
        throw new IllegalArgumentException(
          s"""${same.map { case (owner, _) => owner }.mkString(" and ")} are both "$name""""
        )
    }
    named.find { case (_, field) => schema.fieldNames.contains(field.name) }.foreach { case (_, field) =>
      throw new IllegalArgumentException(
        s"""the column "${field.name}" exists already: choose another ${named.map { case (owner, _) => owner }.mkString(
            " or "
          )}"""
      )
    }
    StructType(schema.fields ++ fields)
  }
}

private[kindling] object OutputColumns {

  /** Of a program that is known. */
  def of(params: TorchParams, loss: Loss, output: OutputLayout): OutputColumns =
    of(params, loss, output.width > 1, output.others.map(other => other.column -> (other.width > 1)))

  def of(params: TorchParams, loss: Loss, wide: Boolean, others: Seq[(String, Boolean)]): OutputColumns = OutputColumns(
    prediction = Some(params.getPredictionCol).filter(_.nonEmpty),
    probability = Some(params.getProbabilityCol).filter(name => loss.tellsProbabilities && name.nonEmpty),
    wide = wide,
    label = Indexing.predictedLabel(params),
    others = others
  )
}
