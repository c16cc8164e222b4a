package org.apache.spark.sql.kindling

import org.apache.spark.{InterruptibleIterator, TaskContext}
import org.apache.spark.rdd.RDD
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions.{
  And,
  Attribute,
  AttributeSet,
  BindReferences,
  Expression,
  Predicate,
  SortOrder
}
import org.apache.spark.sql.catalyst.plans.logical.{LogicalPlan, UnaryNode}
import org.apache.spark.sql.catalyst.plans.physical.Partitioning
import org.apache.spark.sql.execution.{FilterExec, ProjectExec, SparkPlan, UnaryExecNode}
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
 *
 * So does Spark's filter, which takes rows only. A filter of a scan's batches is therefore made a part of the node, as `condition`,
 * once Spark's planner is through with it: before that, the scan has to see it, to read less.
 */
final case class KindlingPredictExec(
    prediction: Prediction,
    inputs: Seq[Attribute],
    predictions: Seq[Attribute],
    output: Seq[Attribute],
    child: SparkPlan,
    condition: Option[Expression] = None
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
    child.execute().mapPartitionsWithIndex { (partition, rows) =>
      task.rows(KindlingPredictExec.chosen(KindlingPredictExec.killable(rows), columns, partition), columns, tell)
    }
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
      output.map(attribute => ordinals(attribute.exprId)),
      condition.map(BindReferences.bindReference(_, child.output))
    )
  }

  private def report: Prediction.Report = {
    val (rows, time) = (longMetric("numOutputRows"), longMetric("predictTime"))
    (count, nanos) => {
      rows += count.toLong
      time += nanos
    }
  }

  override protected def stringArgs: Iterator[Any] =
    Iterator[Any](prediction.name, inputs, output) ++ condition.iterator

  // Spark's planner puts what it planned below into its place by this.
  override protected def withNewChildInternal(newChild: SparkPlan): KindlingPredictExec =
    KindlingPredictExec.batches(newChild).filter(_ => prediction.takesBatches).fold(copy(child = newChild)) {
      case (below, conditions) =>
        copy(child = below, condition = (condition.toSeq ++ conditions).reduceOption(And(_, _)))
    }
}

private object KindlingPredictExec {

  /** The plan that makes batches below filters of their rows, and what these ask for. */
  private def batches(plan: SparkPlan): Option[(SparkPlan, Seq[Expression])] = plan match {
    case FilterExec(condition, child) if Wiring.isOfRows(condition) =>
      // Not of columns that something in between has made.
      batches(child).collect {
        case (below, others) if condition.references.subsetOf(below.outputSet) => (below, others :+ condition)
      }
    case ProjectExec(list, child) if list.forall(_.isInstanceOf[Attribute]) => batches(child)
    case columnar if columnar.supportsColumnar => Some((columnar, Nil))
    case _ => None
  }

  /** The rows that go on, should there be rows below after all. */
  private def chosen(rows: Iterator[InternalRow], columns: Wiring, partition: Int): Iterator[InternalRow] =
    columns.condition.fold(rows) { condition =>
      val predicate = Predicate.create(condition)
      predicate.initialize(partition)
      rows.filter(predicate.eval)
    }

  /** Ends with the task's own exception when the task is killed. */
  private def killable[T](values: Iterator[T]): Iterator[T] =
    Option(TaskContext.get()).fold(values)(new InterruptibleIterator(_, values))

  private def schema(attributes: Seq[Attribute]): StructType =
    StructType(attributes.map(a => StructField(a.name, a.dataType, a.nullable)))
}
