package kindling.internal

import org.apache.spark.sql.{functions, Column, DataFrame, Dataset}
import org.apache.spark.sql.types.{StructField, StructType}

/**
 * Fields of structs, named by their path: `a.b` is the field b of the struct column a.
 *
 * They are put beside the columns, each as a column that has the path as its name, so that everything else sees columns only. A
 * column that has the name itself comes first, for a name may hold dots; so does a field of a struct.
 */
private[kindling] object NestedFields {

  /** The columns that the parameters of a model name. */
  def inputs(params: TorchParams): Seq[String] =
    if (params.isSet(params.inputCols)) params.getInputCols.toSeq else Seq(params.getFeaturesCol)

  /** The columns that the parameters of an estimator name. */
  def all(params: TorchParams): Seq[String] =
    inputs(params) ++ Seq(params.getLabelCol) ++ params.get(params.weightCol) ++ params.get(
      params.validationIndicatorCol
    )

  /** The data with those of `names` that are fields as columns at the end. */
  def beside(data: Dataset[_], names: Seq[String]): DataFrame =
    found(data.schema, names).foldLeft(data.toDF()) { case (frame, (name, path)) =>
      frame.withColumn(name, column(path))
    }

  /** What [[beside]] does to the schema. */
  def beside(schema: StructType, names: Seq[String]): StructType =
    StructType(schema ++ found(schema, names).map { case (name, path) =>
      path.last.copy(name = name, nullable = path.exists(_.nullable))
    })

  /** Takes away again what [[beside]] put beside the columns of `schema`. */
  def without(data: DataFrame, schema: StructType, names: Seq[String]): DataFrame =
    found(schema, names).foldLeft(data) { case (frame, (name, _)) => frame.drop(Ingest.column(name)) }

  private def found(schema: StructType, names: Seq[String]): Seq[(String, Seq[StructField])] =
    for {
      name <- names.distinct
      if !schema.fieldNames.contains(name)
      path <- path(schema, name)
    } yield name -> path

  private def path(schema: StructType, name: String): Option[Seq[StructField]] =
    schema.fields.iterator.flatMap { field =>
      field.dataType match {
        case _ if field.name == name => Some(Seq(field))
        case inner: StructType if name.startsWith(field.name + ".") =>
          path(inner, name.drop(field.name.length + 1)).map(field +: _)
        case _ => None
      }
    }.nextOption()

  private def column(path: Seq[StructField]): Column =
    functions.col(path.map(field => "`" + field.name.replace("`", "``") + "`").mkString("."))
}
