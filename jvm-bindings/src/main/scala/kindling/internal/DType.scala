package kindling.internal

/** A number type that a DataFrame column can be turned into: the name the native library uses and its size in bytes. */
private[kindling] sealed abstract class DType(val name: String, val size: Int, val isFloat: Boolean)
    extends Serializable {
  override def toString: String = name
}

private[kindling] object DType {

  /** Pixels, and nothing else. */
  case object UInt8 extends DType("uint8", 1, false)
  case object Float32 extends DType("float32", 4, true)
  case object Float64 extends DType("float64", 8, true)
  case object Int32 extends DType("int32", 4, false)
  case object Int64 extends DType("int64", 8, false)

  /** Those that columns of numbers become. */
  val all: Seq[DType] = Seq(Float32, Float64, Int32, Int64)

  def named(name: String): Option[DType] = (all :+ UInt8).find(_.name == name)
}
