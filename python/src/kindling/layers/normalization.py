"""Normalisations, with Keras' defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from kindling.layers.base import Initializer, Layer, Sizes
from kindling.layers.keras import plain

if TYPE_CHECKING:
    from kindling.layers.keras import Weight


@dataclass(frozen=True, repr=False)
class BatchNormalization(Layer):
    """Normalises each channel over the batch; `momentum` is Keras': the share of the old average that is kept.

    Frozen (`trainable=False`), it uses its statistics and leaves them as they are, as in Keras.
    """

    type: ClassVar[str] = "batchNorm"
    axis: int = -1
    momentum: float = 0.99
    epsilon: float = 1e-3
    center: bool = True
    scale: bool = True
    betaInitializer: Initializer = "zeros"
    gammaInitializer: Initializer = "ones"
    movingMeanInitializer: Initializer = "zeros"
    movingVarianceInitializer: Initializer = "ones"

    def keras_weights(self) -> tuple[Weight, ...]:
        trained = plain("weight")[: self.scale] + plain("bias")[: self.center]
        return trained + plain("running_mean", "running_var")


@dataclass(frozen=True, repr=False)
class LayerNormalization(Layer):
    """Normalises each row over its last axis, or its last ones."""

    type: ClassVar[str] = "layerNorm"
    axis: Sizes = -1
    epsilon: float = 1e-3
    center: bool = True
    scale: bool = True
    betaInitializer: Initializer = "zeros"
    gammaInitializer: Initializer = "ones"

    def keras_weights(self) -> tuple[Weight, ...]:
        return plain("weight")[: self.scale] + plain("bias")[: self.center]


@dataclass(frozen=True, repr=False)
class GroupNormalization(Layer):
    """Normalises each row over groups of channels; `groups=-1` makes every channel one."""

    type: ClassVar[str] = "groupNorm"
    groups: int = 32
    axis: int = -1
    epsilon: float = 1e-3
    center: bool = True
    scale: bool = True
    betaInitializer: Initializer = "zeros"
    gammaInitializer: Initializer = "ones"

    def keras_weights(self) -> tuple[Weight, ...]:
        return plain("weight")[: self.scale] + plain("bias")[: self.center]


@dataclass(frozen=True, repr=False)
class RMSNormalization(Layer):
    """Divides each row by the root of its mean square."""

    type: ClassVar[str] = "rmsNorm"
    axis: Sizes = -1
    epsilon: float = 1e-6

    def keras_weights(self) -> tuple[Weight, ...]:
        return plain("weight")
