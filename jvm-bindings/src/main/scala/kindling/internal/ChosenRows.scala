package kindling.internal

import org.apache.spark.sql.catalyst.expressions.Expression
import org.apache.spark.sql.types.Decimal
import org.apache.spark.sql.vectorized.{ColumnVector, ColumnarArray, ColumnarBatch, ColumnarMap}
import org.apache.spark.unsafe.types.UTF8String

/**
 * The rows of a batch that are wanted: `count` of them, of which number `i` is row `at(i)` of the batch.
 *
 * The arrays belong to the filter that made it, which uses them again for the next batch.
 */
private[kindling] final class ChosenRows(val wanted: Array[Boolean], val at: Array[Int], val count: Int) {

  /** A column of the batch with these rows only. Nothing is copied. */
  def column(vector: ColumnVector): ColumnVector = new ChosenRows.Column(vector, at)
}

private[kindling] object ChosenRows {

  /** Of one task: chooses rows by a condition that is bound to the batch's columns. */
  final class Filter(condition: Expression, partition: Int) {
    private val filter = BatchFilter(condition, Nil).open(partition)
    private var wanted = Array.empty[Boolean]
    private var at = Array.empty[Int]

    /** None if all rows are wanted. */
    def of(batch: ColumnarBatch): Option[ChosenRows] = {
      val rows = batch.numRows()
      if (wanted.length < rows) {
        wanted = new Array[Boolean](rows)
        at = new Array[Int](rows)
      }
      val count = filter.choose(batch, wanted)
      if (count == rows) None
      else {
        var found = 0
        var row = 0
        while (row < rows) {
          at(found) = row
          if (wanted(row)) found += 1
          row += 1
        }
        Some(new ChosenRows(wanted, at, count))
      }
    }
  }

  private final class Column(vector: ColumnVector, at: Array[Int]) extends ColumnVector(vector.dataType()) {
    override def close(): Unit = vector.close()
    override def closeIfFreeable(): Unit = vector.closeIfFreeable()
    override def hasNull: Boolean = vector.hasNull
    override def numNulls(): Int = vector.numNulls()
    override def isNullAt(row: Int): Boolean = vector.isNullAt(at(row))
    override def getBoolean(row: Int): Boolean = vector.getBoolean(at(row))
    override def getByte(row: Int): Byte = vector.getByte(at(row))
    override def getShort(row: Int): Short = vector.getShort(at(row))
    override def getInt(row: Int): Int = vector.getInt(at(row))
    override def getLong(row: Int): Long = vector.getLong(at(row))
    override def getFloat(row: Int): Float = vector.getFloat(at(row))
    override def getDouble(row: Int): Double = vector.getDouble(at(row))
    override def getArray(row: Int): ColumnarArray = vector.getArray(at(row))
    override def getMap(row: Int): ColumnarMap = vector.getMap(at(row))
    override def getDecimal(row: Int, precision: Int, scale: Int): Decimal =
      vector.getDecimal(at(row), precision, scale)
    override def getUTF8String(row: Int): UTF8String = vector.getUTF8String(at(row))
    override def getBinary(row: Int): Array[Byte] = vector.getBinary(at(row))

    // A struct's fields lie in the child at the struct's own row. So do the parts of intervals and variants, which Spark reads there.
    // An array's elements do not, and are read through the array.
    override def getChild(ordinal: Int): ColumnVector = vector.getChild(ordinal) match {
      case null => null
      case child => new Column(child, at)
    }
  }
}
