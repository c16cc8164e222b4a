package kindling.internal

import java.lang.reflect.{Field, Method}

import org.apache.spark.sql.execution.vectorized.{OffHeapColumnVector, OnHeapColumnVector, WritableColumnVector}
import org.apache.spark.sql.types._
import org.apache.spark.sql.vectorized.{ArrowColumnVector, ColumnVector}
import org.apache.spark.unsafe.Platform

import scala.util.Try

/**
 * Where the numbers of a column vector lie, so that [[Convert]] can read them without a call per number.
 *
 * Spark's off-heap vectors tell their address. Its on-heap vectors keep a plain array that no method hands out without a copy, so
 * the field is read; should a later Spark rename it, the copy is made. An ArrowColumnVector's buffer is asked for by reflection,
 * as Arrow's Java classes are Spark's and no dependency of ours. Everything else is read number by number into an array of our
 * own: decimals, strings with a vocabulary, and vectors that are dictionary encoded, constant, or of a class that we do not know. A
 * null's number is then 0, that of a null or unseen string [[Vocabulary.Unseen]].
 *
 * After [[locate]], number `i` lies at `start + i * size` of `base`, until the vector changes.
 */
private[kindling] final class VectorMemory(dataType: DataType, vocabulary: Option[Vocabulary] = None) {
  import NumberType._

  val isText: Boolean = vocabulary.isDefined
  private val words: Vocabulary = vocabulary.orNull

  private val decimal = Some(dataType).collect { case decimal: DecimalType => decimal }

  /** How the numbers lie; decimals are turned into doubles first, strings into ints. */
  val source: NumberType =
    NumberType.of(if (decimal.isDefined) DoubleType else if (isText) IntegerType else dataType)
  private val size = source.size.toLong
  private val field = VectorMemory.onHeapFields.getOrElse(source.code, None)
  private var scratch: AnyRef = _
  private var scratchLength = 0

  var base: AnyRef = _
  var start: Long = 0L

  /** Numbers `from` until `until` of `vector` will be read. */
  def locate(vector: ColumnVector, from: Int, until: Int): Unit = vector match {
    case other if decimal.isDefined || isText => read(other, from, until)
    case heap: OnHeapColumnVector if !heap.hasDictionary => onHeap(heap, from, until)
    case direct: OffHeapColumnVector if !direct.hasDictionary => at(null, direct.valuesNativeAddress())
    case arrow: ArrowColumnVector =>
      VectorMemory.arrowAddress(arrow, dataType) match {
        case Some(address) => at(null, address)
        case None => read(arrow, from, until)
      }
    case other => read(other, from, until)
  }

  /** Of strings: marks the rows whose string has no number. */
  def markUnseen(from: Int, count: Int, judge: Array[Boolean]): Boolean = {
    var none = true
    var i = 0
    while (i < count) {
      if (Convert.long(IntCode, base, start + (from + i) * size) == Vocabulary.Unseen) {
        judge(i) = true
        none = false
      }
      i += 1
    }
    none
  }

  private def at(base: AnyRef, start: Long): Unit = {
    this.base = base
    this.start = start
  }

  private def onHeap(vector: OnHeapColumnVector, from: Int, until: Int): Unit = {
    val values = field.map(_.get(vector)).orNull
    if (values == null) read(vector, from, until) else at(values, VectorMemory.arrayOffset(source.code))
  }

  /** Number by number into an array that stands in for the vector. */
  private def read(vector: ColumnVector, from: Int, until: Int): Unit = {
    val count = until - from
    if (scratchLength < count) {
      scratch = VectorMemory.newArray(source.code, count)
      scratchLength = count
    }
    val nulls = vector.hasNull
    var i = 0
    scratch match {
      case doubles: Array[Double] if decimal.isDefined =>
        val (precision, scale) = decimal.fold((0, 0))(found => (found.precision, found.scale))
        while (i < count) {
          val absent = nulls && vector.isNullAt(from + i)
          doubles(i) = if (absent) 0.0 else vector.getDecimal(from + i, precision, scale).toDouble
          i += 1
        }
      case floats: Array[Float] =>
        while (i < count) {
          floats(i) = if (nulls && vector.isNullAt(from + i)) 0f else vector.getFloat(from + i)
          i += 1
        }
      case doubles: Array[Double] =>
        while (i < count) {
          doubles(i) = if (nulls && vector.isNullAt(from + i)) 0.0 else vector.getDouble(from + i)
          i += 1
        }
      case longs: Array[Long] =>
        while (i < count) {
          longs(i) = if (nulls && vector.isNullAt(from + i)) 0L else vector.getLong(from + i)
          i += 1
        }
      case ints: Array[Int] if isText =>
        while (i < count) {
          val absent = nulls && vector.isNullAt(from + i)
          ints(i) = if (absent) Vocabulary.Unseen else words.index(vector.getUTF8String(from + i))
          i += 1
        }
      case ints: Array[Int] =>
        while (i < count) {
          ints(i) = if (nulls && vector.isNullAt(from + i)) 0 else vector.getInt(from + i)
          i += 1
        }
      case shorts: Array[Short] =>
        while (i < count) {
          shorts(i) = if (nulls && vector.isNullAt(from + i)) 0 else vector.getShort(from + i)
          i += 1
        }
      case bytes: Array[Byte] if source.code == BooleanCode =>
        while (i < count) {
          bytes(i) = if (!(nulls && vector.isNullAt(from + i)) && vector.getBoolean(from + i)) 1 else 0
          i += 1
        }
      case bytes: Array[Byte] =>
        while (i < count) {
          bytes(i) = if (nulls && vector.isNullAt(from + i)) 0 else vector.getByte(from + i)
          i += 1
        }
      case other => throw new IllegalStateException(s"${other.getClass.getName} holds no numbers")
    }
    at(scratch, VectorMemory.arrayOffset(source.code) - from * size)
  }
}

