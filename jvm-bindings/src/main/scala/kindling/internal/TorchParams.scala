package kindling.internal

import org.apache.spark.ml.param.{BooleanParam, DoubleArrayParam, DoubleParam, IntParam, LongParam, Param, Params}
import org.apache.spark.ml.param.shared._

/**
 * The parameters of `TorchEstimator` and `TorchModel`: names, docs, defaults and the check of each value by itself. What needs
 * two parameters to be judged stands in [[Settings]].
 *
 * Every type is a primitive, a string or an array of either, so that Spark Connect can carry it.
 */
private[kindling] trait TorchParams
    extends SupportedSpark
    with Params
    with HasFeaturesCol
    with HasInputCols
    with HasLabelCol
    with HasPredictionCol
    with HasProbabilityCol
    with HasValidationIndicatorCol
    with HasWeightCol
    with HasSeed
    with ColumnParams
    with OptimizerParams
    with ValidationParams {

  // ---- the network ----

  /** Path of the exported program. */
  final val model: Param[String] = new Param[String](
    this,
    "model",
    "path of a .pt2 archive written by torch.export.save, on any file system that the driver reads through Hadoop",
    Check.notEmpty("model")
  )

  /** The network as a list of layers. */
  final val layers: Param[String] = new Param[String](
    this,
    "layers",
    """the network as a list of layers in JSON: {"layers": [{"type": "dense", "units": 10, "activation": "relu"}, ...]}""",
    Check.parses(LayerList.parse)
  )

  /** Shapes of one row. */
  final val inputShapes: Param[String] = new Param[String](
    this,
    "inputShapes",
    "the shape of one row for each program input in JSON, such as [[64], [5]]; by default the program says it",
    Check.parses(InputShapes.parse)
  )

  // ---- training ----

  final val loss: Param[String] = new Param[String](
    this,
    "loss",
    s"what rows are judged by, with PyTorch's meaning: ${Loss.names.mkString(", ")}",
    Check.oneOf("loss", Loss.names: _*)
  )

  final val predictionOutput: Param[String] = new Param[String](
    this,
    "predictionOutput",
    "the output that is judged and predicts, by name or position, of a program that returns several; by default the one named " +
      "logits, else the first",
    Check.notEmpty("predictionOutput")
  )

  final val labelSmoothing: DoubleParam = new DoubleParam(
    this,
    "labelSmoothing",
    "the part of each label, in [0, 1], that crossEntropy spreads evenly over all classes; by default 0",
    Check.between("labelSmoothing", 0, 1)
  )

  final val classWeights: DoubleArrayParam = new DoubleArrayParam(
    this,
    "classWeights",
    "what each class weighs in crossEntropy, one number (>= 0) per class; by default 1",
    Check.allAtLeast("classWeights", 0)
  )

  final val ignoreIndex: IntParam = new IntParam(
    this,
    "ignoreIndex",
    "a label that crossEntropy leaves out of the mean, or that pads the labels of ctc; by default none"
  )

  final val posWeight: DoubleArrayParam = new DoubleArrayParam(
    this,
    "posWeight",
    "what a positive label weighs in binaryCrossEntropyWithLogits, one number (>= 0) for all outputs or one for each; by default 1",
    Check.allAtLeast("posWeight", 0)
  )

  final val delta: DoubleParam = new DoubleParam(
    this,
    "delta",
    "where huber turns from squared to linear (> 0); by default 1",
    Check.above("delta", 0)
  )

  final val beta: DoubleParam = new DoubleParam(
    this,
    "beta",
    "where smoothL1 turns from squared to linear (>= 0); by default 1",
    Check.atLeast("beta", 0)
  )

  final val margin: DoubleParam = new DoubleParam(
    this,
    "margin",
    "the margin of cosine (in [-1, 1]; by default 0), marginRanking (by default 0) or triplet (> 0; by default 1)"
  )

  final val normDegree: DoubleParam = new DoubleParam(
    this,
    "normDegree",
    "the degree of the norm that triplet measures distances by (> 0); by default 2",
    Check.above("normDegree", 0)
  )

  final val swap: BooleanParam = new BooleanParam(
    this,
    "swap",
    "whether triplet takes the negative's distance to the positive where it is smaller; by default false"
  )

  final val logInput: BooleanParam = new BooleanParam(
    this,
    "logInput",
    "whether the output that poisson judges is the logarithm of the rate; by default true"
  )

  final val full: BooleanParam = new BooleanParam(
    this,
    "full",
    "whether poisson adds Stirling's approximation of the term that depends on the label only; by default false"
  )

  final val logTarget: BooleanParam =
    new BooleanParam(this, "logTarget", "whether the labels of kl are log-probabilities too; by default false")

  final val blank: IntParam =
    new IntParam(
      this,
      "blank",
      "the class that stands for no label in ctc (>= 0); by default 0",
      Check.notNegative("blank")
    )

  final val zeroInfinity: BooleanParam = new BooleanParam(
    this,
    "zeroInfinity",
    "whether a row whose labels do not fit into its time counts as 0 in ctc; by default false, and such a row is refused"
  )

  final val optimizer: Param[String] =
    new Param[String](
      this,
      "optimizer",
      s"the optimizer: ${Optimizer.names.mkString(", ")}",
      Check.oneOf("optimizer", Optimizer.names: _*)
    )

  final val learningRate: DoubleParam =
    new DoubleParam(this, "learningRate", "the step size (> 0)", Check.above("learningRate", 0))

  final val momentum: DoubleParam =
    new DoubleParam(
      this,
      "momentum",
      "the momentum of sgd, rmsprop and lars, in [0, 1); 0.9 for lars if unset",
      Check.below("momentum", 0, 1)
    )

  final val weightDecay: DoubleParam = new DoubleParam(
    this,
    "weightDecay",
    "the weight decay (>= 0); by default 0.01 for adamw and lamb, 0 for the others",
    Check.atLeast("weightDecay", 0)
  )

  final val beta1: DoubleParam =
    new DoubleParam(
      this,
      "beta1",
      "the decay of the first moment of adam, adamw, lamb and lion, in [0, 1)",
      Check.below("beta1", 0, 1)
    )

  final val beta2: DoubleParam =
    new DoubleParam(
      this,
      "beta2",
      "the decay of the second moment of adam, adamw, lamb and lion, in [0, 1); 0.99 for lion if unset",
      Check.below("beta2", 0, 1)
    )

  final val epsilon: DoubleParam =
    new DoubleParam(
      this,
      "epsilon",
      "the term for numerical stability (> 0); 1e-10 for adagrad and 1e-6 for lamb if unset",
      Check.above("epsilon", 0)
    )

  final val batchSize: IntParam = new IntParam(
    this,
    "batchSize",
    "rows per step over all workers together (> 0)",
    Check.positive("batchSize")
  )

  final val maxEpochs: IntParam =
    new IntParam(this, "maxEpochs", "passes over the training rows (> 0)", Check.positive("maxEpochs"))

  final val maxIter: IntParam =
    new IntParam(this, "maxIter", "Spark ML's name for maxEpochs; set only one of the two", Check.positive("maxIter"))

  final val shuffle: BooleanParam =
    new BooleanParam(this, "shuffle", "whether each epoch visits the rows in a new order")

  final val validationFraction: DoubleParam = new DoubleParam(
    this,
    "validationFraction",
    "the share of rows, in [0, 1), kept out of training and used for validation; chosen by row number and seed",
    Check.below("validationFraction", 0, 1)
  )

  // ---- where it runs ----

  final val numWorkers: IntParam = new IntParam(
    this,
    "numWorkers",
    "the number of ranks, each one a Spark task and a replica of the network (> 0)",
    Check.positive("numWorkers")
  )

  final val device: Param[String] = new Param[String](
    this,
    "device",
    "where to compute: cpu, cuda (a GPU for each task), or auto (cuda where Spark gives its tasks GPUs, else cpu)",
    Check.oneOf("device", "auto", "cpu", "cuda")
  )

  final val libtorch: Param[String] = new Param[String](
    this,
    "libtorch",
    "a folder with libtorch (or the folder of the Python package torch), tried after spark.kindling.libtorch and LIBTORCH"
  )

  final val rendezvousTimeout: DoubleParam = new DoubleParam(
    this,
    "rendezvousTimeout",
    "seconds that the ranks may take to find each other (> 0)",
    Check.above("rendezvousTimeout", 0)
  )

  final val collectiveTimeout: DoubleParam = new DoubleParam(
    this,
    "collectiveTimeout",
    "seconds that a rank waits for one that is alive but does not come (> 0); a dead one is noticed by heartbeatInterval",
    Check.above("collectiveTimeout", 0)
  )

  final val heartbeatInterval: DoubleParam = new DoubleParam(
    this,
    "heartbeatInterval",
    "seconds between two signs of life of a rank (>= 0.05); one that misses three in a row is given up, whatever its step does",
    Check.atLeast("heartbeatInterval", 0.05)
  )

  final val stallWarning: DoubleParam = new DoubleParam(
    this,
    "stallWarning",
    "seconds after which a step that waits logs which ranks are missing (> 0)",
    Check.above("stallWarning", 0)
  )

  final val slotTimeout: DoubleParam = new DoubleParam(
    this,
    "slotTimeout",
    "seconds to wait for numWorkers free task slots (> 0)",
    Check.above("slotTimeout", 0)
  )

  final val progressInterval: DoubleParam = new DoubleParam(
    this,
    "progressInterval",
    "seconds between two progress reports (> 0)",
    Check.above("progressInterval", 0)
  )

  // ---- rows ----

  final val shardMemory: LongParam = new LongParam(
    this,
    "shardMemory",
    "bytes of memory that the rows of all runs may take in an executor process (> 0), others go to Spark's local directories; by " +
      "default what the container has beside its heap and its ranks (YARN, Kubernetes), else a quarter of the machine's",
    Check.positiveLong("shardMemory")
  )

  final val forceRepartition: BooleanParam = new BooleanParam(
    this,
    "forceRepartition",
    "whether a shuffle deals the rows (and those to validate on) out to numWorkers partitions before they are read"
  )

  final val handleInvalid: Param[String] = new Param[String](
    this,
    "handleInvalid",
    "what to do with a null, a NaN or a string that fit did not see: error, skip (drop the row) or keep (features only: NaN stays, a " +
      "null number becomes NaN, such a string the number behind the last)",
    Check.oneOf("handleInvalid", "error", "skip", "keep")
  )

  final val inferBatchSize: IntParam =
    new IntParam(this, "inferBatchSize", "rows per step of transform (> 0)", Check.positive("inferBatchSize"))

  setDefault(
    loss -> "crossEntropy",
    optimizer -> "adamw",
    learningRate -> 1e-3,
    momentum -> 0.0,
    beta1 -> 0.9,
    beta2 -> 0.999,
    epsilon -> 1e-8,
    batchSize -> 32,
    maxEpochs -> 1,
    shuffle -> true,
    seed -> 0L,
    validationFraction -> 0.0,
    numWorkers -> 1,
    device -> "auto",
    libtorch -> "",
    rendezvousTimeout -> 60.0,
    collectiveTimeout -> 1800.0,
    heartbeatInterval -> 5.0,
    stallWarning -> 60.0,
    slotTimeout -> 600.0,
    progressInterval -> 1.0,
    forceRepartition -> false,
    handleInvalid -> "error",
    inferBatchSize -> 1024
  )

  final def getModel: String = $(model)
  final def getLayers: String = $(layers)
  final def getInputShapes: String = $(inputShapes)
  final def getLoss: String = $(loss)
  final def getPredictionOutput: String = $(predictionOutput)
  final def getLabelSmoothing: Double = $(labelSmoothing)
  final def getClassWeights: Array[Double] = $(classWeights)
  final def getIgnoreIndex: Int = $(ignoreIndex)
  final def getPosWeight: Array[Double] = $(posWeight)
  final def getDelta: Double = $(delta)
  final def getBeta: Double = $(beta)
  final def getMargin: Double = $(margin)
  final def getNormDegree: Double = $(normDegree)
  final def getSwap: Boolean = $(swap)
  final def getLogInput: Boolean = $(logInput)
  final def getFull: Boolean = $(full)
  final def getLogTarget: Boolean = $(logTarget)
  final def getBlank: Int = $(blank)
  final def getZeroInfinity: Boolean = $(zeroInfinity)
  final def getOptimizer: String = $(optimizer)
  final def getLearningRate: Double = $(learningRate)
  final def getMomentum: Double = $(momentum)
  final def getWeightDecay: Double = $(weightDecay)
  final def getBeta1: Double = $(beta1)
  final def getBeta2: Double = $(beta2)
  final def getEpsilon: Double = $(epsilon)
  final def getBatchSize: Int = $(batchSize)
  final def getMaxEpochs: Int = if (isSet(maxIter)) $(maxIter) else $(maxEpochs)
  final def getMaxIter: Int = getMaxEpochs
  final def getShuffle: Boolean = $(shuffle)
  final def getValidationFraction: Double = $(validationFraction)
  final def getNumWorkers: Int = $(numWorkers)
  final def getDevice: String = $(device)
  final def getLibtorch: String = $(libtorch)
  final def getRendezvousTimeout: Double = $(rendezvousTimeout)
  final def getCollectiveTimeout: Double = $(collectiveTimeout)
  final def getHeartbeatInterval: Double = $(heartbeatInterval)
  final def getStallWarning: Double = $(stallWarning)
  final def getSlotTimeout: Double = $(slotTimeout)
  final def getProgressInterval: Double = $(progressInterval)
  final def getShardMemory: Long = $(shardMemory)
  final def getForceRepartition: Boolean = $(forceRepartition)
  final def getHandleInvalid: String = $(handleInvalid)
  final def getInferBatchSize: Int = $(inferBatchSize)
}
