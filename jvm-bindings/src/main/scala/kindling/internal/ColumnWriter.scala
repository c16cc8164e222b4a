package kindling.internal

import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions.{UnsafeArrayData, UnsafeRow}
import org.apache.spark.sql.catalyst.util.ArrayData
import org.apache.spark.sql.types.{ArrayType, DataType}
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
    case scalars @ Filling.Scalars(fields, _) =>
      new ScalarsWriter(
        fields.map(_.name).toArray,
        fields.map(field => ordinal(field.name)).toArray,
        scalars.types.toArray,
        column.dtype,
        keep
      )
    case Filling.Array(field) =>
      val ArrayType(element, containsNull) = field.dataType: @unchecked
      new ArrayWriter(field.name, ordinal(field.name), element, containsNull, column.dtype, column.width, keep)
    case Filling.Vector(field) => new VectorWriter(field.name, ordinal(field.name), column.dtype, column.width, keep)
    case index @ Filling.ClassIndex(field, classes, ignored, _) =>
      new ClassIndexWriter(field.name, ordinal(field.name), index.source, classes, ignored)
    case Filling.Sequence(field, padding) =>
      val ArrayType(element, _) = field.dataType: @unchecked
      new SequenceWriter(field.name, ordinal(field.name), NumberType.of(element), column.width, padding)
    case Filling.Image(field, pixels) =>
      new ImageWriter(field.name, ordinal(field.name), Images.isStruct(field.dataType), pixels, column.dtype, keep)
    case Filling.Weight(field) => new WeightWriter(field.name, ordinal(field.name), NumberType.of(field.dataType))
  }

  def isNull(name: String): String = s"""the column "$name" is null"""

  def isNaN(name: String): String = s"""the column "$name" is NaN"""

  /** What keeps one number from being used. */
  def problem(name: String, ordinal: Int, source: NumberType, row: InternalRow): Option[String] =
    if (row.isNullAt(ordinal)) Some(isNull(name))
    else if (source.isText) {
      if (source.index(row, ordinal) != Vocabulary.Unseen) None
      else
        Some(
          s"""the column "$name" is ${source.text(
              row,
              ordinal
            )}, which is none of the ${source.unseen} values that fit saw"""
        )
    } else if (source.mayBeNaN && source.double(row, ordinal).isNaN) Some(isNaN(name))
    else None

  def wrongLength(name: String, expected: Int, found: Int): Nothing =
    throw new RowProblem(s"""the column "$name" has $found numbers, but $expected are needed""")
}

/**
 * Scalar columns side by side.
 *
 * In an UnsafeRow every field takes 8 bytes, so neighbours of one type are converted in one loop, after one look at all the row's
 * null bits. Other rows, and rows with a null, are read field by field.
 */
