"""`TorchEstimator` trains a network on the executors; `TorchModel` is what comes out. Both wrap the Scala classes."""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import weakref
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from pyspark.ml.base import _FitMultipleIterator
from pyspark.ml.util import JavaMLReadable, JavaMLWritable
from pyspark.ml.wrapper import JavaEstimator, JavaModel, JavaParams
from pyspark.sql.utils import is_remote

from kindling.errors import InvalidArgumentError, KindlingError, spark_errors
from kindling.export import export_for
from kindling.interrupt import interruptible
from kindling.jar import installed_libtorch
from kindling.keras_models import refuse_other_backends
from kindling.keras_weights import weights_of
from kindling.keywords import check
from kindling.layers.network import Model, Sequential, read_network
from kindling.params import InferenceParams, TrainingParams
from kindling.summary import TrainingSummary

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import TypeGuard

    import numpy as np
    import torch
    from py4j.java_gateway import JavaObject
    from pyspark.ml.param import Param
    from pyspark.sql import DataFrame
    from typing_extensions import Self, Unpack

    Network = str | Path | torch.nn.Module | Sequential | Model


class Settings(TypedDict, total=False):
    """The keywords of `TorchEstimator`; `explainParams()` tells what they mean and their defaults."""

    model: Network | None
    layers: str | None
    loss: str
    predictionOutput: str | int
    labelSmoothing: float
    classWeights: Sequence[float]
    ignoreIndex: int
    posWeight: float | Sequence[float]
    delta: float
    beta: float
    margin: float
    normDegree: float
    swap: bool
    logInput: bool
    full: bool
    logTarget: bool
    blank: int
    zeroInfinity: bool
    optimizer: str
    learningRate: float
    momentum: float
    weightDecay: float | None
    beta1: float
    beta2: float
    epsilon: float
    dampening: float | None
    nesterov: bool
    amsgrad: bool
    learningRateDecay: float | None
    initialAccumulator: float | None
    alpha: float | None
    centered: bool
    trustCoefficient: float | None
    beta2Decay: float | None
    epsilon1: float | None
    epsilon2: float | None
    clipThreshold: float | None
    parameterGroups: str | Sequence[Mapping[str, Any]] | None
    lrSchedule: str
    warmupSteps: int | None
    warmupFraction: float | None
    warmupStart: float | None
    lrDecaySteps: int | None
    lrGamma: float | None
    lrMilestones: Sequence[int] | None
    lrMin: float | None
    lrCycleFactor: int | None
    lrStartFactor: float | None
    lrEndFactor: float | None
    lrPower: float | None
    lrPeakFraction: float | None
    lrDivFactor: float | None
    lrFinalDivFactor: float | None
    lrAnneal: str | None
    lrPatience: int | None
    lrMetric: str | None
    lrThreshold: float | None
    lrThresholdMode: str | None
    lrCooldown: int | None
    gradientClipNorm: float | None
    gradientClipValue: float | None
    gradientAccumulationSteps: int
    emaDecay: float | None
    precision: str
    syncBatchNorm: bool
    activationCheckpointing: str | int | Sequence[str]
    batchSize: int
    maxEpochs: int
    maxIter: int
    numWorkers: int
    featuresCol: str
    inputCols: Sequence[str] | None
    inputShapes: str | Sequence[Sequence[int]] | None
    indexCols: Sequence[str] | None
    stringOrderType: str
    pixelRange: str | None
    labelCol: str
    weightCol: str | None
    predictionCol: str
    probabilityCol: str
    predictedLabelCol: str | None
    outputCols: Sequence[str] | None
    validationIndicatorCol: str | None
    validationFraction: float
    metrics: Sequence[str] | None
    topK: int | None
    earlyStoppingPatience: int | None
    earlyStoppingMetric: str | None
    earlyStoppingMinDelta: float | None
    restoreBestWeights: bool
    seed: int
    shuffle: bool
    handleInvalid: str
    shardMemory: int | str | None
    forceRepartition: bool
    device: str
    inferBatchSize: int
    rendezvousTimeout: float
    collectiveTimeout: float
    heartbeatInterval: float
    stallWarning: float
    slotTimeout: float
    progressInterval: float
    libtorch: str


