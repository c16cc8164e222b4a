package org.apache.spark.sql.kindling

import org.apache.spark.sql.catalyst.InternalRow
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

  /** Whether it also takes batches of columns; then it gives as many rows in each as it got. */
  def takesBatches: Boolean

  /** Each row is valid until the next is asked for, as Spark's operators agree. */
  def rows(rows: Iterator[InternalRow], wiring: Wiring, report: Prediction.Report): Iterator[InternalRow]

  /** Each batch is valid until the next is asked for, and so may be the columns in it that are the given batch's own. */
  def batches(batches: Iterator[ColumnarBatch], wiring: Wiring, report: Prediction.Report): Iterator[ColumnarBatch]
}

object Prediction {

  /** Is told how many rows were predicted in how many nanoseconds. */
  type Report = (Int, Long) => Unit
}

/**
 * Which columns go where.
 *
 * @param below
 *   the columns that come in
 * @param added
 *   the predictions
 * @param inputs
 *   ordinals in `below` of what is predicted from
 * @param output
 *   ordinals in `below` followed by `added`: the columns that go out, in order
 */
final case class Wiring(below: StructType, added: StructType, inputs: Seq[Int], output: Seq[Int]) {

  /** Ordinals of the columns below that go out, each once. */
  val passed: Seq[Int] = output.filter(_ < below.length).distinct.sorted

  /** Ordinals in `added` of the predictions that go out, each once. */
  val predicted: Seq[Int] = output.filter(_ >= below.length).map(_ - below.length).distinct.sorted
}
