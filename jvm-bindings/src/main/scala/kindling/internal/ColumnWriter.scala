package kindling.internal

import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions.UnsafeArrayData
import org.apache.spark.sql.catalyst.util.ArrayData
import org.apache.spark.sql.types.{ArrayType, DataType, DoubleType, FloatType, IntegerType, LongType}
import org.apache.spark.unsafe.Platform

/**
 * Writes what one row holds for one native column to an address.
 *
 * `write` answers false when it met a null or NaN that may not stay; `problem` then says which, at leisure. What no policy can
 * mend (a wrong length) is thrown as a [[RowProblem]] at once. Under `keep`, NaN stays and a null number becomes NaN.
 */
private[kindling] abstract class ColumnWriter {
  def write(row: InternalRow, address: Long): Boolean

  /** Why `write` answered false for this row. */
  def problem(row: InternalRow): String
}

private[kindling] object ColumnWriter {

  /** The writer of a column whose sources stand at `ordinals` of the rows it will see. */
  def of(column: NativeColumn, ordinal: String => Int, keep: Boolean): ColumnWriter = column.filling match {
    case Filling.Scalars(fields) =>
      new ScalarsWriter(
        fields.map(_.name).toArray,
        fields.map(field => ordinal(field.name)).toArray,
        fields.map(field => NumberType.of(field.dataType)).toArray,
        column.dtype,
        keep
      )
    case Filling.Array(field) =>
      val ArrayType(element, containsNull) = field.dataType: @unchecked
      new ArrayWriter(field.name, ordinal(field.name), element, containsNull, column.dtype, column.width, keep)
    case Filling.Vector(field) => new VectorWriter(field.name, ordinal(field.name), column.dtype, column.width, keep)
    case Filling.ClassIndex(field, classes) =>
      new ClassIndexWriter(field.name, ordinal(field.name), NumberType.of(field.dataType), classes)
  }

  def isNull(name: String): String = s"""the column "$name" is null"""

  def isNaN(name: String): String = s"""the column "$name" is NaN"""

  def wrongLength(name: String, expected: Int, found: Int): Nothing =
    throw new RowProblem(s"""the column "$name" has $found numbers, but $expected are needed""")
}

/** Scalar columns side by side. */
private final class ScalarsWriter(
    names: Array[String],
    ordinals: Array[Int],
    types: Array[NumberType],
    target: DType,
    keep: Boolean
) extends ColumnWriter {

  override def write(row: InternalRow, address: Long): Boolean = {
    var i = 0
    var at = address
    while (i < ordinals.length) {
      val ordinal = ordinals(i)
      if (row.isNullAt(ordinal)) {
        if (!keep) return false
        if (!target.isFloat)
          throw new RowProblem(s"${ColumnWriter.isNull(names(i))}, and $target has no NaN to keep it as")
        Store.double(Double.NaN, target, at)
      } else if (!Store.number(row, ordinal, types(i), target, at) && !keep) return false
      at += target.size
      i += 1
    }
    true
  }

  override def problem(row: InternalRow): String = {
    val i = ordinals.indices.find { i =>
      row.isNullAt(ordinals(i)) || (types(i).mayBeNaN && types(i).double(row, ordinals(i)).isNaN)
    }
    i.map(i => if (row.isNullAt(ordinals(i))) ColumnWriter.isNull(names(i)) else ColumnWriter.isNaN(names(i)))
      .getOrElse(s"the columns ${names.mkString(", ")} hold a null or NaN")
  }
}