private final class ScalarsWriter(
    names: Array[String],
    ordinals: Array[Int],
    types: Array[NumberType],
    target: DType,
    keep: Boolean
) extends ColumnWriter {

  /** Where runs begin: fields of one type that also stand side by side in the rows. The last entry is the end. */
  private val runs: Array[Int] = {
    def joins(i: Int) = ordinals(i) == ordinals(i - 1) + 1 && types(i).code == types(i - 1).code && types(i).size > 0
    (ordinals.indices.filter(i => i == 0 || !joins(i)) :+ ordinals.length).toArray
  }

  override def write(row: InternalRow, address: Long): Boolean = row match {
    case unsafe: UnsafeRow if !ScalarsWriter.hasNull(unsafe) => writeRuns(unsafe, address)
    case other => writeFields(other, 0, ordinals.length, address)
  }

  private def writeRuns(row: UnsafeRow, address: Long): Boolean = {
    val fields = row.getBaseOffset + UnsafeRow.calculateBitSetWidthInBytes(row.numFields)
    var valid = true
    var i = 0
    while (i < runs.length - 1) {
      val (first, end) = (runs(i), runs(i + 1))
      val to = address + first.toLong * target.size
      valid &= (
        if (types(first).size == 0) writeFields(row, first, end, address)
        else
          Convert.run(
            types(first),
            row.getBaseObject,
            fields + ordinals(first) * 8L,
            8L,
            target,
            to,
            target.size.toLong,
            end - first
          )
      )
      i += 1
    }
    valid || keep
  }

  private def writeFields(row: InternalRow, from: Int, until: Int, address: Long): Boolean = {
    var i = from
    while (i < until) {
      val ordinal = ordinals(i)
      val at = address + i.toLong * target.size
      if (types(i).isText) {
        val index = types(i).index(row, ordinal)
        if (index == Vocabulary.Unseen && !keep) return false
        Store.whole((if (index == Vocabulary.Unseen) types(i).unseen else index).toLong, target, at)
      } else if (row.isNullAt(ordinal)) {
        if (!keep) return false
        if (!target.isFloat)
          throw new RowProblem(s"${ColumnWriter.isNull(names(i))}, and $target has no NaN to keep it as")
        Store.double(Double.NaN, target, at)
      } else if (!Store.number(row, ordinal, types(i), target, at) && !keep) return false
      i += 1
    }
    true
  }

  override def problem(row: InternalRow): String =
    ordinals.indices.iterator
      .flatMap(i => ColumnWriter.problem(names(i), ordinals(i), types(i), row))
      .nextOption()
      .getOrElse(s"the columns ${names.mkString(", ")} hold a null or NaN")
}

private object ScalarsWriter {

