package org.apache.spark.sql.kindling

import org.apache.spark.sql.{classic, DataFrame, Dataset}
import org.apache.spark.sql.catalyst.expressions.{
  Alias,
  And,
  Attribute,
  AttributeReference,
  AttributeSet,
  IntegerLiteral,
  NamedExpression,
  PredicateHelper
}
import org.apache.spark.sql.catalyst.plans.logical.{Filter, LocalLimit, LogicalPlan, Project}
import org.apache.spark.sql.catalyst.rules.Rule
import org.apache.spark.sql.execution.{FilterExec, ProjectExec, SparkPlan, SparkStrategy}
import org.apache.spark.sql.types.StructType

/** Makes DataFrames with a [[KindlingPredict]] in their plan, and teaches a session to run it (`private[sql]`). */
object PredictPlanning {

  /**
   * The columns of `data`, as they are, and those of `added`.
   *
   * @param inputs
   *   ordinals of the columns that `prediction` reads
   */
  def transform(data: Dataset[_], prediction: Prediction, inputs: Seq[Int], added: StructType): DataFrame = data match {
    case known: classic.Dataset[_] =>
      teach(known.sparkSession)
      val child = known.logicalPlan
      val predictions = added.map(f => AttributeReference(f.name, f.dataType, f.nullable, f.metadata)())
      val node = KindlingPredict(prediction, inputs.map(child.output), predictions, child)
      classic.Dataset.ofRows(
        known.sparkSession,
        Project(child.output ++ predictions.map(attribute => Alias(attribute, attribute.name)()), node)
      )
    case other =>
      throw new IllegalArgumentException(
        s"Kindling predicts for a DataFrame of the Spark server, not for a ${other.getClass.getName}"
      )
  }

  /** Sessions made from this one (streaming queries have their own) know what it knows. Doing it again changes nothing. */
  private def teach(session: classic.SparkSession): Unit = {
    val methods = session.experimental
    methods.synchronized {
      if (!methods.extraStrategies.contains(PredictStrategy)) methods.extraStrategies :+= PredictStrategy
      if (!methods.extraOptimizations.contains(PredictPushdown)) methods.extraOptimizations :+= PredictPushdown
    }
  }
}

/** Plans the node together with the projection above it, so that only columns are put out that somebody wants. */
private object PredictStrategy extends SparkStrategy {

  override def apply(plan: LogicalPlan): Seq[SparkPlan] = plan match {
    case Project(list, node: KindlingPredict) if isChoice(list) => Seq(run(node, list.map(_.toAttribute)))
    case Project(list, node: KindlingPredict) => Seq(ProjectExec(list, run(node, needed(node, list))))
    case Project(list, Filter(condition, node: KindlingPredict)) =>
      Seq(ProjectExec(list, FilterExec(condition, run(node, needed(node, list, condition.references)))))
    case node: KindlingPredict => Seq(run(node, node.output))
    case _ => Nil
  }

  /** Whether the list only picks columns; then the node itself can put them out in that order. */
  private def isChoice(list: Seq[NamedExpression]): Boolean =
    list.forall(_.isInstanceOf[Attribute]) && list.map(_.exprId).distinct.size == list.size

  private def needed(
      node: KindlingPredict,
      list: Seq[NamedExpression],
      others: AttributeSet = AttributeSet.empty
  ): Seq[Attribute] = {
    val wanted = AttributeSet(list.flatMap(_.references)) ++ others
    node.output.filter(wanted.contains)
  }

  private def run(node: KindlingPredict, output: Seq[Attribute]): SparkPlan =
    KindlingPredictExec(node.prediction, node.inputs, node.predictions, output, planLater(node.child))
}

/**
 * Moves below the node what makes for fewer predictions and means the same there: conditions on the columns that came in, and, if
 * every row goes out again, the limit of a partition.
 */
private object PredictPushdown extends Rule[LogicalPlan] with PredicateHelper {

  override def apply(plan: LogicalPlan): LogicalPlan = plan.transform {
    case filter @ Filter(condition, node: KindlingPredict) =>
      val (below, above) = splitConjunctivePredicates(condition).partition { part =>
        part.deterministic && part.references.subsetOf(node.child.outputSet)
      }
      below.reduceOption(And.apply).fold[LogicalPlan](filter) { moved =>
        val filtered = node.copy(child = Filter(moved, node.child))
        above.reduceOption(And.apply).fold[LogicalPlan](filtered)(
          Filter(_, filtered)
        )
      }
    case limit @ LocalLimit(IntegerLiteral(most), node: KindlingPredict) if helps(node, most) =>
      limit.copy(child = limited(limit, node))
    case limit @ LocalLimit(IntegerLiteral(most), project @ Project(_, node: KindlingPredict)) if helps(node, most) =>
      limit.copy(child = project.copy(child = limited(limit, node)))
  }

  private def helps(node: KindlingPredict, most: Int): Boolean =
    !node.prediction.dropsRows && node.child.maxRowsPerPartition.forall(_ > most)

  private def limited(limit: LocalLimit, node: KindlingPredict): KindlingPredict =
    node.copy(child = LocalLimit(limit.limitExpr, node.child))
}
