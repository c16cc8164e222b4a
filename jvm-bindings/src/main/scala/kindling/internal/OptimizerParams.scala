package kindling.internal

import org.apache.spark.ml.param.{BooleanParam, DoubleParam, IntArrayParam, IntParam, Param, Params}

/** The parameters of the optimizer, the learning rate schedule and what else shapes a step. What is unset has PyTorch's default. */
private[kindling] trait OptimizerParams extends Params {

  final val dampening: DoubleParam =
    new DoubleParam(
      this,
      "dampening",
      "sgd: the share of a gradient that does not enter the running one, in [0, 1); 0 if unset",
      Check.below("dampening", 0, 1)
    )

  final val nesterov: BooleanParam =
    new BooleanParam(this, "nesterov", "sgd: whether the step looks ahead (Nesterov); needs momentum")

  final val amsgrad: BooleanParam =
    new BooleanParam(this, "amsgrad", "adam, adamw: whether the denominator is the largest so far")

  final val learningRateDecay: DoubleParam =
    new DoubleParam(
      this,
      "learningRateDecay",
      "adagrad: the step size of step t is learningRate / (1 + t * learningRateDecay); 0 if unset",
      Check.atLeast("learningRateDecay", 0)
    )

  final val initialAccumulator: DoubleParam =
    new DoubleParam(
      this,
      "initialAccumulator",
      "adagrad: where the sum of squared gradients starts; 0 if unset",
      Check.atLeast("initialAccumulator", 0)
    )

  final val alpha: DoubleParam =
    new DoubleParam(
      this,
      "alpha",
      "rmsprop: the decay of the mean of squared gradients; 0.99 if unset",
      Check.atLeast("alpha", 0)
    )

  final val centered: BooleanParam =
    new BooleanParam(this, "centered", "rmsprop: whether the gradient is divided by its deviation")

  final val trustCoefficient: DoubleParam =
    new DoubleParam(
      this,
      "trustCoefficient",
      "lars: how long a step is, as a share of the norm of a tensor; 0.001 if unset",
      Check.above("trustCoefficient", 0)
    )

  final val beta2Decay: DoubleParam =
    new DoubleParam(
      this,
      "beta2Decay",
      "adafactor: the power of the step, at most 0, that the decay of the mean of squared gradients follows; -0.8 if unset",
      Check.atMost("beta2Decay", 0)
    )

  final val epsilon1: DoubleParam =
    new DoubleParam(
      this,
      "epsilon1",
      "adafactor: the least root of a squared gradient (>= 0); the precision of the parameter's type if unset",
      Check.atLeast("epsilon1", 0)
    )

  final val epsilon2: DoubleParam =
    new DoubleParam(
      this,
      "epsilon2",
      "adafactor: the least root mean square of a parameter that its step is scaled by (>= 0); 0.001 if unset",
      Check.atLeast("epsilon2", 0)
    )

  final val clipThreshold: DoubleParam =
    new DoubleParam(
      this,
      "clipThreshold",
      "adafactor: the largest root mean square of an update before it is scaled; 1 if unset",
      Check.atLeast("clipThreshold", 1)
    )

  final val parameterGroups: Param[String] =
    new Param[String](
      this,
      "parameterGroups",
      """parameters that are trained in a way of their own, in JSON: [{"pattern": "*.bias", "weightDecay": 0}, ...]""",
      Check.parses(ParameterGroups.parse)
    )

  final val lrSchedule: Param[String] =
    new Param[String](
      this,
      "lrSchedule",
      "the learning rate over the steps: constant, step, multistep, exponential, cosine, cosineRestarts, linear, polynomial, oneCycle or reduceOnPlateau",
      Check.oneOf("lrSchedule", Schedule.names: _*)
    )

  final val warmupSteps: IntParam =
    new IntParam(
      this,
      "warmupSteps",
      "steps in which the learning rate first rises along a line; none if unset",
      Check.positive("warmupSteps")
    )

  final val warmupFraction: DoubleParam =
    new DoubleParam(
      this,
      "warmupFraction",
      "the same as a share of all steps, in [0, 1)",
      Check.below("warmupFraction", 0, 1)
    )

  final val warmupStart: DoubleParam =
    new DoubleParam(
      this,
      "warmupStart",
      "the first rate of the warm-up as a share of the one it rises to, in [0, 1); 0 if unset",
      Check.below("warmupStart", 0, 1)
    )

  final val lrDecaySteps: IntParam =
    new IntParam(
      this,
      "lrDecaySteps",
      "step: steps between two changes; cosineRestarts: the first cycle; cosine, linear, polynomial, oneCycle: their length, by default all steps after the warm-up",
      Check.positive("lrDecaySteps")
    )

  final val lrGamma: DoubleParam =
    new DoubleParam(
      this,
      "lrGamma",
      "the factor of step, multistep, exponential and reduceOnPlateau (below 1 there); 0.1 if unset, but exponential must be told",
      Check.above("lrGamma", 0)
    )

  final val lrMilestones: IntArrayParam =
    new IntArrayParam(
      this,
      "lrMilestones",
      "multistep: the steps after the warm-up at which the rate changes, each larger than the one before",
      Check.rising("lrMilestones")
    )

  final val lrMin: DoubleParam =
    new DoubleParam(
      this,
      "lrMin",
      "cosine, cosineRestarts, reduceOnPlateau: the lowest rate; 0 if unset",
      Check.atLeast("lrMin", 0)
    )

  final val lrCycleFactor: IntParam =
    new IntParam(
      this,
      "lrCycleFactor",
      "cosineRestarts: how much longer each cycle is than the one before; 1 if unset",
      Check.positive("lrCycleFactor")
    )

  final val lrStartFactor: DoubleParam =
    new DoubleParam(
      this,
      "lrStartFactor",
      "linear: the first factor of the rate; 1 if unset",
      Check.atLeast("lrStartFactor", 0)
    )

  final val lrEndFactor: DoubleParam =
    new DoubleParam(
      this,
      "lrEndFactor",
      "linear: the last factor of the rate; 0 if unset",
      Check.atLeast("lrEndFactor", 0)
    )

  final val lrPower: DoubleParam =
    new DoubleParam(this, "lrPower", "polynomial: the power; 1 if unset", Check.atLeast("lrPower", 0))

  final val lrPeakFraction: DoubleParam =
    new DoubleParam(
      this,
      "lrPeakFraction",
      "oneCycle: the share of steps in which the rate rises, in [0, 1); 0.3 if unset",
      Check.below("lrPeakFraction", 0, 1)
    )

  final val lrDivFactor: DoubleParam =
    new DoubleParam(
      this,
      "lrDivFactor",
      "oneCycle: the first rate is the highest divided by this (>= 1); 25 if unset",
      Check.atLeast("lrDivFactor", 1)
    )

  final val lrFinalDivFactor: DoubleParam =
    new DoubleParam(
      this,
      "lrFinalDivFactor",
      "oneCycle: the last rate is the first divided by this (>= 1); 10000 if unset",
      Check.atLeast("lrFinalDivFactor", 1)
    )

  final val lrAnneal: Param[String] =
    new Param[String](
      this,
      "lrAnneal",
      "oneCycle: how the rate goes up and down, cos (half a cosine) or linear; cos if unset",
      Check.oneOf("lrAnneal", "cos", "linear")
    )

  final val lrPatience: IntParam =
    new IntParam(
      this,
      "lrPatience",
      "reduceOnPlateau: epochs without progress that are borne; 10 if unset",
      Check.notNegative("lrPatience")
    )

  final val lrMetric: Param[String] =
    new Param[String](
      this,
      "lrMetric",
      "reduceOnPlateau: the metric of the validation rows that it watches; their loss if unset, or that of training if none validate",
      Check.oneOf("lrMetric", Metric.names: _*)
    )

  final val lrThreshold: DoubleParam =
    new DoubleParam(
      this,
      "lrThreshold",
      "reduceOnPlateau: how much better than the best an epoch must be to count as progress (>= 0); 0.0001 if unset",
      Check.atLeast("lrThreshold", 0)
    )

  final val lrThresholdMode: Param[String] =
    new Param[String](
      this,
      "lrThresholdMode",
      "reduceOnPlateau: what lrThreshold is a share of, rel (the best) or abs (1, so that it is a difference); rel if unset",
      Check.oneOf("lrThresholdMode", "rel", "abs")
    )

  final val lrCooldown: IntParam =
    new IntParam(
      this,
      "lrCooldown",
      "reduceOnPlateau: epochs after a change that are not judged; 0 if unset",
      Check.notNegative("lrCooldown")
    )

  final val gradientClipNorm: DoubleParam =
    new DoubleParam(
      this,
      "gradientClipNorm",
      "the largest norm of the gradient of a batch: a longer one is scaled down; unbounded if unset",
      Check.above("gradientClipNorm", 0)
    )

  final val gradientClipValue: DoubleParam =
    new DoubleParam(
      this,
      "gradientClipValue",
      "the largest absolute value in the gradient of a batch; unbounded if unset",
      Check.above("gradientClipValue", 0)
    )

  final val gradientAccumulationSteps: IntParam =
    new IntParam(
      this,
      "gradientAccumulationSteps",
      "parts into which a worker cuts its share of a batch: the same step in less memory",
      Check.positive("gradientAccumulationSteps")
    )

  final val emaDecay: DoubleParam =
    new DoubleParam(
      this,
      "emaDecay",
      "the decay of an average of the weights, in [0, 1), which the fitted model and validation use; none if unset",
      Check.below("emaDecay", 0, 1)
    )

  final val precision: Param[String] =
    new Param[String](
      this,
      "precision",
      "what training computes in: fp32, or bf16 or fp16 by autocast",
      Check.oneOf("precision", "fp32", "bf16", "fp16")
    )

  final val syncBatchNorm: BooleanParam =
    new BooleanParam(
      this,
      "syncBatchNorm",
      "whether batch norms in training normalise by the rows of all workers instead of each worker's own"
    )

  final val activationCheckpointing: Param[String] =
    new Param[String](
      this,
      "activationCheckpointing",
      "what backward computes again instead of keeping it in memory: none, auto, a number of segments " +
        "(>= 2), or the modules that these patterns with commas between them name, such as encoder.layers.*",
      Check.parses(ActivationCheckpointing.parse)
    )

  setDefault(
    nesterov -> false,
    amsgrad -> false,
    centered -> false,
    lrSchedule -> "constant",
    gradientAccumulationSteps -> 1,
    precision -> "fp32",
    syncBatchNorm -> false,
    activationCheckpointing -> ActivationCheckpointing.off
  )

  final def getDampening: Double = $(dampening)
  final def getNesterov: Boolean = $(nesterov)
  final def getAmsgrad: Boolean = $(amsgrad)
  final def getLearningRateDecay: Double = $(learningRateDecay)
  final def getInitialAccumulator: Double = $(initialAccumulator)
  final def getAlpha: Double = $(alpha)
  final def getCentered: Boolean = $(centered)
  final def getTrustCoefficient: Double = $(trustCoefficient)
  final def getBeta2Decay: Double = $(beta2Decay)
  final def getEpsilon1: Double = $(epsilon1)
  final def getEpsilon2: Double = $(epsilon2)
  final def getClipThreshold: Double = $(clipThreshold)
  final def getParameterGroups: String = $(parameterGroups)
  final def getLrSchedule: String = $(lrSchedule)
  final def getWarmupSteps: Int = $(warmupSteps)
  final def getWarmupFraction: Double = $(warmupFraction)
  final def getWarmupStart: Double = $(warmupStart)
  final def getLrDecaySteps: Int = $(lrDecaySteps)
  final def getLrGamma: Double = $(lrGamma)
  final def getLrMilestones: Array[Int] = $(lrMilestones)
  final def getLrMin: Double = $(lrMin)
  final def getLrCycleFactor: Int = $(lrCycleFactor)
  final def getLrStartFactor: Double = $(lrStartFactor)
  final def getLrEndFactor: Double = $(lrEndFactor)
  final def getLrPower: Double = $(lrPower)
  final def getLrPeakFraction: Double = $(lrPeakFraction)
  final def getLrDivFactor: Double = $(lrDivFactor)
  final def getLrFinalDivFactor: Double = $(lrFinalDivFactor)
  final def getLrAnneal: String = $(lrAnneal)
  final def getLrPatience: Int = $(lrPatience)
  final def getLrMetric: String = $(lrMetric)
  final def getLrThreshold: Double = $(lrThreshold)
  final def getLrThresholdMode: String = $(lrThresholdMode)
  final def getLrCooldown: Int = $(lrCooldown)
  final def getGradientClipNorm: Double = $(gradientClipNorm)
  final def getGradientClipValue: Double = $(gradientClipValue)
  final def getGradientAccumulationSteps: Int = $(gradientAccumulationSteps)
  final def getEmaDecay: Double = $(emaDecay)
  final def getPrecision: String = $(precision)
  final def getSyncBatchNorm: Boolean = $(syncBatchNorm)
  final def getActivationCheckpointing: String = $(activationCheckpointing)
}
