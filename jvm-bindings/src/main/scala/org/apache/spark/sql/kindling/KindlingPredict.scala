package org.apache.spark.sql.kindling

import org.apache.spark.{InterruptibleIterator, TaskContext}
import org.apache.spark.rdd.RDD
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions.{Attribute, AttributeSet, SortOrder}
import org.apache.spark.sql.catalyst.plans.logical.{LogicalPlan, UnaryNode}
import org.apache.spark.sql.catalyst.plans.physical.Partitioning
import org.apache.spark.sql.execution.{SparkPlan, UnaryExecNode}
import org.apache.spark.sql.execution.metric.{SQLMetric, SQLMetrics}
import org.apache.spark.sql.types.{StructField, StructType}
import org.apache.spark.sql.vectorized.ColumnarBatch

/**
 * `transform` in a query's plan: the rows below with predictions added.
 *
 * It refers to the columns that it predicts from and to no others, so that Spark prunes the rest through it. Its own attributes never
 * leave [[PredictPlanning.transform]]'s projection, which renames them: Spark gives the aliases of a projection new identities when
 * a frame is joined with itself, and knows nothing of a node that it did not make.
 */
final case class KindlingPredict(
    prediction: Prediction,
    inputs: Seq[Attribute],
    predictions: Seq[Attribute],
    child: LogicalPlan
) extends UnaryNode {

  override def output: Seq[Attribute] = child.output ++ predictions

  override def producedAttributes: AttributeSet = AttributeSet(predictions)

  override def maxRows: Option[Long] = child.maxRows

  override def maxRowsPerPartition: Option[Long] = child.maxRowsPerPartition

  override protected def stringArgs: Iterator[Any] = Iterator(prediction.name, inputs, predictions)

  override protected def withNewChildInternal(newChild: LogicalPlan): KindlingPredict = copy(child = newChild)
}

/**
 * Runs [[KindlingPredict]]: on batches of columns where those below come in batches and the prediction takes them, else on rows.
 * `output` are those of the columns below and of the predictions that somebody above needs, in any order.
 *
 * It offers one of the two only. Were rows on offer beside batches, Spark would turn the batches below into rows.
 */
final case class KindlingPredictExec(
    prediction: Prediction,
    inputs: Seq[Attribute],
    predictions: Seq[Attribute],
    output: Seq[Attribute],
    child: SparkPlan
) extends UnaryExecNode {

  override def nodeName: String = "KindlingPredict"

  override def producedAttributes: AttributeSet = AttributeSet(predictions)

  override def outputPartitioning: Partitioning = child.outputPartitioning

  override def outputOrdering: Seq[SortOrder] = child.outputOrdering

  override def supportsColumnar: Boolean = child.supportsColumnar && prediction.takesBatches

  override lazy val metrics: Map[String, SQLMetric] = Map(
    "numOutputRows" -> SQLMetrics.createMetric(sparkContext, "number of predicted rows"),
    "predictTime" -> SQLMetrics.createNanoTimingMetric(sparkContext, "time in the network")
  )

  // The closures hold these values and not the plan.
  override protected def doExecute(): RDD[InternalRow] = {
    val (task, columns, tell) = (prediction, wiring, report)
    child.execute().mapPartitions(rows => task.rows(KindlingPredictExec.killable(rows), columns, tell))
  }

  override protected def doExecuteColumnar(): RDD[ColumnarBatch] = {
    val (task, columns, tell) = (prediction, wiring, report)
    child.executeColumnar().mapPartitions(batches => task.batches(KindlingPredictExec.killable(batches), columns, tell))
  }

  private def wiring: Wiring = {
    val ordinals = (child.output ++ predictions).map(_.exprId).zipWithIndex.toMap
    Wiring(
      KindlingPredictExec.schema(child.output),
      KindlingPredictExec.schema(predictions),
      inputs.map(attribute => ordinals(attribute.exprId)),
      output.map(attribute => ordinals(attribute.exprId))
    )
  }

  private def report: Prediction.Report = {
    val (rows, time) = (longMetric("numOutputRows"), longMetric("predictTime"))
    (count, nanos) => {
      rows += count.toLong
      time += nanos
    }
  }

  override protected def stringArgs: Iterator[Any] = Iterator(prediction.name, inputs, output)

  override protected def withNewChildInternal(newChild: SparkPlan): KindlingPredictExec = copy(child = newChild)
}

private object KindlingPredictExec {

  /** Ends with the task's own exception when the task is killed. */
  private def killable[T](values: Iterator[T]): Iterator[T] =
    Option(TaskContext.get()).fold(values)(new InterruptibleIterator(_, values))

  private def schema(attributes: Seq[Attribute]): StructType =
    StructType(attributes.map(a => StructField(a.name, a.dataType, a.nullable)))
}