/** One column of arrays: copied as it lies where the types agree, number by number otherwise. */
private final class ArrayWriter(
    name: String,
    ordinal: Int,
    element: DataType,
    containsNull: Boolean,
    target: DType,
    width: Int,
    keep: Boolean
) extends ColumnWriter {

  private val source = NumberType.of(element)
  private val checkNaN = source.mayBeNaN && !keep
  private val copies = (element, target) match {
    case (FloatType, DType.Float32) | (DoubleType, DType.Float64) | (LongType, DType.Int64) | (
          IntegerType,
          DType.Int32
        ) => true
    case _ => false
  }

  override def write(row: InternalRow, address: Long): Boolean =
    if (row.isNullAt(ordinal)) {
      if (keep) throw new RowProblem(s"${ColumnWriter.isNull(name)}, which handleInvalid=keep cannot keep")
      false
    } else {
      val values = row.getArray(ordinal)
      if (values.numElements() != width) ColumnWriter.wrongLength(name, width, values.numElements())
      values match {
        case unsafe: UnsafeArrayData if copies => copy(unsafe, address)
        case other => convert(other, address)
      }
    }

  private def copy(values: UnsafeArrayData, address: Long): Boolean = {
    val header = UnsafeArrayData.calculateHeaderPortionInBytes(width)
    if (containsNull && hasNull(values, header)) nullElement()
    else {
      Platform.copyMemory(
        values.getBaseObject,
        values.getBaseOffset + header,
        null,
        address,
        width.toLong * target.size
      )
      !checkNaN || !hasNaN(address)
    }
  }

  /** The null bits lie between the length and the values; a word that is not zero marks a null. */
  private def hasNull(values: UnsafeArrayData, header: Int): Boolean = {
    var at = 8
    while (at < header) {
      if (Platform.getLong(values.getBaseObject, values.getBaseOffset + at) != 0L) return true
      at += 8
    }
    false
  }

  private def hasNaN(address: Long): Boolean = {
    var i = 0
    var found = false
    if (target == DType.Float32) {
      while (i < width) {
        val value = Platform.getFloat(null, address + i.toLong * 4)
        found |= value != value
        i += 1
      }
    } else {
      while (i < width) {
        val value = Platform.getDouble(null, address + i.toLong * 8)
        found |= value != value
        i += 1
      }
    }
    found
  }

  private def convert(values: ArrayData, address: Long): Boolean = {
    var i = 0
    while (i < width) {
      if (containsNull && values.isNullAt(i)) return nullElement()
      if (!Store.number(values, i, source, target, address + i.toLong * target.size) && !keep) return false
      i += 1
    }
    true
  }

  private def nullElement(): Boolean = {
    if (keep)
      throw new RowProblem(s"""an element of the column "$name" is null, which handleInvalid=keep cannot keep""")
    false
  }

  override def problem(row: InternalRow): String =
    if (row.isNullAt(ordinal)) ColumnWriter.isNull(name)
    else {
      val values = row.getArray(ordinal)
      (0 until values.numElements()).find(values.isNullAt) match {
        case Some(i) => s"""element $i of the column "$name" is null"""
        case None =>
          val i = (0 until values.numElements()).find(i => source.mayBeNaN && source.double(values, i).isNaN)
          s"""element ${i.getOrElse("?")} of the column "$name" is NaN"""
      }
    }
}

/** A class index for crossEntropy, stored as int64. Labels are never kept when invalid: a NaN would spoil every weight. */
private final class ClassIndexWriter(name: String, ordinal: Int, source: NumberType, classes: Option[Long])
    extends ColumnWriter {
  private val limit = classes.getOrElse(Long.MaxValue)

  override def write(row: InternalRow, address: Long): Boolean =
    if (row.isNullAt(ordinal)) false
    else {
      val value = source.double(row, ordinal)
      if (value.isNaN) false
      else {
        val index = source.long(row, ordinal)
        if (index.toDouble != value || index < 0) refuse(row, "class indices are whole numbers from 0")
        if (index >= limit) refuse(row, s"the program has $limit classes, so labels are 0 to ${limit - 1}")
        Platform.putLong(null, address, index)
        true
      }
    }

  private def refuse(row: InternalRow, rule: String): Nothing =
    throw new RowProblem(s"""the label in the column "$name" is ${source.text(row, ordinal)}, but $rule""")

  override def problem(row: InternalRow): String =
    if (row.isNullAt(ordinal)) ColumnWriter.isNull(name) else ColumnWriter.isNaN(name)
}
