package kindling.internal

import org.apache.spark.ml.linalg.SQLDataTypes
import org.apache.spark.sql.types._

/**
 * Which Spark types fill which native types. A float takes every number; an integer takes integers that fit into it; nothing is
 * narrowed or rounded unseen. Booleans (0 or 1) and dates (days) count as integers, timestamps (seconds) as float64 alone;
 * [[NumberType]] has the units. Messages name the column and what to do about it.
 */
private[kindling] object ColumnTypes {

  /** The column, or an error that lists what exists. */
  def column(schema: StructType, name: String): StructField =
    schema.fields.find(_.name == name).getOrElse {
      val close =
        schema.fieldNames.find(_.equalsIgnoreCase(name)).map(other => s""" (did you mean "$other"?)""").getOrElse("")
      val there = if (schema.isEmpty) "the data has none" else s"the columns are ${schema.fieldNames.mkString(", ")}"
      refuse(s"""there is no column "$name"$close: $there""")
    }

  /** A number, an array of numbers or a vector that can become `dtype`. */
  def numbers(
      schema: StructType,
      name: String,
      dtype: DType,
      owner: String,
      indexing: Indexing = Indexing.none
  ): Filling = {
    val field = if (indexing.covers(name)) indexed(schema, name) else column(schema, name)
    field.dataType match {
      case SQLDataTypes.VectorType =>
        if (!dtype.isFloat)
          refuse(s"""the column "$name" is a vector of doubles, but $owner is $dtype: give integers""")
        Filling.Vector(field)
      case ArrayType(element, _) =>
        if (element.isInstanceOf[StringType])
          refuse(
            s"""the column "$name" is an array of strings, which have no vocabulary: cast it, or give a column for each string"""
          )
        checkElement(name, s"an array of ${element.simpleString}", element, dtype, owner)
        Filling.Array(field)
      case _ => Filling.Scalars(Seq(scalar(schema, name, dtype, owner, indexing)), indexing.of(name).toSeq)
    }
  }

  /** Whether a column of numbers holds several per row (an array or vector) or one. */
  def holdsSeveral(schema: StructType, name: String, owner: String, indexing: Indexing): Boolean =
    !numbers(schema, name, DType.Float64, owner, indexing).isInstanceOf[Filling.Scalars]

  /** Whether the numbers of a column are integers, one or several per row. */
  def holdsIntegers(schema: StructType, name: String): Boolean = column(schema, name).dataType match {
    case ArrayType(element, _) => isInteger(element)
    case other => isInteger(other)
  }

  /** One number per row that can become `dtype`; a place in a vocabulary can become any. */
  def scalar(schema: StructType, name: String, dtype: DType, owner: String, indexing: Indexing): StructField = {
    val field = if (indexing.covers(name)) indexed(schema, name) else column(schema, name)
    field.dataType match {
      case SQLDataTypes.VectorType =>
        refuse(
          s"""the column "$name" is a vector, but several columns for $owner must be single numbers: use VectorAssembler first"""
        )
      case ArrayType(_, _) =>
        refuse(
          s"""the column "$name" is an array, but several columns for $owner must be single numbers: use one array column for all"""
        )
      case _ if indexing.covers(name) =>
      case other => checkElement(name, other.simpleString, other, dtype, owner)
    }
    field
  }

  /** A column that indexCols names. */
  def indexed(schema: StructType, name: String): StructField = {
    val field = column(schema, name)
    field.dataType match {
      case _: StringType => field
      case other =>
        refuse(
          s"""indexCols names "$name", which is ${described(
              other
            )}: only strings are indexed, leave it out or cast it"""
        )
    }
  }

  /** One number of any type per row. */
  def anyNumber(schema: StructType, name: String, owner: String, indexable: Boolean = true): StructField = {
    val field = column(schema, name)
    if (!isNumber(field.dataType)) {
      val advice = field.dataType match {
        case _: StringType => if (indexable) hint(field.dataType) else ": cast it first"
        case _ => ""
      }
      refuse(s"""the column "$name" is ${described(field.dataType)}, but $owner needs one number per row$advice""")
    }
    field
  }

  def boolean(schema: StructType, name: String, owner: String): StructField = {
    val field = column(schema, name)
    if (field.dataType != BooleanType)
      refuse(s"""the column "$name" is ${described(field.dataType)}, but $owner must be a boolean column""")
    field
  }

  private def checkElement(name: String, found: String, element: DataType, dtype: DType, owner: String): Unit = {
    if (!isNumber(element))
      refuse(s"""the column "$name" is ${article(found)}, which cannot become $dtype for $owner${hint(element)}""")
    val fits = dtype match {
      case DType.Float32 | DType.Float64 => true
      case DType.Int64 => isInteger(element)
      case DType.Int32 => isInteger(element) && element != LongType
      case DType.UInt8 => false
    }
    if (isTimestamp(element) && dtype == DType.Float32)
      refuse(
        s"""the column "$name" is ${article(
            found
          )}, whose seconds since 1970 float32 tells apart in steps of 128 only, but """ +
          s"$owner is float32: subtract a start and cast to float first"
      )
    if (!fits) {
      val why = if (element == LongType) "numbers could overflow" else "fractions would be lost"
      refuse(s"""the column "$name" is ${article(found)}, but $owner is $dtype and $why: cast the column""")
    }
  }

  private def isInteger(dataType: DataType): Boolean = dataType match {
    case LongType | IntegerType | ShortType | ByteType | BooleanType | DateType => true
    case _ => false
  }

  private def isTimestamp(dataType: DataType): Boolean = dataType == TimestampType || dataType == TimestampNTZType

  private def isNumber(dataType: DataType): Boolean = NumberType.get(dataType).isDefined

  private def described(dataType: DataType): String =
    if (dataType == SQLDataTypes.VectorType) "a vector" else article(dataType.simpleString)

  private def article(text: String): String =
    if (text.startsWith("a")) (if (text.startsWith("an ")) text else s"an $text")
    else if (text.startsWith("i")) s"an $text"
    else s"a $text"

  private def hint(dataType: DataType): String = dataType match {
    case _: StringType => ": name it in indexCols of the fit to index it, or cast it first"
    case _ => ": assemble numbers first (VectorAssembler)"
  }

  private def refuse(sentence: String): Nothing = throw new IllegalArgumentException(sentence)
}
