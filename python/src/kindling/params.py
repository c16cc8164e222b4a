"""The settings of the estimator and of the model, each said once: name, type, meaning, and its getter and setter.

Names and defaults are those of the Scala classes. Values are checked there; here only their types are.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.param.shared import (
    HasFeaturesCol,
    HasHandleInvalid,
    HasInputCols,
    HasLabelCol,
    HasMaxIter,
    HasPredictionCol,
    HasProbabilityCol,
    HasSeed,
    HasValidationIndicatorCol,
    HasWeightCol,
)

from kindling.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

V = TypeVar("V")
S = TypeVar("S", bound=Params)


class Getter(Generic[V]):
    """`getBatchSize = Getter(batchSize)`: a method that returns the value, set or default."""

    def __init__(self, param: Param[V]) -> None:
        self.name = param.name
        self.__doc__ = f"The value of {param.name}, set or default: {param.doc}"

    @overload
    def __get__(self, owner: None, kind: type[Any]) -> Getter[V]: ...
    @overload
    def __get__(self, owner: Params, kind: type[Any]) -> Callable[[], V]: ...
    def __get__(self, owner: Params | None, kind: type[Any]) -> Getter[V] | Callable[[], V]:
        if owner is None:
            return self
        params, name = owner, self.name

        def get() -> V:
            value: V = params.getOrDefault(name)
            return value

        return get


class Setter(Generic[V]):
    """`setBatchSize = Setter(batchSize)`: a method that sets the value and returns the object it was called on."""

    def __init__(self, param: Param[V]) -> None:
        self.name = param.name
        self.__doc__ = f"Set {param.name}: {param.doc}"

    @overload
    def __get__(self, owner: None, kind: type[Any]) -> Setter[V]: ...
    @overload
    def __get__(self, owner: S, kind: type[Any]) -> Callable[[V], S]: ...
    def __get__(self, owner: S | None, kind: type[Any]) -> Setter[V] | Callable[[V], S]:
        if owner is None:
            return self
        params, name = owner, self.name

        def set_value(value: V) -> S:
            params._set(**{name: value})
            return params

        return set_value


def param(name: str, kind: Callable[[Any], V], doc: str) -> Param[V]:
    return Param(Params._dummy(), name, doc, kind)


def _shapes(value: Any) -> str:
    """`inputShapes` travels as JSON; lists are as welcome."""
    return value if isinstance(value, str) else json.dumps([[int(size) for size in shape] for shape in value])


def _text_or_int(value: Any) -> str:
    """A whole number stands for its text, as the position of an output does."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else TypeConverters.toString(value)


def _weights(value: Any) -> list[float]:
    """One number stands for a list of one."""
    return TypeConverters.toListFloat([value] if isinstance(value, (int, float)) else value)


def _groups(value: Any) -> str:
    """`parameterGroups` travels as JSON; a list of dicts is as welcome."""
    return value if isinstance(value, str) else json.dumps([dict(group) for group in value])


def _checkpointing(value: Any) -> str:
    """A number of segments may be an int, and module patterns a list: a list of one ends in a comma, to stay a list."""
    if isinstance(value, (list, tuple)):
        patterns = [TypeConverters.toString(pattern) for pattern in value]
        return ",".join(patterns) + ("," if len(patterns) == 1 else "")
    return _text_or_int(value)


_UNITS = {"": 0, "b": 0, "k": 10, "kb": 10, "m": 20, "mb": 20, "g": 30, "gb": 30, "t": 40, "tb": 40}


def _bytes(value: Any) -> int:
    """A number of bytes, or a size as Spark's settings have them: 512m, 2g."""
    if not isinstance(value, str):
        return TypeConverters.toInt(value)
    match = re.fullmatch(r"(\d+)\s*([a-z]*)", value.strip().lower())
    if match is None or match[2] not in _UNITS:
        raise TypeError(f"{value!r} is no size: give a number of bytes, or one with k, m, g or t, such as 2g")
    return int(match[1]) << _UNITS[match[2]]


_LONG = ("seed", "shardMemory")


