package kindling.internal

import java.util.Arrays

import org.apache.spark.sql.types.{ArrayType, ByteType, DataType, Decimal, DoubleType, IntegerType, StringType}
import org.apache.spark.sql.vectorized.{ColumnVector, ColumnarArray, ColumnarMap}
import org.apache.spark.unsafe.types.UTF8String

/**
 * Predictions as columns of a batch, over arrays of the JVM: a column that is kept too long shows other numbers, and never memory
 * that is gone. They hold no nulls but those that Spark ML's layout of a dense vector asks for, and those of classes without a string.
 */
private[kindling] object PredictionVectors {

  /** The first `rows` rows of `values`. */
  def of(column: PredictedColumn, values: Array[Double], rows: Int): ColumnVector =
    if (column.words.isDefined) new Texts(column.texts, values, rows)
    else if (column.isVector) new DenseVectors(column.width, values)
    else new Doubles(values)

  private final class Doubles(values: Array[Double]) extends Column(DoubleType) {
    override def getDouble(row: Int): Double = values(row)
    override def getDoubles(row: Int, count: Int): Array[Double] = Arrays.copyOfRange(values, row, row + count)
  }

  /** The strings that classes stand for, null where a class has none. */
  private final class Texts(texts: Array[UTF8String], classes: Array[Double], rows: Int) extends Column(StringType) {
    private lazy val without = classes.iterator.take(rows).count(_ >= texts.length)
    override def hasNull: Boolean = without > 0
    override def numNulls(): Int = without
    override def isNullAt(row: Int): Boolean = classes(row) >= texts.length
    override def getUTF8String(row: Int): UTF8String = if (isNullAt(row)) null else texts(classes(row).toInt)
  }

  private final class DoubleArrays(width: Int, values: Array[Double])
      extends Column(ArrayType(DoubleType, containsNull = false)) {
    private val elements = new Doubles(values)
    override def getArray(row: Int): ColumnarArray = new ColumnarArray(elements, row * width, width)
    override def getChild(ordinal: Int): ColumnVector = elements
  }

  /** A struct, as Spark's rows hold vectors. */
  private final class DenseVectors(width: Int, values: Array[Double]) extends Column(VectorWriter.layout) {
    private val children = Array[ColumnVector](
      DenseType,
      new Nulls(IntegerType),
      new Nulls(ArrayType(IntegerType, containsNull = false)),
      new DoubleArrays(width, values)
    )
    override def getChild(ordinal: Int): ColumnVector = children(ordinal)
  }

  private object DenseType extends Column(ByteType) {
    override def getByte(row: Int): Byte = VectorWriter.Dense
  }

  private final class Nulls(dataType: DataType) extends Column(dataType) {
    override def hasNull: Boolean = true
    // The number of rows is not known here. Spark asks to see whether there are any.
    override def numNulls(): Int = Int.MaxValue
    override def isNullAt(row: Int): Boolean = true
  }

  /** A column without nulls and without anything that could be got from it. */
  private abstract class Column(dataType: DataType) extends ColumnVector(dataType) {
    override def close(): Unit = ()
    override def hasNull: Boolean = false
    override def numNulls(): Int = 0
    override def isNullAt(row: Int): Boolean = false
    override def getBoolean(row: Int): Boolean = none
    override def getByte(row: Int): Byte = none
    override def getShort(row: Int): Short = none
    override def getInt(row: Int): Int = none
    override def getLong(row: Int): Long = none
    override def getFloat(row: Int): Float = none
    override def getDouble(row: Int): Double = none
    override def getArray(row: Int): ColumnarArray = none
    override def getMap(row: Int): ColumnarMap = none
    override def getDecimal(row: Int, precision: Int, scale: Int): Decimal = none
    override def getUTF8String(row: Int): UTF8String = none
    override def getBinary(row: Int): Array[Byte] = none
    override def getChild(ordinal: Int): ColumnVector = none

    private def none: Nothing = throw new UnsupportedOperationException(s"a column of ${`type`} does not hold that")
  }
}
