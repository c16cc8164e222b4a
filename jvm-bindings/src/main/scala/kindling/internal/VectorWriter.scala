package kindling.internal

import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions.UnsafeArrayData
import org.apache.spark.sql.types.{ArrayType, ByteType, DoubleType, IntegerType, StructField, StructType}
import org.apache.spark.unsafe.Platform

/**
 * One column of Spark ML vectors. A vector lies in a row as the struct (type: byte, size: int, indices: array<int>, values:
 * array<double>), where type 0 is sparse; it is read as it lies, because building a Vector object per row costs more than the copy.
 */
private final class VectorWriter(name: String, ordinal: Int, target: DType, width: Int, keep: Boolean)
    extends ColumnWriter {

  override def write(row: InternalRow, address: Long): Boolean =
    if (row.isNullAt(ordinal)) {
      if (keep) throw new RowProblem(s"${ColumnWriter.isNull(name)}, which handleInvalid=keep cannot keep")
      false
    } else {
      val vector = row.getStruct(ordinal, 4)
      if (vector.getByte(0) == VectorWriter.Sparse) sparse(vector, address) else dense(vector, address)
    }

  private def dense(vector: InternalRow, address: Long): Boolean = {
    val values = vector.getArray(3)
    if (values.numElements() != width) ColumnWriter.wrongLength(name, width, values.numElements())
    values match {
      case unsafe: UnsafeArrayData =>
        val start = unsafe.getBaseOffset + UnsafeArrayData.calculateHeaderPortionInBytes(width)
        Convert
          .run(VectorWriter.Value, unsafe.getBaseObject, start, 8L, target, address, target.size.toLong, width) || keep
      case other =>
        var i = 0
        while (i < width) {
          if (!put(other.getDouble(i), address, i)) return false
          i += 1
        }
        true
    }
  }

  private def sparse(vector: InternalRow, address: Long): Boolean = {
    val size = vector.getInt(1)
    if (size != width) ColumnWriter.wrongLength(name, width, size)
    Platform.setMemory(null, address, width.toLong * target.size, 0)
    val indices = vector.getArray(2)
    val values = vector.getArray(3)
    var i = 0
    while (i < indices.numElements()) {
      val index = indices.getInt(i)
      if (index < 0 || index >= width)
        throw new RowProblem(s"""the column "$name" has the index $index in a vector of size $size""")
      if (!put(values.getDouble(i), address, index)) return false
      i += 1
    }
    true
  }

  private def put(value: Double, address: Long, index: Int): Boolean = {
    Store.double(value, target, address + index.toLong * target.size)
    keep || value == value
  }

  override def problem(row: InternalRow): String =
    if (row.isNullAt(ordinal)) ColumnWriter.isNull(name) else s"""the column "$name" holds a NaN"""
}

private object VectorWriter {
  final val Sparse: Byte = 0
  val Value: NumberType = NumberType.of(DoubleType)
  final val Dense: Byte = 1

  /** How Spark ML lays a vector out. */
  val layout: StructType = StructType(
    Seq(
      StructField("type", ByteType, nullable = false),
      StructField("size", IntegerType),
      StructField("indices", ArrayType(IntegerType, containsNull = false)),
      StructField("values", ArrayType(DoubleType, containsNull = false))
    )
  )
}