private[kindling] object VectorMemory {
  import NumberType._

  /** Whether a column holds numbers. */
  def serves(dataType: DataType, vocabulary: Option[Vocabulary] = None): Boolean =
    vocabulary.isDefined || NumberType.get(dataType).isDefined

  private def newArray(code: Int, length: Int): AnyRef = code match {
    case FloatCode => new Array[Float](length)
    case DoubleCode => new Array[Double](length)
    case LongCode | TimestampCode => new Array[Long](length)
    case IntCode => new Array[Int](length)
    case ShortCode => new Array[Short](length)
    case _ => new Array[Byte](length)
  }

  private def arrayOffset(code: Int): Long = code match {
    case FloatCode => Platform.FLOAT_ARRAY_OFFSET.toLong
    case DoubleCode => Platform.DOUBLE_ARRAY_OFFSET.toLong
    case LongCode | TimestampCode => Platform.LONG_ARRAY_OFFSET.toLong
    case IntCode => Platform.INT_ARRAY_OFFSET.toLong
    case ShortCode => Platform.SHORT_ARRAY_OFFSET.toLong
    case _ => Platform.BYTE_ARRAY_OFFSET.toLong
  }

  /** By type code; None where this Spark has no such field. Looked up once per process, for it is a fact of Spark's class. */
  private lazy val onHeapFields: Map[Int, Option[Field]] = Map(
    FloatCode -> "floatData",
    DoubleCode -> "doubleData",
    LongCode -> "longData",
    TimestampCode -> "longData",
    IntCode -> "intData",
    ShortCode -> "shortData",
    ByteCode -> "byteData",
    BooleanCode -> "byteData"
  ).map { case (code, name) =>
    code -> Try {
      val field = classOf[OnHeapColumnVector].getDeclaredField(name)
      field.setAccessible(true)
      field
    }.filter(field => field.getType == newArray(code, 0).getClass).toOption
  }

  /** The Arrow vector that keeps this type the way Spark does, by the simple name of its class. */
  private val arrowClasses: Map[DataType, Set[String]] = Map(
    FloatType -> Set("Float4Vector"),
    DoubleType -> Set("Float8Vector"),
    LongType -> Set("BigIntVector"),
    IntegerType -> Set("IntVector"),
    DateType -> Set("DateDayVector"),
    ShortType -> Set("SmallIntVector"),
    ByteType -> Set("TinyIntVector"),
    TimestampType -> Set("TimeStampMicroTZVector"),
    TimestampNTZType -> Set("TimeStampMicroVector")
  )

  /** Whether Arrow's classes can be asked is a fact of the process. */
  private lazy val arrowMethods: Option[(Method, Method)] = Try {
    val values = classOf[ArrowColumnVector].getMethod("getValueVector")
    (values, Class.forName("org.apache.arrow.vector.FieldVector").getMethod("getDataBufferAddress"))
  }.toOption

  private def arrowAddress(vector: ArrowColumnVector, dataType: DataType): Option[Long] =
    for {
      (valueVector, address) <- arrowMethods
      values <- Try(valueVector.invoke(vector)).toOption
      if arrowClasses.get(dataType).exists(_.contains(values.getClass.getSimpleName))
      found <- Try(address.invoke(values)).toOption
    } yield found.asInstanceOf[java.lang.Long].longValue

  /** A vector of arrays that says where in its child a row's array lies; others are left to the row reader. */
  def arrays(vector: ColumnVector): Option[WritableColumnVector] = vector match {
    case writable: WritableColumnVector => Some(writable)
    case _ => None
  }
}
