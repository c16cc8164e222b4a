"""Kindling: distributed deep learning inside Apache Spark.

>>> estimator = TorchEstimator(model=net, numWorkers=4, batchSize=256, maxEpochs=5)  # doctest: +SKIP
>>> model = estimator.fit(df)  # doctest: +SKIP
>>> model.transform(test)  # doctest: +SKIP
"""

from kindling.errors import InvalidArgumentError, KindlingError
from kindling.estimator import TorchEstimator, TorchModel
from kindling.export import export
from kindling.jar import jar_path
from kindling.layers import (
    GELU,
    Activation,
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    Layer,
    LayerNormalization,
    ReLU,
    Reshape,
    Sequential,
    Sigmoid,
    Softmax,
    Tanh,
)
from kindling.summary import TrainingSummary

__version__ = "0.1.0"

__all__ = [
    "GELU",
    "Activation",
    "BatchNormalization",
    "Conv2D",
    "Dense",
    "Dropout",
    "Embedding",
    "Flatten",
    "InvalidArgumentError",
    "KindlingError",
    "Layer",
    "LayerNormalization",
    "ReLU",
    "Reshape",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "TorchEstimator",
    "TorchModel",
    "TrainingSummary",
    "export",
    "jar_path",
]

# Spark finds the Python class of a saved stage by its Java name, kindling.TorchModel.
for _public in (TorchEstimator, TorchModel):
    _public.__module__ = "kindling"
