package kindling.internal

import org.apache.spark.rdd.RDD
import org.apache.spark.sql.{classic, Dataset}
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions.{Alias, And, Attribute, Expression, NamedExpression}
import org.apache.spark.sql.execution._
import org.apache.spark.sql.execution.adaptive.{AdaptiveSparkPlanExec, QueryStageExec}
import org.apache.spark.sql.internal.SQLConf
import org.apache.spark.sql.kindling.Wiring
import org.apache.spark.sql.vectorized.ColumnarBatch

/**
 * What the ingest job reads, settled on the driver from the plan that Spark will execute: rows, or the columnar batches that a scan
 * makes before Spark turns them into rows. `text` says which and why, for the log.
 */
private[kindling] sealed trait RowSource {
  def text: String
}

private[kindling] object RowSource {
  final case class Rows(rdd: RDD[InternalRow], why: String) extends RowSource {
    def text: String = s"row by row, because $why"
  }

  /** `ordinals` are the columns of a batch that the layout selects, in its order; of its rows, `filter` says which. */
  final case class Batches(
      rdd: RDD[ColumnarBatch],
      ordinals: Array[Int],
      from: String,
      filter: Option[BatchFilter] = None
  ) extends RowSource {
    def text: String = s"by columns, in the batches of $from${filter.fold("")(_ => ", of which a filter chooses rows")}"
  }

  /** `data` is projected to the layout's columns. */
  def of(data: Dataset[_], layout: FeatureLayout): RowSource = {
    val selected = Ingest.select(data, layout)
    def rows(why: String) = Rows(selected.queryExecution.toRdd, why)
    layout.columns.find(column => !BatchColumn.serves(column.filling)) match {
      case Some(column) =>
        val names = column.filling.columns.map(field => s""""${field.name}"""").mkString(", ")
        rows(
          s"$names of type ${column.filling.columns.map(_.dataType.simpleString).distinct.mkString(", ")} is read so"
        )
      case None =>
        val plan = selected.queryExecution.executedPlan
        batches(plan, plan.output.indices, selected.sparkSession.sessionState.conf) match {
          case Right(found) =>
            val filter = found.conditions.reduceOption(And).map(BatchFilter(_, found.plan.output))
            Batches(columnar(found.plan, selected), found.ordinals.toArray, named(found.plan), filter)
          case Left(why) => rows(why)
        }
    }
  }

  /** A plan that makes batches, which of its columns are wanted, and what the rows that are wanted must fulfil. */
  private final case class Found(plan: SparkPlan, ordinals: Seq[Int], conditions: Seq[Expression] = Nil)

  /**
   * The part of the plan that makes batches and which of its columns are the plan's, looking through what only renames or reorders
   * columns or drops rows by what is in them; or why there is none.
   */
  private def batches(plan: SparkPlan, ordinals: Seq[Int], conf: SQLConf): Either[String, Found] = plan match {
    case WholeStageCodegenExec(child) => batches(child, ordinals, conf)
    case toRows: ColumnarToRowTransition if toRows.child.supportsColumnar => Right(Found(bare(toRows.child), ordinals))
    case adaptive: AdaptiveSparkPlanExec => batches(adaptive.finalPhysicalPlan, ordinals, conf)
    case stage: QueryStageExec => batches(stage.plan, ordinals, conf)
    case ProjectExec(list, child) =>
      val sources = list.map(source)
      val positions = sources.map(_.fold(-1)(attribute => child.output.indexWhere(_.exprId == attribute.exprId)))
      ordinals.map(positions).find(_ < 0) match {
        case Some(_) => Left("the plan computes columns, which gives rows")
        case None => batches(child, ordinals.map(positions), conf)
      }
    case FilterExec(condition, child) if Wiring.isOfRows(condition) =>
      batches(child, ordinals, conf).flatMap { found =>
        // Columns that something in between made are not in the batches.
        if (condition.references.subsetOf(found.plan.outputSet))
          Right(found.copy(conditions = found.conditions :+ condition))
        else Left("the filter is on columns that the plan computes, which gives rows")
      }
    case InputAdapter(child) => batches(child, ordinals, conf)
    case columnar if columnar.supportsColumnar => Right(Found(columnar, ordinals))
    case scan: FileSourceScanExec if scan.requiredSchema.size > conf.wholeStageMaxNumFields =>
      Left(
        s"Spark scans ${scan.requiredSchema.size} columns as rows: ${SQLConf.WHOLESTAGE_MAX_NUM_FIELDS.key} is " +
          s"${conf.wholeStageMaxNumFields}"
      )
    case other => Left(s"${named(other)} gives rows")
  }

  /** Without the wrapper that Spark puts between a plan with generated code and one without. */
  private def bare(plan: SparkPlan): SparkPlan = plan match {
    case InputAdapter(child) => child
    case other => other
  }

  /** The column that an entry of a projection hands on as it is. */
  private def source(entry: NamedExpression): Option[Attribute] = entry match {
    case attribute: Attribute => Some(attribute)
    case Alias(attribute: Attribute, _) => Some(attribute)
    case _ => None
  }

  /** "scan parquet" rather than the plan's whole text. */
  private def named(plan: SparkPlan): String = plan.nodeName.trim.toLowerCase(java.util.Locale.ROOT)

  /**
   * Spark types what gives the tasks the session's settings for rows only. Nothing looks at its elements, as they pass through
   * iterators whose type is erased; its own scans hand batches through an RDD of rows in the same way.
   */
  private def columnar(plan: SparkPlan, data: classic.Dataset[_]): RDD[ColumnarBatch] =
    new SQLExecutionRDD(
      plan.executeColumnar().asInstanceOf[RDD[InternalRow]],
      data.sparkSession.sessionState.conf
    ).asInstanceOf[RDD[ColumnarBatch]]
}
