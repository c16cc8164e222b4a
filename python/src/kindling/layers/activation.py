"""Activations as layers. Most are used by name, as the `activation` of another layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from kindling.layers.base import Initializer, Layer, Sizes
from kindling.layers.keras import plain

if TYPE_CHECKING:
    from kindling.layers.keras import Weight


@dataclass(frozen=True, repr=False)
class Activation(Layer):
    """The activation of that name: `Activation("swish")`."""

    type: ClassVar[str] = "activation"
    activation: str


@dataclass(frozen=True, repr=False)
class ReLU(Layer):
    """`max(x, 0)`, at most `maxValue`; below `threshold`, `negativeSlope * (x - threshold)`."""

    type: ClassVar[str] = "relu"
    maxValue: float | None = None
    negativeSlope: float = 0.0
    threshold: float = 0.0


@dataclass(frozen=True, repr=False)
class LeakyReLU(Layer):
    """`x`, and `negativeSlope * x` below 0."""

    type: ClassVar[str] = "leakyRelu"
    negativeSlope: float = 0.3


@dataclass(frozen=True, repr=False)
class PReLU(Layer):
    """A leaky ReLU whose slopes are trained, one for each element along the axes that are not in `sharedAxes`."""

    type: ClassVar[str] = "prelu"
    alphaInitializer: Initializer = "zeros"
    sharedAxes: Sizes | None = None

    def keras_weights(self) -> tuple[Weight, ...]:
        return plain("alpha")


@dataclass(frozen=True, repr=False)
class ELU(Layer):
    """`x`, and `alpha * (exp(x) - 1)` below 0."""

    type: ClassVar[str] = "elu"
    alpha: float = 1.0


@dataclass(frozen=True, repr=False)
class GELU(Layer):
    """`x` times the normal distribution's Phi(x), or an approximation of it by tanh."""

    type: ClassVar[str] = "gelu"
    approximate: bool = False


@dataclass(frozen=True, repr=False)
class Tanh(Layer):
    """The hyperbolic tangent."""

    type: ClassVar[str] = "tanh"


@dataclass(frozen=True, repr=False)
class Sigmoid(Layer):
    """`1 / (1 + exp(-x))`."""

    type: ClassVar[str] = "sigmoid"


@dataclass(frozen=True, repr=False)
class Softmax(Layer):
    """Scores into probabilities along an axis. The crossEntropy loss wants scores: it has a softmax of its own."""

    type: ClassVar[str] = "softmax"
    axis: int = -1