def _fits(name: str, value: object) -> None:
    """Whole numbers travel as Java's: what does not fit would fail there without a word of the setting."""
    bits = 63 if name in _LONG else 31
    if isinstance(value, int) and not -(1 << bits) <= value < 1 << bits:
        raise InvalidArgumentError(
            f"{name} must be a whole number of at most {(1 << bits) - 1} in size, but is {value}"
        )


class InferenceParams(HasFeaturesCol, HasInputCols, HasPredictionCol, HasProbabilityCol, HasHandleInvalid):
    """What a fitted model still needs to know."""

    def _set(self, **kwargs: Any) -> Self:
        for name, value in kwargs.items():
            _fits(name, value)
        return super()._set(**kwargs)

    inputShapes: Param[str] = param(
        "inputShapes", _shapes, "shape of one row for each input of the program, without the batch, as in [[1, 8, 8]]"
    )
    predictedLabelCol: Param[str] = param(
        "predictedLabelCol",
        TypeConverters.toString,
        "a column for the predicted class as the string that it stands for, where the label is in indexCols",
    )
    outputCols: Param[list[str]] = param(
        "outputCols",
        TypeConverters.toListString,
        "columns for the program's outputs as they are, one for each in its order; an empty name leaves one out",
    )
    device: Param[str] = param("device", TypeConverters.toString, "where to compute: auto, cpu or cuda")
    inferBatchSize: Param[int] = param("inferBatchSize", TypeConverters.toInt, "rows predicted at once")
    libtorch: Param[str] = param(
        "libtorch",
        TypeConverters.toString,
        "folder of a torch 2.11 installation on the executors, tried after spark.kindling.libtorch and LIBTORCH",
    )

    setFeaturesCol = Setter(HasFeaturesCol.featuresCol)
    setInputCols = Setter(HasInputCols.inputCols)
    setPredictionCol = Setter(HasPredictionCol.predictionCol)
    setProbabilityCol = Setter(HasProbabilityCol.probabilityCol)
    setHandleInvalid = Setter(HasHandleInvalid.handleInvalid)
    getInputShapes, setInputShapes = Getter(inputShapes), Setter(inputShapes)
    getOutputCols, setOutputCols = Getter(outputCols), Setter(outputCols)
    getPredictedLabelCol, setPredictedLabelCol = Getter(predictedLabelCol), Setter(predictedLabelCol)
    getDevice, setDevice = Getter(device), Setter(device)
    getInferBatchSize, setInferBatchSize = Getter(inferBatchSize), Setter(inferBatchSize)
    getLibtorch, setLibtorch = Getter(libtorch), Setter(libtorch)

    def _inference_defaults(self) -> None:
        self._setDefault(
            featuresCol="features",
            predictionCol="prediction",
            probabilityCol="probability",
            handleInvalid="error",
            device="auto",
            inferBatchSize=1024,
            libtorch="",
        )


