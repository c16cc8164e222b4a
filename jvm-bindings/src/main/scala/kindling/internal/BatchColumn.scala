package kindling.internal

import java.util.Arrays

import org.apache.spark.sql.execution.vectorized.WritableColumnVector
import org.apache.spark.sql.types.{ArrayType, DecimalType, DoubleType, IntegerType, StructField}
import org.apache.spark.sql.vectorized.ColumnVector
import org.apache.spark.unsafe.Platform

/**
 * Writes rows of a columnar batch for one native column: what [[ColumnWriter]] does row by row, here for a tile of rows.
 *
 * It only ever writes what is plainly right. A row with a null, a NaN that may not stay, a wrong length or whatever else needs a
 * decision is marked in `judge`, and the reader gives that row to the column's ColumnWriter. So there is one place where rows are
 * refused, dropped or mended, and both readers give the same rows by construction.
 */
private[kindling] abstract class BatchColumn {

  /** A batch of `rows` rows comes; `vectors` stand in the order of the layout's selected columns. */
  def open(vectors: Array[ColumnVector], rows: Int): Unit

  /** Writes `count` rows from row `from` of the batch, one native row after the other; false if it marked one. */
  def write(from: Int, count: Int, address: Long, judge: Array[Boolean]): Boolean
}

private[kindling] object BatchColumn {

  /** Whether columns filled this way are worth reading by batches, that is, not row by row all the same. */
  def serves(filling: Filling): Boolean = filling match {
    case Filling.Scalars(fields, vocabularies) =>
      fields.forall(field => VectorMemory.serves(field.dataType, vocabularies.find(_.column == field.name)))
    // A decimal becomes a double, which need not be the same whole number.
    case Filling.ClassIndex(field, _, _, vocabulary) =>
      VectorMemory.serves(field.dataType, vocabulary) && !field.dataType.isInstanceOf[DecimalType]
    case Filling.Weight(field) => VectorMemory.serves(field.dataType)
    case Filling.Array(StructField(_, ArrayType(element, _), _, _)) => VectorMemory.serves(element)
    case Filling.Vector(_) => true
    case _ => false
  }

  def of(column: NativeColumn, ordinal: String => Int, keep: Boolean): BatchColumn = column.filling match {
    case Filling.Scalars(fields, vocabularies) =>
      new ScalarsBatch(
        fields.map(field => ordinal(field.name)).toArray,
        fields.map(field => new VectorMemory(field.dataType, vocabularies.find(_.column == field.name))).toArray,
        column.dtype,
        keep
      )
    case Filling.ClassIndex(field, classes, ignored, vocabulary) =>
      new ClassIndexBatch(ordinal(field.name), new VectorMemory(field.dataType, vocabulary), classes, ignored)
    case Filling.Weight(field) => new WeightBatch(ordinal(field.name), new VectorMemory(field.dataType))
    case Filling.Array(field) =>
      val ArrayType(element, _) = field.dataType: @unchecked
      new ArrayBatch(ordinal(field.name), new VectorMemory(element), column.dtype, column.width, keep)
    case Filling.Vector(field) => new MLVectorBatch(ordinal(field.name), column.dtype, column.width, keep)
    case other => throw new IllegalArgumentException(s"$other is read row by row")
  }

  /** Marks the rows that are null. */
  def markNulls(vector: ColumnVector, from: Int, count: Int, judge: Array[Boolean]): Boolean = {
    var none = true
    if (vector.hasNull) {
      var i = 0
      while (i < count) {
        if (vector.isNullAt(from + i)) {
          judge(i) = true
          none = false
        }
        i += 1
      }
    }
    none
  }
}

/** Scalar columns side by side: the transposition, a column of the tile after the other. */
private final class ScalarsBatch(ordinals: Array[Int], memory: Array[VectorMemory], target: DType, keep: Boolean)
    extends BatchColumn {
  private val vectors = new Array[ColumnVector](ordinals.length)
  private val rowBytes = ordinals.length.toLong * target.size

  override def open(batch: Array[ColumnVector], rows: Int): Unit =
    ordinals.indices.foreach { i =>
      vectors(i) = batch(ordinals(i))
      memory(i).locate(vectors(i), 0, rows)
    }

  override def write(from: Int, count: Int, address: Long, judge: Array[Boolean]): Boolean = {
    var clean = true
    var i = 0
    while (i < ordinals.length) {
      val values = memory(i)
      val size = values.source.size.toLong
      val start = values.start + from * size
      val to = address + i.toLong * target.size
      if (!Convert.run(values.source, values.base, start, size, target, to, rowBytes, count) && !keep) {
        markNaN(values, start, count, judge)
        clean = false
      }
      // Whether a string without a number is kept, and as what, is for the row reader to say.
      if (values.isText) clean &= values.markUnseen(from, count, judge)
      else if (vectors(i).hasNull) {
        if (keep && target.isFloat) putNaN(vectors(i), from, count, to)
        else clean &= BatchColumn.markNulls(vectors(i), from, count, judge)
      }
      i += 1
    }
    clean
  }

  private def markNaN(values: VectorMemory, start: Long, count: Int, judge: Array[Boolean]): Unit = {
    var i = 0
    while (i < count) {
      val value = Convert.double(values.source.code, values.base, start + i.toLong * values.source.size)
      if (value != value) judge(i) = true
      i += 1
    }
  }

  private def putNaN(vector: ColumnVector, from: Int, count: Int, to: Long): Unit = {
    var i = 0
    while (i < count) {
      if (vector.isNullAt(from + i)) Store.double(Double.NaN, target, to + i * rowBytes)
      i += 1
    }
  }
}

