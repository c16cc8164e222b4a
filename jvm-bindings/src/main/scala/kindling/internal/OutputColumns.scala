package kindling.internal

import org.apache.spark.ml.linalg.SQLDataTypes
import org.apache.spark.sql.types.{DoubleType, StructField, StructType}

/**
 * The columns that a model adds: the prediction (a class index or number as Double, several numbers as a Vector) and, for losses
 * that make the output one, the probabilities. An empty name leaves a column out, as Spark ML does it.
 */
private[kindling] final case class OutputColumns(
    prediction: Option[String],
    probability: Option[String],
    wide: Boolean
) {

  def fields: Seq[StructField] =
    prediction.map(StructField(_, if (wide) SQLDataTypes.VectorType else DoubleType, nullable = false)).toSeq ++
      probability.map(StructField(_, SQLDataTypes.VectorType, nullable = false))

  def appendTo(schema: StructType): StructType = {
    val names = fields.map(_.name)
    names.diff(names.distinct).headOption.foreach { name =>
      throw new IllegalArgumentException(s"""predictionCol and probabilityCol are both "$name"""")
    }
    names.find(schema.fieldNames.contains).foreach { name =>
      throw new IllegalArgumentException(
        s"""the column "$name" exists already: choose another predictionCol or probabilityCol"""
      )
    }
    StructType(schema.fields ++ fields)
  }
}

private[kindling] object OutputColumns {
  def of(params: TorchParams, loss: Loss, wide: Boolean): OutputColumns = OutputColumns(
    prediction = Some(params.getPredictionCol).filter(_.nonEmpty),
    probability = Some(params.getProbabilityCol).filter(name => loss.tellsProbabilities && name.nonEmpty),
    wide = wide
  )
}
