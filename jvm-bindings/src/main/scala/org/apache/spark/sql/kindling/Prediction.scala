package org.apache.spark.sql.kindling

import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions.{Expression, PlanExpression}
import org.apache.spark.sql.types.StructType
import org.apache.spark.sql.vectorized.ColumnarBatch

/**
 * What [[KindlingPredict]] does to a partition, seen from Spark's side. It travels to the tasks by serialization, so it holds no
 * weights itself.
 */
trait Prediction extends Serializable {

  /** What the plan's text calls it. */
  def name: String

  /** Whether there may be fewer rows afterwards. */
  def dropsRows: Boolean

  /** Whether it also takes batches of columns; then it gives as many rows in each as it got and [[Wiring.condition]] lets through. */
  def takesBatches: Boolean

  /** All rows that it gets. Each is valid until the next is asked for, as Spark's operators agree. */
  def rows(rows: Iterator[InternalRow], wiring: Wiring, report: Prediction.Report): Iterator[InternalRow]

  /** Each batch is valid until the next is asked for, and so are the columns in it. None is empty unless it came so. */
  def batches(batches: Iterator[ColumnarBatch], wiring: Wiring, report: Prediction.Report): Iterator[ColumnarBatch]
}

object Prediction {

  /** Is told how many rows were predicted in how many nanoseconds. */
  type Report = (Int, Long) => Unit
}

/**
 * Which columns go where, and which rows.
 *
 * @param below
 *   the columns that come in
 * @param added
 *   the predictions
 * @param inputs
 *   ordinals in `below` of what is predicted from
 * @param output
 *   ordinals in `below` followed by `added`: the columns that go out, in order
 * @param condition
 *   what a row of a batch must fulfil to be predicted and go out, bound to `below`; none where all do
 */
final case class Wiring(
    below: StructType,
    added: StructType,
    inputs: Seq[Int],
    output: Seq[Int],
    condition: Option[Expression] = None
) {

  /** Ordinals of the columns below that go out, each once. */
  val passed: Seq[Int] = output.filter(_ < below.length).distinct.sorted

  /** Ordinals in `added` of the predictions that go out, each once. */
  val predicted: Seq[Int] = output.filter(_ >= below.length).map(_ - below.length).distinct.sorted
}

object Wiring {

  /** Whether a condition looks at a row and at nothing else, such as a subquery or a random number. */
  def isOfRows(condition: Expression): Boolean =
    condition.deterministic && !condition.exists(_.isInstanceOf[PlanExpression[_]])
}
