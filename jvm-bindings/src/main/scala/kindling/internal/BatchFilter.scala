package kindling.internal

import org.apache.spark.sql.catalyst.expressions.{Attribute, Expression, Predicate}
import org.apache.spark.sql.vectorized.ColumnarBatch

/**
 * A filter above the plan that makes batches: which rows of a batch are wanted. It is evaluated by Spark's own predicate, the one that
 * its filter uses on rows, and so means the same.
 *
 * It lies between two readers because Spark has no filter of batches: it turns all rows of a batch into rows to drop some of them.
 */
private[kindling] final case class BatchFilter(condition: Expression, columns: Seq[Attribute]) {

  /** For one task. */
  def open(partition: Int): BatchFilter.Rows = {
    val predicate = Predicate.create(condition, columns)
    predicate.initialize(partition)
    (batch, wanted) => {
      val rows = batch.numRows
      var found = 0
      var i = 0
      while (i < rows) {
        val wants = predicate.eval(batch.getRow(i))
        wanted(i) = wants
        if (wants) found += 1
        i += 1
      }
      found
    }
  }
}

private[kindling] object BatchFilter {

  /** Says of each row of a batch whether it is wanted, and of how many. */
  trait Rows {
    def choose(batch: ColumnarBatch, wanted: Array[Boolean]): Int
  }
}