  /** Whether any field of the row is null. The null bits come first, and bits without a field are 0. */
  def hasNull(row: UnsafeRow): Boolean = {
    val end = row.getBaseOffset + UnsafeRow.calculateBitSetWidthInBytes(row.numFields)
    var at = row.getBaseOffset
    while (at < end) {
      if (Platform.getLong(row.getBaseObject, at) != 0L) return true
      at += 8
    }
    false
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
  private val copies = ArrayWriter.copies(source, target)

  override def write(row: InternalRow, address: Long): Boolean =
    if (row.isNullAt(ordinal)) {
      if (keep) throw new RowProblem(s"${ColumnWriter.isNull(name)}, which handleInvalid=keep cannot keep")
      false
    } else {
      val values = row.getArray(ordinal)
      if (values.numElements() != width) ColumnWriter.wrongLength(name, width, values.numElements())
      values match {
        case unsafe: UnsafeArrayData if source.size > 0 => block(unsafe, address)
        case other => convert(other, address)
      }
    }

  /** The numbers lie side by side behind the header. */
  private def block(values: UnsafeArrayData, address: Long): Boolean = {
    val header = UnsafeArrayData.calculateHeaderPortionInBytes(width)
    val from = values.getBaseOffset + header
    if (containsNull && hasNull(values, header)) convert(values, address)
    else if (copies) {
      Platform.copyMemory(values.getBaseObject, from, null, address, width.toLong * target.size)
      !checkNaN || !ArrayWriter.hasNaN(target, address, width)
    } else
      Convert.run(
        source,
        values.getBaseObject,
        from,
        source.size.toLong,
        target,
        address,
        target.size.toLong,
        width
      ) || keep
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

  private def convert(values: ArrayData, address: Long): Boolean = {
    var i = 0
    while (i < width) {
      val at = address + i.toLong * target.size
      if (containsNull && values.isNullAt(i)) {
        if (!keep) return false
        if (!target.isFloat)
          throw new RowProblem(s"""element $i of the column "$name" is null, and $target has no NaN to keep it as""")
        Store.double(Double.NaN, target, at)
      } else if (!Store.number(values, i, source, target, at) && !keep) return false
      i += 1
    }
    true
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

private object ArrayWriter {
  import NumberType._

  /** Whether the numbers are kept as they lie. */
  def copies(source: NumberType, target: DType): Boolean = target match {
    case DType.Float32 => source.code == FloatCode
    case DType.Float64 => source.code == DoubleCode
    case DType.Int64 => source.code == LongCode
    case DType.Int32 => source.code == IntCode
    case DType.UInt8 => false
  }

  /** Whether one of `count` floats of a type is NaN. */
  def hasNaN(target: DType, address: Long, count: Int): Boolean = {
    var i = 0
    var found = false
    if (target == DType.Float32) {
      while (i < count) {
        val value = Platform.getFloat(null, address + i.toLong * 4)
        found |= value != value
        i += 1
      }
    } else {
      while (i < count) {
        val value = Platform.getDouble(null, address + i.toLong * 8)
        found |= value != value
        i += 1
      }
    }
    found
  }
}

/** A class index for crossEntropy, stored as int64. Labels are never kept when invalid: a NaN would spoil every weight. */
private final class ClassIndexWriter(
    name: String,
    ordinal: Int,
    source: NumberType,
    classes: Option[Long],
    ignored: Option[Long]
) extends ColumnWriter {
  private val limit = classes.getOrElse(Long.MaxValue)

  override def write(row: InternalRow, address: Long): Boolean =
    if (row.isNullAt(ordinal)) false
    else {
      val value = source.double(row, ordinal)
      if (value.isNaN || (source.isText && value == Vocabulary.Unseen)) false
      else {
        val index = source.long(row, ordinal)
        val classLike = index.toDouble == value && (index >= 0 || ignored.contains(index))
        if (!classLike) refuse(row, "class indices are whole numbers from 0")
        if (index >= limit && !ignored.contains(index))
          refuse(row, s"the program has $limit classes, so labels are 0 to ${limit - 1}")
        Platform.putLong(null, address, index)
        true
      }
    }

  private def refuse(row: InternalRow, rule: String): Nothing =
    throw new RowProblem(s"""the label in the column "$name" is ${source.text(row, ordinal)}, but $rule""")

  override def problem(row: InternalRow): String =
    ColumnWriter.problem(name, ordinal, source, row).getOrElse(ColumnWriter.isNaN(name))
}

/** The classes of a row, as many as it has, and padding up to `width`. */
private final class SequenceWriter(name: String, ordinal: Int, source: NumberType, width: Int, padding: Long)
    extends ColumnWriter {

  override def write(row: InternalRow, address: Long): Boolean =
    if (row.isNullAt(ordinal)) false
    else {
      val values = row.getArray(ordinal)
      val count = values.numElements()
      if (count > width)
        throw new RowProblem(
          s"""the column "$name" has $count labels, but the program's output has $width steps of time"""
        )
      var i = 0
      while (i < count) {
        if (values.isNullAt(i)) return false
        Platform.putLong(null, address + i * 8L, source.long(values, i))
        i += 1
      }
      while (i < width) {
        Platform.putLong(null, address + i * 8L, padding)
        i += 1
      }
      true
    }

  override def problem(row: InternalRow): String =
    if (row.isNullAt(ordinal)) ColumnWriter.isNull(name) else s"""an element of the column "$name" is null"""
}

/** What a row weighs, as float64: no mean can have a weight below 0. */
private final class WeightWriter(name: String, ordinal: Int, source: NumberType) extends ColumnWriter {

  override def write(row: InternalRow, address: Long): Boolean =
    if (row.isNullAt(ordinal)) false
    else {
      val value = source.double(row, ordinal)
      if (value.isNaN) false
      else {
        if (value < 0 || value.isInfinite)
          throw new RowProblem(
            s"""the weight in the column "$name" is ${source.text(
                row,
                ordinal
              )}, but weights are numbers of at least 0"""
          )
        Platform.putDouble(null, address, value)
        true
      }
    }

  override def problem(row: InternalRow): String =
    if (row.isNullAt(ordinal)) ColumnWriter.isNull(name) else ColumnWriter.isNaN(name)
}
