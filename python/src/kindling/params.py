"""The settings of the estimator and of the model, each said once: name, type, meaning, and its getter and setter.

Names and defaults are those of the Scala classes. Values are checked there; here only their types are.
"""

from __future__ import annotations

import json
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
)

if TYPE_CHECKING:
    from collections.abc import Callable

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


class InferenceParams(HasFeaturesCol, HasInputCols, HasPredictionCol, HasProbabilityCol, HasHandleInvalid):
    """What a fitted model still needs to know."""

    inputShapes: Param[str] = param(
        "inputShapes", _shapes, "shape of one row for each input of the program, without the batch, as in [[1, 8, 8]]"
    )
    device: Param[str] = param("device", TypeConverters.toString, "where to compute: auto or cpu")
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


class TrainingParams(InferenceParams, HasLabelCol, HasValidationIndicatorCol, HasSeed, HasMaxIter):
    """What training needs to know besides."""

    model: Param[str] = param("model", TypeConverters.toString, "path of a .pt2 file, read by the driver")
    layers: Param[str] = param("layers", TypeConverters.toString, "list of layers as JSON, instead of model")
    loss: Param[str] = param("loss", TypeConverters.toString, "crossEntropy (integer labels) or mse")
    optimizer: Param[str] = param("optimizer", TypeConverters.toString, "adamw or sgd")
    learningRate: Param[float] = param("learningRate", TypeConverters.toFloat, "step size of the optimizer")
    momentum: Param[float] = param("momentum", TypeConverters.toFloat, "momentum of sgd")
    weightDecay: Param[float] = param(
        "weightDecay", TypeConverters.toFloat, "decay of the weights; unset: 0.01 with adamw, 0 with sgd"
    )
    beta1: Param[float] = param("beta1", TypeConverters.toFloat, "adamw's decay of the first moment")
    beta2: Param[float] = param("beta2", TypeConverters.toFloat, "adamw's decay of the second moment")
    epsilon: Param[float] = param("epsilon", TypeConverters.toFloat, "adamw's guard against division by zero")
    batchSize: Param[int] = param("batchSize", TypeConverters.toInt, "rows of one step, over all workers together")
    maxEpochs: Param[int] = param("maxEpochs", TypeConverters.toInt, "passes over the data")
    numWorkers: Param[int] = param("numWorkers", TypeConverters.toInt, "replicas that train at once, one per task slot")
    validationFraction: Param[float] = param(
        "validationFraction", TypeConverters.toFloat, "share of the rows kept for validation"
    )
    shuffle: Param[bool] = param("shuffle", TypeConverters.toBoolean, "whether each epoch reorders the rows")
    rendezvousTimeout: Param[float] = param(
        "rendezvousTimeout", TypeConverters.toFloat, "seconds that workers wait for each other at the start"
    )
    collectiveTimeout: Param[float] = param(
        "collectiveTimeout", TypeConverters.toFloat, "seconds that a worker waits for its peers within a step"
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
    getLoss, setLoss = Getter(loss), Setter(loss)
    getOptimizer, setOptimizer = Getter(optimizer), Setter(optimizer)
    getLearningRate, setLearningRate = Getter(learningRate), Setter(learningRate)
    getMomentum, setMomentum = Getter(momentum), Setter(momentum)
    getWeightDecay, setWeightDecay = Getter(weightDecay), Setter(weightDecay)
    getBeta1, setBeta1 = Getter(beta1), Setter(beta1)
    getBeta2, setBeta2 = Getter(beta2), Setter(beta2)
    getEpsilon, setEpsilon = Getter(epsilon), Setter(epsilon)
    getBatchSize, setBatchSize = Getter(batchSize), Setter(batchSize)
    setMaxEpochs = Setter(maxEpochs)
    setMaxIter = Setter(HasMaxIter.maxIter)
    getNumWorkers, setNumWorkers = Getter(numWorkers), Setter(numWorkers)
    getValidationFraction, setValidationFraction = Getter(validationFraction), Setter(validationFraction)
    getShuffle, setShuffle = Getter(shuffle), Setter(shuffle)
    getRendezvousTimeout, setRendezvousTimeout = Getter(rendezvousTimeout), Setter(rendezvousTimeout)
    getCollectiveTimeout, setCollectiveTimeout = Getter(collectiveTimeout), Setter(collectiveTimeout)
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
            seed=0,
            loss="crossEntropy",
            optimizer="adamw",
            learningRate=1e-3,
            momentum=0.0,
            beta1=0.9,
            beta2=0.999,
            epsilon=1e-8,
            batchSize=32,
            maxEpochs=1,
            numWorkers=1,
            validationFraction=0.0,
            shuffle=True,
            rendezvousTimeout=60.0,
            collectiveTimeout=300.0,
            slotTimeout=600.0,
            progressInterval=1.0,
        )
