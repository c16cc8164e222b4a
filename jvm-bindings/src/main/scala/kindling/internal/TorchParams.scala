package kindling.internal

import org.apache.spark.ml.param.{BooleanParam, DoubleParam, IntParam, Param, Params}
import org.apache.spark.ml.param.shared._

/**
 * The parameters of `TorchEstimator` and `TorchModel`: names, docs, defaults and the check of each value by itself. What needs
 * two parameters to be judged stands in [[Settings]].
 *
 * Every type is a primitive, a string or a string array, so that Spark Connect can carry it.
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
    with HasSeed {

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
    "the loss: crossEntropy (the program gives logits, the label is a class index) or mse",
    Check.oneOf("loss", "crossEntropy", "mse")
  )

  final val optimizer: Param[String] =
    new Param[String](this, "optimizer", "the optimizer: adamw or sgd", Check.oneOf("optimizer", "adamw", "sgd"))

  final val learningRate: DoubleParam =
    new DoubleParam(this, "learningRate", "the step size (> 0)", Check.above("learningRate", 0))

  final val momentum: DoubleParam =
    new DoubleParam(this, "momentum", "the momentum of sgd, in [0, 1)", Check.below("momentum", 0, 1))

  final val weightDecay: DoubleParam = new DoubleParam(
    this,
    "weightDecay",
    "the weight decay (>= 0); by default PyTorch's: 0.01 for adamw, 0 for sgd",
    Check.atLeast("weightDecay", 0)
  )

  final val beta1: DoubleParam =
    new DoubleParam(this, "beta1", "adamw's decay of the first moment, in [0, 1)", Check.below("beta1", 0, 1))

  final val beta2: DoubleParam =
    new DoubleParam(this, "beta2", "adamw's decay of the second moment, in [0, 1)", Check.below("beta2", 0, 1))

  final val epsilon: DoubleParam =
    new DoubleParam(this, "epsilon", "adamw's term for numerical stability (> 0)", Check.above("epsilon", 0))

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
    "where tensors live: auto or cpu",
    (value: String) =>
      if (value == "cuda")
        throw new IllegalArgumentException(
          "device is cuda, which this version of Kindling does not train on yet: use auto or cpu"
        )
      else Check.oneOf("device", "auto", "cpu")(value)
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
    "seconds after which a silent rank counts as lost (> 0)",
    Check.above("collectiveTimeout", 0)
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

  final val handleInvalid: Param[String] = new Param[String](
    this,
    "handleInvalid",
    "what to do with a null or NaN: error, skip (drop the row) or keep (features only: NaN stays, a null number becomes NaN)",
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
    collectiveTimeout -> 300.0,
    slotTimeout -> 600.0,
    progressInterval -> 1.0,
    handleInvalid -> "error",
    inferBatchSize -> 1024
  )

  final def getModel: String = $(model)
  final def getLayers: String = $(layers)
  final def getInputShapes: String = $(inputShapes)
  final def getLoss: String = $(loss)
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
  final def getSlotTimeout: Double = $(slotTimeout)
  final def getProgressInterval: Double = $(progressInterval)
  final def getHandleInvalid: String = $(handleInvalid)
  final def getInferBatchSize: Int = $(inferBatchSize)
}
