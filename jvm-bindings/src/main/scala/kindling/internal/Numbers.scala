package kindling.internal

import org.apache.spark.sql.catalyst.expressions.SpecializedGetters
import org.apache.spark.sql.types._
import org.apache.spark.unsafe.Platform

/**
 * Reads one number of a row or array and stores it as a native number.
 *
 * A Spark type is a small code, so that the inner loops switch on an Int: a virtual call per number would cost more than the
 * number. Floats go through Double, which holds every float, int, short and byte exactly.
 */
private[kindling] final class NumberType private (val code: Int, precision: Int, scale: Int) extends Serializable {
  import NumberType._

  /** Only floats can be NaN. */
  val mayBeNaN: Boolean = code == FloatCode || code == DoubleCode

  def double(from: SpecializedGetters, ordinal: Int): Double = (code: @annotation.switch) match {
    case FloatCode => from.getFloat(ordinal).toDouble
    case DoubleCode => from.getDouble(ordinal)
    case LongCode => from.getLong(ordinal).toDouble
    case IntCode => from.getInt(ordinal).toDouble
    case ShortCode => from.getShort(ordinal).toDouble
    case ByteCode => from.getByte(ordinal).toDouble
    case DecimalCode => from.getDecimal(ordinal, precision, scale).toDouble
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
  }

  /** As the user would write it, for messages. */
  def text(from: SpecializedGetters, ordinal: Int): String = code match {
    case LongCode | IntCode | ShortCode | ByteCode => long(from, ordinal).toString
    case DecimalCode => from.getDecimal(ordinal, precision, scale).toString
    case _ => double(from, ordinal).toString
  }
}

private[kindling] object NumberType {
  private final val FloatCode = 0
  private final val DoubleCode = 1
  private final val LongCode = 2
  private final val IntCode = 3
  private final val ShortCode = 4
  private final val ByteCode = 5
  private final val DecimalCode = 6

  def of(dataType: DataType): NumberType = dataType match {
    case FloatType => new NumberType(FloatCode, 0, 0)
    case DoubleType => new NumberType(DoubleCode, 0, 0)
    case LongType => new NumberType(LongCode, 0, 0)
    case IntegerType => new NumberType(IntCode, 0, 0)
    case ShortType => new NumberType(ShortCode, 0, 0)
    case ByteType => new NumberType(ByteCode, 0, 0)
    case decimal: DecimalType => new NumberType(DecimalCode, decimal.precision, decimal.scale)
    case other => throw new IllegalArgumentException(s"${other.simpleString} is not a number type")
  }
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
    }

  def double(value: Double, target: DType, address: Long): Unit = target match {
    case DType.Float32 => Platform.putFloat(null, address, value.toFloat)
    case DType.Float64 => Platform.putDouble(null, address, value)
    case DType.Int64 | DType.Int32 => throw new IllegalStateException(s"a fraction cannot be stored as $target")
  }
}