class Stage(JavaParams, JavaMLWritable):
    """What the estimator and the model have in common towards the JVM."""

    libtorch: Param[str]

    def _transfer_params_to_java(self) -> None:
        # The torch of this Python, not of the one that saved the stage: looked up whenever the JVM is told.
        self._setDefault(libtorch=installed_libtorch())
        super()._transfer_params_to_java()

    def save(self, path: str) -> None:
        """Save to a path that Spark knows; `write().overwrite().save(path)` replaces what is there."""
        with spark_errors():
            super().save(path)


class TorchModel(Stage, JavaModel, InferenceParams, JavaMLReadable["TorchModel"]):
    """A trained network: `transform` adds the prediction column, and with crossEntropy the probabilities."""

    def __init__(self, java_model: JavaObject | None = None) -> None:
        super().__init__(java_model)
        self._inference_defaults()
        # Spark Connect hands over a reference, which has no params to read: fit and load copy them.
        if java_model is not None and not is_remote():
            self._transfer_params_from_java()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The weights and buffers by name, as `torch.nn.Module.load_state_dict` takes them."""
        try:
            from safetensors.torch import load
        except ImportError as error:
            raise KindlingError("state_dict needs torch and safetensors: pip install kindling[torch]") from error
        with spark_errors():
            # Not through _call_java, which takes bytes from the JVM for a pickle.
            return load(bytes(self._java().weights()))

    def vocabulary(self, column: str) -> list[str]:
        """The values of a column that indexCols named: value i is the number i."""
        with spark_errors():
            return [str(value) for value in self._java().vocabulary(column)]

    def kerasWeights(self, model: Any) -> list[np.ndarray]:
        """The weights as the Keras model that was exported takes them: `net.set_weights(fitted.kerasWeights(net))`."""
        try:
            from safetensors.numpy import load
        except ImportError as error:
            raise KindlingError("kerasWeights needs safetensors: pip install kindling[torch]") from error
        with spark_errors():
            return weights_of(model, load(bytes(self._java().weights())))

    def exportProgram(self, path: str | Path, mode: str = "training", overwrite: bool = False) -> None:
        """Write the network with its trained weights as a .pt2 archive, to any path that Spark knows.

        `torch.export.load(path).module()` runs it in Python, and a `TorchEstimator` trains it again. `mode` says what
        the written program does: "training" as it was trained, dropout and the statistics of batch norm included,
        "evaluation" as `transform` runs it.
        """
        with spark_errors():
            java = self._java()
            self._transfer_params_to_java()  # where libtorch is, which writes the program
            java.exportProgram(_hadoop(path), mode, overwrite)

    def exportWeights(self, path: str | Path, overwrite: bool = False) -> None:
        """Write the weights and buffers by name as a safetensors file, to any path that Spark knows."""
        with spark_errors():
            self._java().exportWeights(_hadoop(path), overwrite)

    @property
    def summary(self) -> TrainingSummary:
        """How the training went; it is saved with the model."""
        with spark_errors():
            return TrainingSummary.from_json(str(self._java().summary().toJson()))

    def _java(self) -> JavaObject:
        if is_remote():
            raise KindlingError("weights and the summary cannot be read over Spark Connect yet: use a classic session")
        if self._java_obj is None:
            raise KindlingError("this TorchModel holds no network: it comes from TorchEstimator.fit or TorchModel.load")
        return self._java_obj

    def _transform(self, dataset: DataFrame) -> DataFrame:
        with spark_errors():
            return super()._transform(dataset)


class TorchEstimator(Stage, JavaEstimator[TorchModel], TrainingParams, JavaMLReadable["TorchEstimator"]):
    """Trains a network on the rows of a DataFrame, with `numWorkers` replicas inside Spark's executors.

    `model` is the network: the path of a .pt2 file that `torch.export` or `kindling.export` wrote, a `torch.nn.Module`
    (exported on the driver, its input shapes read from the data), a `Sequential` list of layers, or a `Model`, a
    graph of them. The other keywords
    are Spark ML params under the same names.

    >>> estimator = TorchEstimator(model=net, batchSize=256, maxEpochs=5, numWorkers=4)  # doctest: +SKIP
    >>> model = estimator.fit(df)  # doctest: +SKIP
    """

    def __init__(self, **settings: Unpack[Settings]) -> None:
        check("TorchEstimator", settings, Settings.__annotations__)
        super().__init__()
        self._module: torch.nn.Module | None = None
        self._validation: DataFrame | None = None
        self._java_obj = _new_java_estimator(self.uid)
        self._inference_defaults()
        self._training_defaults()
        self.setParams(**settings)

    def setParams(self, **settings: Unpack[Settings]) -> Self:
        """Set any of the keywords of the constructor; those not given, or None, stay as they are."""
        check("TorchEstimator", settings, Settings.__annotations__)
        given: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
        if "model" in given and "layers" in given:
            raise TypeError("a TorchEstimator trains one network: give model or layers, not both")
        for name, value in given.items():
            # Through the setters: some take more than their param holds.
            getattr(self, f"set{name[0].upper()}{name[1:]}")(value)
        return self

    def setModel(self, network: Network) -> Self:
        """Set the network: the path of a .pt2 file, a torch.nn.Module, a Sequential or a Model."""
        if isinstance(network, Sequential | Model):
            return self.setLayers(network.to_json())
        if isinstance(network, str):
            self._forget_network()
            return self._set(model=network)
        if isinstance(network, Path):
            return self.setModel(_hadoop(network))
        if not _is_module(network):
            refuse_other_backends(network)
            raise InvalidArgumentError(
                f"model is a {type(network).__name__}: it should be the path of a .pt2 file, a torch.nn.Module,"
                " a kindling.Sequential or a kindling.Model"
            )
        self._forget_network()
        self._module = network
        return self

    def getModel(self) -> Network | None:
        """The network that the next fit trains, if one was given; a Sequential or Model comes back as an equal one."""
        if self.isSet(self.layers):
            return read_network(self.getOrDefault(self.layers))
        return str(self.getOrDefault(self.model)) if self.isSet(self.model) else self._module

    def setLayers(self, layers: str) -> Self:
        """Set the network as the JSON of a list of layers; `setModel` writes it for a Sequential or Model."""
        self._forget_network()
        return self._set(layers=layers)

    def getLayers(self) -> str | None:
        """The JSON of the list of layers; None when the network is not one."""
        return str(self.getOrDefault(self.layers)) if self.isSet(self.layers) else None

    def _forget_network(self) -> None:
        """One network at a time: a new one replaces the old, in whichever form that was."""
        self._module = None
        self.clear(self.model)
        self.clear(self.layers)

    def _held(self) -> torch.nn.Module | None:
        """The module that only Python holds, unless a param map brought a path or layers since."""
        return None if self.isSet(self.model) or self.isSet(self.layers) else self._module

    def fit(self, dataset: DataFrame, params: Any = None, validation: DataFrame | None = None) -> Any:
        """Train on the rows of `dataset`, and give the fitted model.

        `params` are as in any estimator of pyspark.ml: a param map, or a list of them for a list of models. All rows of
        `validation`, which has the columns of `dataset`, are validated on after each epoch.
        """
        if validation is None:
            return super().fit(dataset, params)
        if is_remote():
            raise KindlingError(
                "a second DataFrame cannot be sent over Spark Connect yet: union both, with a boolean column for"
                " validationIndicatorCol"
            )
        holder = self.copy()
        holder._validation = validation
        return holder.fit(dataset, params)

    def fitMultiple(self, dataset: DataFrame, paramMaps: Sequence[Any]) -> Iterator[tuple[int, TorchModel]]:
        """Give an iterator over (index, model) that any number of threads may draw from.

        The data is read once for all param maps that want the same rows of it. The rows are dropped when the last
        model is there, or with the iterator.
        """
        if is_remote():  # the server sees one fit at a time
            return super().fitMultiple(dataset, paramMaps)
        estimator = self.copy()
        shared = estimator._java_obj.shareIngest()  # type: ignore[union-attr]
        ended, lock = [0], threading.Lock()

        def fit(index: int) -> TorchModel:
            try:
                return estimator.fit(dataset, paramMaps[index])  # type: ignore[no-any-return]
            finally:
                with lock:
                    ended[0] += 1
                if ended[0] == len(paramMaps):
                    shared.close()

        models = _FitMultipleIterator(fit, len(paramMaps))
        # At the interpreter's end the JVM ends, too.
        weakref.finalize(models, shared.close).atexit = False
        return models

    def _fit(self, dataset: DataFrame) -> TorchModel:
        with spark_errors():
            module = self._held()
            if module is None:
                return self._fit_on_jvm(dataset)
            if is_remote():
                raise KindlingError(
                    "a torch.nn.Module cannot be sent over Spark Connect yet: write it with kindling.export to a path"
                    " that the server can read, and give this path as model"
                )
            with tempfile.TemporaryDirectory(prefix="kindling-") as folder:
                path = Path(folder) / "network.pt2"
                shapes = json.loads(self.getInputShapes()) if self.isDefined(self.inputShapes) else None
                columns = self.getInputCols() if self.isDefined(self.inputCols) else [self.getFeaturesCol()]
                indexed = self.getIndexCols() if self.isDefined(self.indexCols) else []
                export_for(module, dataset, columns, shapes, str(path), indexed=indexed)
                # A copy carries the program to the JVM: this estimator may be fitting other data at the same time.
                return self.copy({self.model: f"file://{path}"})._fit_on_jvm(dataset)

    def _fit_on_jvm(self, dataset: DataFrame) -> TorchModel:
        if is_remote():  # Spark Connect waits in Python, where Ctrl-C is heard
            return super()._fit(dataset)
        return interruptible(dataset.sparkSession.sparkContext, partial(self._fit_here, dataset))

    def _fit_here(self, dataset: DataFrame) -> TorchModel:
        if self._validation is None:
            return super()._fit(dataset)
        self._transfer_params_to_java()
        java = self._java_obj.fit(dataset._jdf, self._validation._jdf)  # type: ignore[union-attr]
        return self._copyValues(self._create_model(java))

    def _to_java(self) -> JavaObject:
        """For saving. A module cannot be: what another session needs to read is a file of its own."""
        if self._held() is not None:
            raise InvalidArgumentError(
                "an estimator that holds a torch.nn.Module cannot be saved:"
                " write the module with kindling.export and give its path as model"
            )
        return super()._to_java()

    def _create_model(self, java_model: JavaObject) -> TorchModel:
        return TorchModel(java_model)


def _new_java_estimator(uid: str) -> Any:
    """The Scala object behind the wrapper; without it nothing works, so say what is missing."""
    try:
        return JavaParams._new_java_obj("kindling.TorchEstimator", uid)
    except AssertionError:
        raise KindlingError("there is no SparkSession: start one before making a TorchEstimator") from None
    except TypeError as error:
        if "JavaPackage" not in str(error):
            raise
        raise KindlingError(
            "Kindling's jar is not on Spark's class path:"
            ' start the session with .config("spark.jars", kindling.jar_path())'
        ) from None


def _hadoop(path: str | Path) -> str:
    """A path as Spark takes it: a Path is a file of this machine, whatever file system is Spark's default."""
    return f"file://{path.resolve()}" if isinstance(path, Path) else path


def _is_module(value: object) -> TypeGuard[torch.nn.Module]:
    """Whether it is a torch.nn.Module. Who holds one has imported torch: nobody else needs to."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)