/** Class indices: whole numbers in range are stored, all others are judged. */
private final class ClassIndexBatch(
    ordinal: Int,
    memory: VectorMemory,
    classes: Option[Long],
    ignored: Option[Long]
) extends BatchColumn {
  private val limit = classes.getOrElse(Long.MaxValue)
  // A string without a number must not be taken for an ignored label.
  private val ignores = ignored.isDefined && !memory.isText
  private val ignoredClass = ignored.getOrElse(0L)
  private var vector: ColumnVector = _

  override def open(batch: Array[ColumnVector], rows: Int): Unit = {
    vector = batch(ordinal)
    memory.locate(vector, 0, rows)
  }

  override def write(from: Int, count: Int, address: Long, judge: Array[Boolean]): Boolean = {
    var clean = BatchColumn.markNulls(vector, from, count, judge)
    val code = memory.source.code
    var i = 0
    while (i < count) {
      val at = memory.start + (from + i).toLong * memory.source.size
      val index = Convert.long(code, memory.base, at)
      val whole = index.toDouble == Convert.double(code, memory.base, at)
      if (whole && ((index >= 0 && index < limit) || (ignores && index == ignoredClass)))
        Platform.putLong(null, address + i * 8L, index)
      else {
        judge(i) = true
        clean = false
      }
      i += 1
    }
    clean
  }
}

/** Weights: finite numbers of at least 0 are stored, all others are judged. */
private final class WeightBatch(ordinal: Int, memory: VectorMemory) extends BatchColumn {
  private var vector: ColumnVector = _

  override def open(batch: Array[ColumnVector], rows: Int): Unit = {
    vector = batch(ordinal)
    memory.locate(vector, 0, rows)
  }

  override def write(from: Int, count: Int, address: Long, judge: Array[Boolean]): Boolean = {
    var clean = BatchColumn.markNulls(vector, from, count, judge)
    var i = 0
    while (i < count) {
      val at = memory.start + (from + i).toLong * memory.source.size
      val value = Convert.double(memory.source.code, memory.base, at)
      if (value >= 0 && value < Double.PositiveInfinity) Platform.putDouble(null, address + i * 8L, value)
      else {
        judge(i) = true
        clean = false
      }
      i += 1
    }
    clean
  }
}

/**
 * The numbers of arrays, which lie one row after the other in a child vector. As long as nothing lies between them, a tile of rows
 * is one copy.
 */
private final class ElementRuns(memory: VectorMemory, target: DType, width: Int, keep: Boolean) {
  private val rowBytes = width.toLong * target.size
  private val copies = ArrayWriter.copies(memory.source, target)
  private var child: ColumnVector = _
  private var nulls = false

  /** The arrays of rows 0 until `rows` of `arrays` will be read. */
  def open(arrays: WritableColumnVector, rows: Int): Unit = {
    child = arrays.getChild(0)
    nulls = child.hasNull
    var first = Int.MaxValue
    var last = 0
    var i = 0
    while (i < rows) {
      if (!arrays.isNullAt(i)) {
        first = math.min(first, arrays.getArrayOffset(i))
        last = math.max(last, arrays.getArrayOffset(i) + arrays.getArrayLength(i))
      }
      i += 1
    }
    if (first < last) memory.locate(child, first, last)
  }

  /** Writes `rows` rows whose numbers begin at `offset` of the child; false if there is a null or a NaN that may not stay. */
  def write(offset: Int, rows: Int, address: Long): Boolean = {
    val count = rows * width
    if (nulls && hasNull(offset, count)) false
    else {
      val start = memory.start + offset.toLong * memory.source.size
      if (copies) {
        Platform.copyMemory(memory.base, start, null, address, rows * rowBytes)
        keep || !memory.source.mayBeNaN || !ArrayWriter.hasNaN(target, address, count)
      } else
        Convert.run(
          memory.source,
          memory.base,
          start,
          memory.source.size.toLong,
          target,
          address,
          target.size.toLong,
          count
        ) || keep
    }
  }

  /** One number of the child. */
  def double(index: Int): Double =
    Convert.double(memory.source.code, memory.base, memory.start + index.toLong * memory.source.size)

  private def hasNull(offset: Int, count: Int): Boolean = {
    var i = 0
    while (i < count) {
      if (child.isNullAt(offset + i)) return true
      i += 1
    }
    false
  }
}