class TrainingParams(InferenceParams, HasLabelCol, HasWeightCol, HasValidationIndicatorCol, HasSeed, HasMaxIter):
    """What training needs to know besides."""

    model: Param[str] = param("model", TypeConverters.toString, "path of a .pt2 file, read by the driver")
    layers: Param[str] = param("layers", TypeConverters.toString, "list of layers as JSON, instead of model")
    indexCols: Param[list[str]] = param(
        "indexCols",
        TypeConverters.toListString,
        "string columns, of the inputs or the label, whose values become numbers by a vocabulary that fit makes",
    )
    stringOrderType: Param[str] = param(
        "stringOrderType",
        TypeConverters.toString,
        "the order of the values of an indexed column: frequencyDesc, frequencyAsc, alphabetDesc or alphabetAsc",
    )
    pixelRange: Param[str] = param(
        "pixelRange",
        TypeConverters.toString,
        "what the pixels of pictures become in a floating input: unit (0 to 1, if unset) or byte (0 to 255)",
    )
    loss: Param[str] = param(
        "loss",
        TypeConverters.toString,
        "what rows are judged by: crossEntropy, binaryCrossEntropy, binaryCrossEntropyWithLogits,"
        " mse, mae, huber, smoothL1, poisson, kl, cosine, cosineSimilarity, hinge, squaredHinge, categoricalHinge,"
        " marginRanking, triplet, ctc, or model (the program returns it)",
    )
    predictionOutput: Param[str] = param(
        "predictionOutput", _text_or_int, "the output that is judged and predicts, by name or position"
    )
    labelSmoothing: Param[float] = param(
        "labelSmoothing", TypeConverters.toFloat, "part of each label that crossEntropy spreads over all classes"
    )
    classWeights: Param[list[float]] = param(
        "classWeights", TypeConverters.toListFloat, "what each class weighs in crossEntropy"
    )
    ignoreIndex: Param[int] = param(
        "ignoreIndex", TypeConverters.toInt, "a label that crossEntropy leaves out, or that pads the labels of ctc"
    )
    posWeight: Param[list[float]] = param(
        "posWeight", _weights, "what a positive label weighs in binaryCrossEntropyWithLogits: for all outputs, or each"
    )
    delta: Param[float] = param("delta", TypeConverters.toFloat, "where huber turns linear")
    beta: Param[float] = param("beta", TypeConverters.toFloat, "where smoothL1 turns linear")
    margin: Param[float] = param("margin", TypeConverters.toFloat, "the margin of cosine, marginRanking or triplet")
    normDegree: Param[float] = param("normDegree", TypeConverters.toFloat, "degree of triplet's norm")
    swap: Param[bool] = param("swap", TypeConverters.toBoolean, "whether triplet swaps anchor and positive if nearer")
    logInput: Param[bool] = param("logInput", TypeConverters.toBoolean, "whether poisson's output is a logarithm")
    full: Param[bool] = param("full", TypeConverters.toBoolean, "whether poisson adds Stirling's approximation")
    logTarget: Param[bool] = param("logTarget", TypeConverters.toBoolean, "whether kl's labels are log-probabilities")
    blank: Param[int] = param("blank", TypeConverters.toInt, "ctc's class for no label")
    zeroInfinity: Param[bool] = param(
        "zeroInfinity", TypeConverters.toBoolean, "whether ctc counts a row that does not fit into its time as 0"
    )
    optimizer: Param[str] = param(
        "optimizer", TypeConverters.toString, "sgd, adam, adamw, adagrad, rmsprop, lamb, lars, lion or adafactor"
    )
    learningRate: Param[float] = param("learningRate", TypeConverters.toFloat, "step size of the optimizer")
    momentum: Param[float] = param(
        "momentum", TypeConverters.toFloat, "momentum of sgd, rmsprop and lars; 0.9 for lars if unset"
    )
    weightDecay: Param[float] = param(
        "weightDecay", TypeConverters.toFloat, "decay of the weights; unset: 0.01 with adamw and lamb, else 0"
    )
    beta1: Param[float] = param("beta1", TypeConverters.toFloat, "decay of the first moment (adam, adamw, lamb, lion)")
    beta2: Param[float] = param(
        "beta2", TypeConverters.toFloat, "decay of the second moment (adam, adamw, lamb, lion); 0.99 for lion if unset"
    )
    epsilon: Param[float] = param(
        "epsilon",
        TypeConverters.toFloat,
        "guard against division by zero; 1e-10 for adagrad and 1e-6 for lamb if unset",
    )
    dampening: Param[float] = param(
        "dampening",
        TypeConverters.toFloat,
        "sgd: the share of a gradient that does not enter the running one, in [0, 1); 0 if unset",
    )
    nesterov: Param[bool] = param(
        "nesterov", TypeConverters.toBoolean, "sgd: whether the step looks ahead (Nesterov); needs momentum"
    )
    amsgrad: Param[bool] = param(
        "amsgrad", TypeConverters.toBoolean, "adam, adamw: whether the denominator is the largest so far"
    )
    learningRateDecay: Param[float] = param(
        "learningRateDecay",
        TypeConverters.toFloat,
        "adagrad: the step size of step t is learningRate / (1 + t * learningRateDecay); 0 if unset",
    )
    initialAccumulator: Param[float] = param(
        "initialAccumulator", TypeConverters.toFloat, "adagrad: where the sum of squared gradients starts; 0 if unset"
    )
    alpha: Param[float] = param(
        "alpha", TypeConverters.toFloat, "rmsprop: the decay of the mean of squared gradients; 0.99 if unset"
    )
    centered: Param[bool] = param(
        "centered", TypeConverters.toBoolean, "rmsprop: whether the gradient is divided by its deviation"
    )
    trustCoefficient: Param[float] = param(
        "trustCoefficient",
        TypeConverters.toFloat,
        "lars: how long a step is, as a share of the norm of a tensor; 0.001 if unset",
    )
    beta2Decay: Param[float] = param(
        "beta2Decay",
        TypeConverters.toFloat,
        "adafactor: the power of the step, at most 0, that the decay of squared gradients follows; -0.8 if unset",
    )
    epsilon1: Param[float] = param(
        "epsilon1",
        TypeConverters.toFloat,
        "adafactor: the least root of a squared gradient; the precision of the parameter's type if unset",
    )
    epsilon2: Param[float] = param(
        "epsilon2",
        TypeConverters.toFloat,
        "adafactor: the least root mean square of a parameter that its step is scaled by; 0.001 if unset",
    )
    clipThreshold: Param[float] = param(
        "clipThreshold",
        TypeConverters.toFloat,
        "adafactor: the largest root mean square of an update before it is scaled; 1 if unset",
    )
    parameterGroups: Param[str] = param(
        "parameterGroups",
        _groups,
        'parameters that are trained in a way of their own, in JSON: [{"pattern": "*.bias", "weightDecay": 0}, ...]',
    )
    lrSchedule: Param[str] = param(
        "lrSchedule",
        TypeConverters.toString,
        "the learning rate over the steps: constant, step, multistep, exponential, cosine, cosineRestarts, linear, "
        "polynomial, oneCycle or reduceOnPlateau",
    )
    warmupSteps: Param[int] = param(
        "warmupSteps", TypeConverters.toInt, "steps in which the learning rate first rises along a line; none if unset"
    )
    warmupFraction: Param[float] = param(
        "warmupFraction", TypeConverters.toFloat, "the same as a share of all steps, in [0, 1)"
    )
    warmupStart: Param[float] = param(
        "warmupStart",
        TypeConverters.toFloat,
        "the first rate of the warm-up as a share of the one it rises to, in [0, 1); 0 if unset",
    )
    lrDecaySteps: Param[int] = param(
        "lrDecaySteps",
        TypeConverters.toInt,
        "step: steps between two changes; cosineRestarts: the first cycle; cosine, linear, polynomial, oneCycle: their "
        "length, by default all steps after the warm-up",
    )
    lrGamma: Param[float] = param(
        "lrGamma",
        TypeConverters.toFloat,
        "the factor of step, multistep, exponential and reduceOnPlateau; 0.1 if unset",
    )
    lrMilestones: Param[list[int]] = param(
        "lrMilestones", TypeConverters.toListInt, "multistep: the steps after the warm-up at which the rate changes"
    )
    lrMin: Param[float] = param(
        "lrMin", TypeConverters.toFloat, "cosine, cosineRestarts, reduceOnPlateau: the lowest rate; 0 if unset"
    )
    lrCycleFactor: Param[int] = param(
        "lrCycleFactor",
        TypeConverters.toInt,
        "cosineRestarts: how much longer each cycle is than the one before; 1 if unset",
    )
    lrStartFactor: Param[float] = param(
        "lrStartFactor", TypeConverters.toFloat, "linear: the first factor of the rate; 1 if unset"
    )
    lrEndFactor: Param[float] = param(
        "lrEndFactor", TypeConverters.toFloat, "linear: the last factor of the rate; 0 if unset"
    )
    lrPower: Param[float] = param("lrPower", TypeConverters.toFloat, "polynomial: the power; 1 if unset")
    lrPeakFraction: Param[float] = param(
        "lrPeakFraction",
        TypeConverters.toFloat,
        "oneCycle: the share of steps in which the rate rises, in [0, 1); 0.3 if unset",
    )
    lrDivFactor: Param[float] = param(
        "lrDivFactor", TypeConverters.toFloat, "oneCycle: the first rate is the highest divided by this; 25 if unset"
    )
    lrFinalDivFactor: Param[float] = param(
        "lrFinalDivFactor",
        TypeConverters.toFloat,
        "oneCycle: the last rate is the first divided by this; 10000 if unset",
    )
    lrAnneal: Param[str] = param(
        "lrAnneal", TypeConverters.toString, "oneCycle: how the rate goes up and down, cos or linear; cos if unset"
    )
    lrPatience: Param[int] = param(
        "lrPatience", TypeConverters.toInt, "reduceOnPlateau: epochs without progress that are borne; 10 if unset"
    )
    lrMetric: Param[str] = param(
        "lrMetric",
        TypeConverters.toString,
        "reduceOnPlateau: the metric of the validation rows that it watches; their loss if unset, or that of training",
    )
    lrThreshold: Param[float] = param(
        "lrThreshold",
        TypeConverters.toFloat,
        "reduceOnPlateau: how much better than the best an epoch must be to count as progress; 0.0001 if unset",
    )
    lrThresholdMode: Param[str] = param(
        "lrThresholdMode",
        TypeConverters.toString,
        "reduceOnPlateau: what lrThreshold is a share of, rel (the best) or abs (1); rel if unset",
    )
    lrCooldown: Param[int] = param(
        "lrCooldown", TypeConverters.toInt, "reduceOnPlateau: epochs after a change that are not judged; 0 if unset"
    )
    gradientClipNorm: Param[float] = param(
        "gradientClipNorm",
        TypeConverters.toFloat,
        "the largest norm of the gradient of a batch: a longer one is scaled down; unbounded if unset",
    )
    gradientClipValue: Param[float] = param(
        "gradientClipValue",
        TypeConverters.toFloat,
        "the largest absolute value in the gradient of a batch; unbounded if unset",
    )
    gradientAccumulationSteps: Param[int] = param(
        "gradientAccumulationSteps",
        TypeConverters.toInt,
        "parts into which a worker cuts its share of a batch: the same step in less memory",
    )
    emaDecay: Param[float] = param(
        "emaDecay",
        TypeConverters.toFloat,
        "the decay of an average of the weights, in [0, 1), which the fitted model and validation use; none if unset",
    )
    precision: Param[str] = param(
        "precision", TypeConverters.toString, "what training computes in: fp32, or bf16 or fp16 by autocast"
    )
    syncBatchNorm: Param[bool] = param(
        "syncBatchNorm",
        TypeConverters.toBoolean,
        "whether batch norms in training normalise by the rows of all workers instead of each worker's own",
    )
    activationCheckpointing: Param[str] = param(
        "activationCheckpointing",
        _checkpointing,
        "what backward computes again instead of keeping it in memory: none, auto, a number of segments (>= 2), or the "
        "modules that these patterns with commas between them name, such as encoder.layers.*",
    )
    batchSize: Param[int] = param("batchSize", TypeConverters.toInt, "rows of one step, over all workers together")
    maxEpochs: Param[int] = param("maxEpochs", TypeConverters.toInt, "passes over the data")
    numWorkers: Param[int] = param("numWorkers", TypeConverters.toInt, "replicas that train at once, one per task slot")
    validationFraction: Param[float] = param(
        "validationFraction", TypeConverters.toFloat, "share of the rows kept for validation"
    )
    metrics: Param[list[str]] = param(
        "metrics",
        TypeConverters.toListString,
        "what is measured over the validation rows after each epoch: loss, accuracy, topK, precision, recall, f1, auc,"
        " mae, rmse, r2; the loss always, and if unset accuracy where the loss has it",
    )
    topK: Param[int] = param(
        "topK", TypeConverters.toInt, "how many of the largest outputs the metric topK looks at; 5 if unset"
    )
    earlyStoppingPatience: Param[int] = param(
        "earlyStoppingPatience",
        TypeConverters.toInt,
        "epochs in a row without progress after which training ends; it never does if unset",
    )
    earlyStoppingMetric: Param[str] = param(
        "earlyStoppingMetric",
        TypeConverters.toString,
        "the metric of the validation rows that says which epoch is the best; loss if unset",
    )
    earlyStoppingMinDelta: Param[float] = param(
        "earlyStoppingMinDelta",
        TypeConverters.toFloat,
        "by more than this an epoch must be better than the best to count as progress; 0 if unset",
    )
    restoreBestWeights: Param[bool] = param(
        "restoreBestWeights",
        TypeConverters.toBoolean,
        "whether the fitted model has the weights and statistics of the best epoch instead of the last",
    )
    shuffle: Param[bool] = param("shuffle", TypeConverters.toBoolean, "whether each epoch reorders the rows")
    shardMemory: Param[int] = param(
        "shardMemory",
        _bytes,
        "memory that the rows of all runs may take in an executor, in bytes or as a str such as 2g; others go to "
        "Spark's local directories",
    )
    forceRepartition: Param[bool] = param(
        "forceRepartition",
        TypeConverters.toBoolean,
        "whether a shuffle deals the rows (and those to validate on) out to numWorkers partitions before they are read",
    )
    rendezvousTimeout: Param[float] = param(
        "rendezvousTimeout", TypeConverters.toFloat, "seconds that workers wait for each other at the start"
    )
    collectiveTimeout: Param[float] = param(
        "collectiveTimeout",
        TypeConverters.toFloat,
        "seconds that a worker waits for one that is alive but does not come; for dead ones see heartbeatInterval",
    )
    heartbeatInterval: Param[float] = param(
        "heartbeatInterval",
        TypeConverters.toFloat,
        "seconds between two signs of life of a worker (>= 0.05); one that misses three in a row is given up",
    )
    stallWarning: Param[float] = param(
        "stallWarning",
        TypeConverters.toFloat,
        "seconds after which a step that waits logs which workers are missing",
    )
    slotTimeout: Param[float] = param(
        "slotTimeout", TypeConverters.toFloat, "seconds to wait for numWorkers free task slots"
    )
    progressInterval: Param[float] = param(
        "progressInterval", TypeConverters.toFloat, "seconds between two reports of progress"
    )

    setLabelCol = Setter(HasLabelCol.labelCol)
    setValidationIndicatorCol = Setter(HasValidationIndicatorCol.validationIndicatorCol)
    setSeed = Setter(HasSeed.seed)
    setWeightCol = Setter(HasWeightCol.weightCol)
    getIndexCols, setIndexCols = Getter(indexCols), Setter(indexCols)
    getStringOrderType, setStringOrderType = Getter(stringOrderType), Setter(stringOrderType)
    getPixelRange, setPixelRange = Getter(pixelRange), Setter(pixelRange)
    getLoss, setLoss = Getter(loss), Setter(loss)
    getPredictionOutput, setPredictionOutput = Getter(predictionOutput), Setter(predictionOutput)
    getLabelSmoothing, setLabelSmoothing = Getter(labelSmoothing), Setter(labelSmoothing)
    getClassWeights, setClassWeights = Getter(classWeights), Setter(classWeights)
    getIgnoreIndex, setIgnoreIndex = Getter(ignoreIndex), Setter(ignoreIndex)
    getPosWeight, setPosWeight = Getter(posWeight), Setter(posWeight)
    getDelta, setDelta = Getter(delta), Setter(delta)
    getBeta, setBeta = Getter(beta), Setter(beta)
    getMargin, setMargin = Getter(margin), Setter(margin)
    getNormDegree, setNormDegree = Getter(normDegree), Setter(normDegree)
    getSwap, setSwap = Getter(swap), Setter(swap)
    getLogInput, setLogInput = Getter(logInput), Setter(logInput)
    getFull, setFull = Getter(full), Setter(full)
    getLogTarget, setLogTarget = Getter(logTarget), Setter(logTarget)
    getBlank, setBlank = Getter(blank), Setter(blank)
    getZeroInfinity, setZeroInfinity = Getter(zeroInfinity), Setter(zeroInfinity)
    getOptimizer, setOptimizer = Getter(optimizer), Setter(optimizer)
    getLearningRate, setLearningRate = Getter(learningRate), Setter(learningRate)
    getMomentum, setMomentum = Getter(momentum), Setter(momentum)
    getWeightDecay, setWeightDecay = Getter(weightDecay), Setter(weightDecay)
    getBeta1, setBeta1 = Getter(beta1), Setter(beta1)
    getBeta2, setBeta2 = Getter(beta2), Setter(beta2)
    getEpsilon, setEpsilon = Getter(epsilon), Setter(epsilon)
    getDampening, setDampening = Getter(dampening), Setter(dampening)
    getNesterov, setNesterov = Getter(nesterov), Setter(nesterov)
    getAmsgrad, setAmsgrad = Getter(amsgrad), Setter(amsgrad)
    getLearningRateDecay, setLearningRateDecay = Getter(learningRateDecay), Setter(learningRateDecay)
    getInitialAccumulator, setInitialAccumulator = Getter(initialAccumulator), Setter(initialAccumulator)
    getAlpha, setAlpha = Getter(alpha), Setter(alpha)
    getCentered, setCentered = Getter(centered), Setter(centered)
    getTrustCoefficient, setTrustCoefficient = Getter(trustCoefficient), Setter(trustCoefficient)
    getBeta2Decay, setBeta2Decay = Getter(beta2Decay), Setter(beta2Decay)
    getEpsilon1, setEpsilon1 = Getter(epsilon1), Setter(epsilon1)
    getEpsilon2, setEpsilon2 = Getter(epsilon2), Setter(epsilon2)
    getClipThreshold, setClipThreshold = Getter(clipThreshold), Setter(clipThreshold)
    getParameterGroups, setParameterGroups = Getter(parameterGroups), Setter(parameterGroups)
    getLrSchedule, setLrSchedule = Getter(lrSchedule), Setter(lrSchedule)
    getWarmupSteps, setWarmupSteps = Getter(warmupSteps), Setter(warmupSteps)
    getWarmupFraction, setWarmupFraction = Getter(warmupFraction), Setter(warmupFraction)
    getWarmupStart, setWarmupStart = Getter(warmupStart), Setter(warmupStart)
    getLrDecaySteps, setLrDecaySteps = Getter(lrDecaySteps), Setter(lrDecaySteps)
    getLrGamma, setLrGamma = Getter(lrGamma), Setter(lrGamma)
    getLrMilestones, setLrMilestones = Getter(lrMilestones), Setter(lrMilestones)
    getLrMin, setLrMin = Getter(lrMin), Setter(lrMin)
    getLrCycleFactor, setLrCycleFactor = Getter(lrCycleFactor), Setter(lrCycleFactor)
    getLrStartFactor, setLrStartFactor = Getter(lrStartFactor), Setter(lrStartFactor)
    getLrEndFactor, setLrEndFactor = Getter(lrEndFactor), Setter(lrEndFactor)
    getLrPower, setLrPower = Getter(lrPower), Setter(lrPower)
    getLrPeakFraction, setLrPeakFraction = Getter(lrPeakFraction), Setter(lrPeakFraction)
    getLrDivFactor, setLrDivFactor = Getter(lrDivFactor), Setter(lrDivFactor)
    getLrFinalDivFactor, setLrFinalDivFactor = Getter(lrFinalDivFactor), Setter(lrFinalDivFactor)
    getLrAnneal, setLrAnneal = Getter(lrAnneal), Setter(lrAnneal)
    getLrPatience, setLrPatience = Getter(lrPatience), Setter(lrPatience)
    getLrMetric, setLrMetric = Getter(lrMetric), Setter(lrMetric)
    getLrThreshold, setLrThreshold = Getter(lrThreshold), Setter(lrThreshold)
    getLrThresholdMode, setLrThresholdMode = Getter(lrThresholdMode), Setter(lrThresholdMode)
    getLrCooldown, setLrCooldown = Getter(lrCooldown), Setter(lrCooldown)
    getGradientClipNorm, setGradientClipNorm = Getter(gradientClipNorm), Setter(gradientClipNorm)
    getGradientClipValue, setGradientClipValue = Getter(gradientClipValue), Setter(gradientClipValue)
    getGradientAccumulationSteps, setGradientAccumulationSteps = (
        Getter(gradientAccumulationSteps),
        Setter(gradientAccumulationSteps),
    )
    getEmaDecay, setEmaDecay = Getter(emaDecay), Setter(emaDecay)
    getPrecision, setPrecision = Getter(precision), Setter(precision)
    getSyncBatchNorm, setSyncBatchNorm = Getter(syncBatchNorm), Setter(syncBatchNorm)
    getActivationCheckpointing, setActivationCheckpointing = (
        Getter(activationCheckpointing),
        Setter(activationCheckpointing),
    )
    getBatchSize, setBatchSize = Getter(batchSize), Setter(batchSize)
    setMaxEpochs = Setter(maxEpochs)
    setMaxIter = Setter(HasMaxIter.maxIter)
    getNumWorkers, setNumWorkers = Getter(numWorkers), Setter(numWorkers)
    getValidationFraction, setValidationFraction = Getter(validationFraction), Setter(validationFraction)
    getShardMemory, setShardMemory = Getter(shardMemory), Setter(shardMemory)
    getForceRepartition, setForceRepartition = Getter(forceRepartition), Setter(forceRepartition)
    getMetrics, setMetrics = Getter(metrics), Setter(metrics)
    getTopK, setTopK = Getter(topK), Setter(topK)
    getEarlyStoppingPatience, setEarlyStoppingPatience = Getter(earlyStoppingPatience), Setter(earlyStoppingPatience)
    getEarlyStoppingMetric, setEarlyStoppingMetric = Getter(earlyStoppingMetric), Setter(earlyStoppingMetric)
    getEarlyStoppingMinDelta, setEarlyStoppingMinDelta = Getter(earlyStoppingMinDelta), Setter(earlyStoppingMinDelta)
    getRestoreBestWeights, setRestoreBestWeights = Getter(restoreBestWeights), Setter(restoreBestWeights)
    getShuffle, setShuffle = Getter(shuffle), Setter(shuffle)
    getRendezvousTimeout, setRendezvousTimeout = Getter(rendezvousTimeout), Setter(rendezvousTimeout)
    getCollectiveTimeout, setCollectiveTimeout = Getter(collectiveTimeout), Setter(collectiveTimeout)
    getHeartbeatInterval, setHeartbeatInterval = Getter(heartbeatInterval), Setter(heartbeatInterval)
    getStallWarning, setStallWarning = Getter(stallWarning), Setter(stallWarning)
    getSlotTimeout, setSlotTimeout = Getter(slotTimeout), Setter(slotTimeout)
    getProgressInterval, setProgressInterval = Getter(progressInterval), Setter(progressInterval)

    def getMaxEpochs(self) -> int:
        """The number of epochs: `maxIter` is Spark ML's name for it, and holds when it is set."""
        return int(self.getOrDefault(self.maxIter if self.isSet(self.maxIter) else self.maxEpochs))

    def getMaxIter(self) -> int:
        """`getMaxEpochs` under Spark ML's name."""
        return self.getMaxEpochs()

    def _training_defaults(self) -> None:
        self._setDefault(
            labelCol="label",
            stringOrderType="frequencyDesc",
            seed=0,
            loss="crossEntropy",
            optimizer="adamw",
            learningRate=1e-3,
            momentum=0.0,
            beta1=0.9,
            beta2=0.999,
            epsilon=1e-8,
            nesterov=False,
            amsgrad=False,
            centered=False,
            lrSchedule="constant",
            gradientAccumulationSteps=1,
            precision="fp32",
            syncBatchNorm=False,
            activationCheckpointing="none",
            batchSize=32,
            maxEpochs=1,
            numWorkers=1,
            validationFraction=0.0,
            restoreBestWeights=False,
            shuffle=True,
            forceRepartition=False,
            rendezvousTimeout=60.0,
            collectiveTimeout=1800.0,
            heartbeatInterval=5.0,
            stallWarning=60.0,
            slotTimeout=600.0,
            progressInterval=1.0,
        )
