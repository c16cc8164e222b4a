package kindling.internal

import org.apache.spark.ml.param.{BooleanParam, DoubleParam, IntParam, Param, Params, StringArrayParam}

/** What is measured over the validation rows after each epoch, and what follows from it. */
private[kindling] trait ValidationParams extends Params {

  final val metrics: StringArrayParam = new StringArrayParam(
    this,
    "metrics",
    s"what is measured over the validation rows after each epoch: ${Metric.names.mkString(", ")}; the loss always, and if unset " +
      "accuracy where the loss has it",
    Check.names("metrics", Metric.names)
  )

  final val topK: IntParam = new IntParam(
    this,
    "topK",
    "how many of the largest outputs the metric topK looks at (> 0); 5 if unset",
    Check.positive("topK")
  )

  final val earlyStoppingPatience: IntParam = new IntParam(
    this,
    "earlyStoppingPatience",
    "epochs in a row without progress after which training ends (> 0); it never does if unset",
    Check.positive("earlyStoppingPatience")
  )

  final val earlyStoppingMetric: Param[String] = new Param[String](
    this,
    "earlyStoppingMetric",
    "the metric of the validation rows that says which epoch is the best; loss if unset",
    Check.oneOf("earlyStoppingMetric", Metric.names: _*)
  )

  final val earlyStoppingMinDelta: DoubleParam = new DoubleParam(
    this,
    "earlyStoppingMinDelta",
    "by more than this an epoch must be better than the best to count as progress (>= 0); 0 if unset",
    Check.atLeast("earlyStoppingMinDelta", 0)
  )

  final val restoreBestWeights: BooleanParam = new BooleanParam(
    this,
    "restoreBestWeights",
    "whether the fitted model has the weights and statistics of the best epoch instead of the last"
  )

  setDefault(restoreBestWeights -> false)

  final def getMetrics: Array[String] = $(metrics)
  final def getTopK: Int = $(topK)
  final def getEarlyStoppingPatience: Int = $(earlyStoppingPatience)
  final def getEarlyStoppingMetric: String = $(earlyStoppingMetric)
  final def getEarlyStoppingMinDelta: Double = $(earlyStoppingMinDelta)
  final def getRestoreBestWeights: Boolean = $(restoreBestWeights)
}