/** One column of arrays. */
private final class ArrayBatch(ordinal: Int, memory: VectorMemory, target: DType, width: Int, keep: Boolean)
    extends BatchColumn {
  private val elements = new ElementRuns(memory, target, width, keep)
  private val rowBytes = width.toLong * target.size
  private var arrays: Option[WritableColumnVector] = None

  override def open(batch: Array[ColumnVector], rows: Int): Unit = {
    arrays = VectorMemory.arrays(batch(ordinal))
    arrays.foreach(elements.open(_, rows))
  }

  override def write(from: Int, count: Int, address: Long, judge: Array[Boolean]): Boolean = arrays match {
    case None =>
      Arrays.fill(judge, 0, count, true)
      false
    case Some(vector) =>
      if (together(vector, from, count) && elements.write(vector.getArrayOffset(from), count, address)) true
      else {
        var clean = true
        var i = 0
        while (i < count) {
          val fits = !vector.isNullAt(from + i) && vector.getArrayLength(from + i) == width &&
            elements.write(vector.getArrayOffset(from + i), 1, address + i * rowBytes)
          if (!fits) {
            judge(i) = true
            clean = false
          }
          i += 1
        }
        clean
      }
  }

  private def together(vector: WritableColumnVector, from: Int, count: Int): Boolean = {
    val nulls = vector.hasNull
    val first = vector.getArrayOffset(from)
    var i = 0
    while (i < count) {
      if (nulls && vector.isNullAt(from + i)) return false
      if (vector.getArrayLength(from + i) != width || vector.getArrayOffset(from + i) != first + i * width) return false
      i += 1
    }
    true
  }
}

/** One column of Spark ML vectors, as [[VectorWriter]] describes them: a struct whose values are an array of doubles. */
private final class MLVectorBatch(ordinal: Int, target: DType, width: Int, keep: Boolean) extends BatchColumn {
  private val elements =
    new ElementRuns(new VectorMemory(DoubleType), target, width, keep)
  private val positions = new VectorMemory(IntegerType)
  private val rowBytes = width.toLong * target.size
  private var vector: ColumnVector = _
  private var indices: Option[WritableColumnVector] = None
  private var values: Option[WritableColumnVector] = None

  override def open(batch: Array[ColumnVector], rows: Int): Unit = {
    vector = batch(ordinal)
    indices = VectorMemory.arrays(vector.getChild(2))
    values = VectorMemory.arrays(vector.getChild(3))
    values.foreach(elements.open(_, rows))
  }

  override def write(from: Int, count: Int, address: Long, judge: Array[Boolean]): Boolean =
    (indices, values) match {
      case (Some(indices), Some(values)) =>
        if (together(values, from, count) && elements.write(values.getArrayOffset(from), count, address)) true
        else {
          var clean = true
          var i = 0
          while (i < count) {
            if (!one(indices, values, from + i, address + i * rowBytes)) {
              judge(i) = true
              clean = false
            }
            i += 1
          }
          clean
        }
      case _ =>
        Arrays.fill(judge, 0, count, true)
        false
    }

  /** Whether the rows are dense and their values lie one row after the other. */
  private def together(values: WritableColumnVector, from: Int, count: Int): Boolean = {
    val types = vector.getChild(0)
    val nulls = vector.hasNull || values.hasNull
    val first = values.getArrayOffset(from)
    var i = 0
    while (i < count) {
      if (nulls && (vector.isNullAt(from + i) || values.isNullAt(from + i))) return false
      if (types.getByte(from + i) == VectorWriter.Sparse || values.getArrayLength(from + i) != width) return false
      if (values.getArrayOffset(from + i) != first + i * width) return false
      i += 1
    }
    true
  }

  private def one(
      indices: WritableColumnVector,
      values: WritableColumnVector,
      row: Int,
      address: Long
  ): Boolean =
    if (vector.isNullAt(row) || values.isNullAt(row)) false
    else if (vector.getChild(0).getByte(row) == VectorWriter.Sparse)
      vector.getChild(1).getInt(row) == width && scatter(indices, values, row, address)
    else values.getArrayLength(row) == width && elements.write(values.getArrayOffset(row), 1, address)

  private def scatter(
      indices: WritableColumnVector,
      values: WritableColumnVector,
      row: Int,
      address: Long
  ): Boolean = {
    Platform.setMemory(null, address, rowBytes, 0)
    val (count, firstIndex, firstValue) =
      (indices.getArrayLength(row), indices.getArrayOffset(row), values.getArrayOffset(row))
    if (values.getArrayLength(row) != count) return false
    if (count > 0) positions.locate(indices.getChild(0), firstIndex, firstIndex + count)
    var i = 0
    while (i < count) {
      val index = Convert.long(NumberType.IntCode, positions.base, positions.start + (firstIndex + i) * 4L)
      val value = elements.double(firstValue + i)
      if (index < 0 || index >= width || (!keep && value != value)) return false
      Store.double(value, target, address + index * target.size)
      i += 1
    }
    true
  }
}
