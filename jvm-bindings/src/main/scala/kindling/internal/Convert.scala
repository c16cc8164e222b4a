package kindling.internal

import org.apache.spark.unsafe.Platform

/**
 * The inner loops: numbers of one Spark type, evenly spaced in memory, become native numbers, evenly spaced in memory.
 *
 * One set of loops serves every reader, for only the spacing differs: fields of an UnsafeRow are 8 bytes apart and go side by
 * side; a column of a batch lies side by side and goes a native row apart (the transposition); arrays and vectors lie and go side
 * by side. The pairs of types that matter have a loop of their own, which the compiler keeps free of calls; the rest share one that
 * switches on the type. What is stored is what [[Store.number]] stores for the same value.
 *
 * The caller upholds that `count` numbers of `source.size` bytes lie at `from` (an offset in `base`, or an address if `base` is
 * null), and that the places from `to` on are its own to write.
 */
private[kindling] object Convert {
  import NumberType._

  /** False if one of the numbers is NaN; all are stored all the same. */
  def run(
      source: NumberType,
      base: AnyRef,
      from: Long,
      fromStep: Long,
      target: DType,
      to: Long,
      toStep: Long,
      count: Int
  ): Boolean = target match {
    case DType.Float32 =>
      source.code match {
        case FloatCode => floatToFloat(base, from, fromStep, to, toStep, count)
        case DoubleCode => doubleToFloat(base, from, fromStep, to, toStep, count)
        case _ => anyToFloat(source.code, base, from, fromStep, to, toStep, count)
      }
    case DType.Float64 =>
      source.code match {
        case DoubleCode => doubleToDouble(base, from, fromStep, to, toStep, count)
        case _ => anyToDouble(source.code, base, from, fromStep, to, toStep, count)
      }
    case DType.Int64 =>
      source.code match {
        case LongCode => longToLong(base, from, fromStep, to, toStep, count)
        case _ => anyToLong(source.code, base, from, fromStep, to, toStep, count)
      }
    case DType.Int32 => anyToInt(source.code, base, from, fromStep, to, toStep, count)
    case DType.UInt8 => throw new IllegalStateException("numbers do not become uint8")
  }

  private def floatToFloat(base: AnyRef, from: Long, fromStep: Long, to: Long, toStep: Long, count: Int): Boolean = {
    var valid = true
    var i = 0
    while (i < count) {
      val value = Platform.getFloat(base, from + i * fromStep)
      Platform.putFloat(null, to + i * toStep, value)
      if (value != value) valid = false
      i += 1
    }
    valid
  }

  private def doubleToFloat(base: AnyRef, from: Long, fromStep: Long, to: Long, toStep: Long, count: Int): Boolean = {
    var valid = true
    var i = 0
    while (i < count) {
      val value = Platform.getDouble(base, from + i * fromStep)
      Platform.putFloat(null, to + i * toStep, value.toFloat)
      if (value != value) valid = false
      i += 1
    }
    valid
  }

  private def doubleToDouble(base: AnyRef, from: Long, fromStep: Long, to: Long, toStep: Long, count: Int): Boolean = {
    var valid = true
    var i = 0
    while (i < count) {
      val value = Platform.getDouble(base, from + i * fromStep)
      Platform.putDouble(null, to + i * toStep, value)
      if (value != value) valid = false
      i += 1
    }
    valid
  }

  private def longToLong(base: AnyRef, from: Long, fromStep: Long, to: Long, toStep: Long, count: Int): Boolean = {
    var i = 0
    while (i < count) {
      Platform.putLong(null, to + i * toStep, Platform.getLong(base, from + i * fromStep))
      i += 1
    }
    true
  }

  private def anyToFloat(
      code: Int,
      base: AnyRef,
      from: Long,
      fromStep: Long,
      to: Long,
      toStep: Long,
      count: Int
  ): Boolean = {
    var valid = true
    var i = 0
    while (i < count) {
      val value = double(code, base, from + i * fromStep)
      Platform.putFloat(null, to + i * toStep, value.toFloat)
      if (value != value) valid = false
      i += 1
    }
    valid
  }

  private def anyToDouble(
      code: Int,
      base: AnyRef,
      from: Long,
      fromStep: Long,
      to: Long,
      toStep: Long,
      count: Int
  ): Boolean = {
    var valid = true
    var i = 0
    while (i < count) {
      val value = double(code, base, from + i * fromStep)
      Platform.putDouble(null, to + i * toStep, value)
      if (value != value) valid = false
      i += 1
    }
    valid
  }

  private def anyToLong(
      code: Int,
      base: AnyRef,
      from: Long,
      fromStep: Long,
      to: Long,
      toStep: Long,
      count: Int
  ): Boolean = {
    var i = 0
    while (i < count) {
      Platform.putLong(null, to + i * toStep, long(code, base, from + i * fromStep))
      i += 1
    }
    true
  }

  private def anyToInt(
      code: Int,
      base: AnyRef,
      from: Long,
      fromStep: Long,
      to: Long,
      toStep: Long,
      count: Int
  ): Boolean = {
    var i = 0
    while (i < count) {
      Platform.putInt(null, to + i * toStep, long(code, base, from + i * fromStep).toInt)
      i += 1
    }
    true
  }

  /** One number, as [[NumberType.double]] gives it. */
  def double(code: Int, base: AnyRef, at: Long): Double = (code: @annotation.switch) match {
    case FloatCode => Platform.getFloat(base, at).toDouble
    case DoubleCode => Platform.getDouble(base, at)
    case LongCode => Platform.getLong(base, at).toDouble
    case IntCode => Platform.getInt(base, at).toDouble
    case ShortCode => Platform.getShort(base, at).toDouble
    case ByteCode => Platform.getByte(base, at).toDouble
    case BooleanCode => if (Platform.getByte(base, at) != 0) 1.0 else 0.0
    case TimestampCode => seconds(Platform.getLong(base, at))
    case _ => throw new IllegalArgumentException("decimals are read one by one")
  }

  /** One number, as [[NumberType.long]] gives it. */
  def long(code: Int, base: AnyRef, at: Long): Long = (code: @annotation.switch) match {
    case LongCode => Platform.getLong(base, at)
    case IntCode => Platform.getInt(base, at).toLong
    case ShortCode => Platform.getShort(base, at).toLong
    case ByteCode => Platform.getByte(base, at).toLong
    case FloatCode => Platform.getFloat(base, at).toLong
    case DoubleCode => Platform.getDouble(base, at).toLong
    case BooleanCode => if (Platform.getByte(base, at) != 0) 1L else 0L
    case TimestampCode => seconds(Platform.getLong(base, at)).toLong
    case _ => throw new IllegalArgumentException("decimals are read one by one")
  }
}
