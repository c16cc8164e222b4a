package kindling.internal

import org.apache.spark.sql.catalyst.expressions.SpecializedGetters
import org.apache.spark.sql.types._
import org.apache.spark.unsafe.Platform

/**
 * Reads one number of a row or array and stores it as a native number.
 *
 * A Spark type is a small code, so that the inner loops switch on an Int: a virtual call per number would cost more than the
 * number. Floats go through Double, which holds every float, int, short and byte exactly.
 *
 * What is no number by itself becomes one: a boolean 0 or 1, a date the days since 1970-01-01, a timestamp the seconds since
 * 1970-01-01 00:00 (of a timestamp without time zone: its own) with the microseconds as fraction, all as Spark's casts have it.
 */
private[kindling] final class NumberType private (
    val code: Int,
    precision: Int,
    scale: Int,
    vocabulary: Option[Vocabulary] = None
) extends Serializable {
  import NumberType._

  val isText: Boolean = code == TextCode

  private val words: Vocabulary = vocabulary.orNull

  /** Only floats can be NaN. */
  val mayBeNaN: Boolean = code == FloatCode || code == DoubleCode

  /** Bytes of a value where Spark keeps values of this type side by side; 0 for decimals and strings, which [[Convert]] does not read. */
  val size: Int = code match {
    case DoubleCode | LongCode | TimestampCode => 8
    case FloatCode | IntCode => 4
    case ShortCode => 2
    case ByteCode | BooleanCode => 1
    case DecimalCode | TextCode => 0
  }

  /** The number of a string that has none but is kept. */
  def unseen: Int = words.size

  /** The number of a string, [[Vocabulary.Unseen]] if it is null or has none. */
  def index(from: SpecializedGetters, ordinal: Int): Int =
    if (from.isNullAt(ordinal)) Vocabulary.Unseen else words.index(from.getUTF8String(ordinal))

  def double(from: SpecializedGetters, ordinal: Int): Double = (code: @annotation.switch) match {
    case FloatCode => from.getFloat(ordinal).toDouble
    case DoubleCode => from.getDouble(ordinal)
    case LongCode => from.getLong(ordinal).toDouble
    case IntCode => from.getInt(ordinal).toDouble
    case ShortCode => from.getShort(ordinal).toDouble
    case ByteCode => from.getByte(ordinal).toDouble
    case DecimalCode => from.getDecimal(ordinal, precision, scale).toDouble
    case BooleanCode => if (from.getBoolean(ordinal)) 1.0 else 0.0
    case TimestampCode => seconds(from.getLong(ordinal))
    case TextCode => index(from, ordinal).toDouble
  }

  def long(from: SpecializedGetters, ordinal: Int): Long = (code: @annotation.switch) match {
    case LongCode => from.getLong(ordinal)
    case IntCode => from.getInt(ordinal).toLong
    case ShortCode => from.getShort(ordinal).toLong
    case ByteCode => from.getByte(ordinal).toLong
    // The layout refuses fractions for integers; only labels come here with them, after a check that they are whole.
    case FloatCode => from.getFloat(ordinal).toLong
    case DoubleCode => from.getDouble(ordinal).toLong
    case DecimalCode => from.getDecimal(ordinal, precision, scale).toLong
    case BooleanCode => if (from.getBoolean(ordinal)) 1L else 0L
    case TimestampCode => seconds(from.getLong(ordinal)).toLong
    case TextCode => index(from, ordinal).toLong
  }

  /** As the user would write it, for messages. */
  def text(from: SpecializedGetters, ordinal: Int): String = code match {
    case LongCode | IntCode | ShortCode | ByteCode => long(from, ordinal).toString
    case DecimalCode => from.getDecimal(ordinal, precision, scale).toString
    case BooleanCode => from.getBoolean(ordinal).toString
    case TextCode => s"\"${from.getUTF8String(ordinal)}\""
    case _ => double(from, ordinal).toString
  }
}

private[kindling] object NumberType {
  private[internal] final val FloatCode = 0
  private[internal] final val DoubleCode = 1
  private[internal] final val LongCode = 2
  private[internal] final val IntCode = 3
  private[internal] final val ShortCode = 4
  private[internal] final val ByteCode = 5
  private[internal] final val DecimalCode = 6
  private[internal] final val BooleanCode = 7
  private[internal] final val TimestampCode = 8
  private[internal] final val TextCode = 9

  /** None for what is no number and does not become one. */
  def get(dataType: DataType): Option[NumberType] = dataType match {
    case decimal: DecimalType => Some(new NumberType(DecimalCode, decimal.precision, decimal.scale))
    case other => codes.get(other).map(new NumberType(_, 0, 0))
  }

  def of(dataType: DataType): NumberType =
    get(dataType).getOrElse(throw new IllegalArgumentException(s"${dataType.simpleString} is not a number type"))

  /** A column's own type, or that of strings with a vocabulary. */
  def of(dataType: DataType, vocabulary: Option[Vocabulary]): NumberType =
    vocabulary.fold(of(dataType))(words => new NumberType(TextCode, 0, 0, Some(words)))

  private val codes: Map[DataType, Int] = Map(
    FloatType -> FloatCode,
    DoubleType -> DoubleCode,
    LongType -> LongCode,
    IntegerType -> IntCode,
    // Spark keeps a date as its days.
    DateType -> IntCode,
    ShortType -> ShortCode,
    ByteType -> ByteCode,
    BooleanType -> BooleanCode,
    TimestampType -> TimestampCode,
    TimestampNTZType -> TimestampCode
  )

  private[internal] def seconds(microseconds: Long): Double = microseconds / 1e6
}

/** Stores numbers of one native type at addresses. The caller upholds that the addresses are its own to write. */
private[kindling] object Store {

  /** Stores the number at `ordinal`; false if it is NaN (it is stored all the same). */
  def number(from: SpecializedGetters, ordinal: Int, source: NumberType, target: DType, address: Long): Boolean =
    target match {
      case DType.Float32 =>
        val value = source.double(from, ordinal)
        Platform.putFloat(null, address, value.toFloat)
        value == value
      case DType.Float64 =>
        val value = source.double(from, ordinal)
        Platform.putDouble(null, address, value)
        value == value
      case DType.Int64 =>
        Platform.putLong(null, address, source.long(from, ordinal))
        true
      case DType.Int32 =>
        Platform.putInt(null, address, source.long(from, ordinal).toInt)
        true
      case DType.UInt8 => throw new IllegalStateException("numbers do not become uint8")
    }

  def whole(value: Long, target: DType, address: Long): Unit = target match {
    case DType.Float32 => Platform.putFloat(null, address, value.toFloat)
    case DType.Float64 => Platform.putDouble(null, address, value.toDouble)
    case DType.Int64 => Platform.putLong(null, address, value)
    case DType.Int32 => Platform.putInt(null, address, value.toInt)
    case DType.UInt8 => Platform.putByte(null, address, value.toByte)
  }

  def double(value: Double, target: DType, address: Long): Unit = target match {
    case DType.Float32 => Platform.putFloat(null, address, value.toFloat)
    case DType.Float64 => Platform.putDouble(null, address, value)
    case DType.Int64 | DType.Int32 | DType.UInt8 =>
      throw new IllegalStateException(s"a fraction cannot be stored as $target")
  }
}
