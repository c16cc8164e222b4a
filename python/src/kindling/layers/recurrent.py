"""Recurrent layers over (steps, features)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from kindling.errors import InvalidArgumentError
from kindling.layers.base import TYPES, Initializer, Layer
from kindling.layers.keras import gru_bias, gru_matrix, plain, transposed

if TYPE_CHECKING:
    from kindling.layers.keras import Weight


@dataclass(frozen=True, repr=False)
class LSTM(Layer):
    """A long short-term memory: its last output, or with `returnSequences` all of them."""

    type: ClassVar[str] = "lstm"
    units: int
    activation: str = "tanh"
    recurrentActivation: str = "sigmoid"
    useBias: bool = True
    kernelInitializer: Initializer = "glorot_uniform"
    recurrentInitializer: Initializer = "orthogonal"
    biasInitializer: Initializer = "zeros"
    unitForgetBias: bool = True
    dropout: float = 0.0
    returnSequences: bool = False
    goBackwards: bool = False

    def keras_weights(self) -> tuple[Weight, ...]:
        return (transposed("weight_ih"), transposed("weight_hh"), *plain("bias_ih")[: self.useBias])


@dataclass(frozen=True, repr=False)
class GRU(Layer):
    """A gated recurrent unit that resets after the product, as Keras' does by default."""

    type: ClassVar[str] = "gru"
    units: int
    activation: str = "tanh"
    recurrentActivation: str = "sigmoid"
    useBias: bool = True
    kernelInitializer: Initializer = "glorot_uniform"
    recurrentInitializer: Initializer = "orthogonal"
    biasInitializer: Initializer = "zeros"
    resetAfter: bool = True
    dropout: float = 0.0
    returnSequences: bool = False
    goBackwards: bool = False

    def keras_weights(self) -> tuple[Weight, ...]:
        bias = (gru_bias("bias_ih", "bias_hh"),) if self.useBias else ()
        return (gru_matrix("weight_ih"), gru_matrix("weight_hh"), *bias)


@dataclass(frozen=True, repr=False)
class SimpleRNN(Layer):
    """`activation(x W + h U + b)` step by step, the activation "tanh" or "relu"."""

    type: ClassVar[str] = "simpleRnn"
    units: int
    activation: str = "tanh"
    useBias: bool = True
    kernelInitializer: Initializer = "glorot_uniform"
    recurrentInitializer: Initializer = "orthogonal"
    biasInitializer: Initializer = "zeros"
    dropout: float = 0.0
    returnSequences: bool = False
    goBackwards: bool = False

    def keras_weights(self) -> tuple[Weight, ...]:
        return (transposed("weight_ih"), transposed("weight_hh"), *plain("bias_ih")[: self.useBias])


@dataclass(frozen=True, repr=False)
class Bidirectional(Layer):
    """Two copies of a recurrent layer, one of which sees the steps in reverse.

    `mergeMode` is "concat", "sum", "mul" or "ave".
    """

    type: ClassVar[str] = "bidirectional"
    layer: LSTM | GRU | SimpleRNN
    mergeMode: str = "concat"

    def __post_init__(self) -> None:
        layer: Any = self.layer
        if isinstance(layer, dict) and isinstance(layer.get("type"), str) and layer["type"] in TYPES:
            settings = {name: value for name, value in layer.items() if name != "type"}
            layer = TYPES[layer["type"]](**settings)
            object.__setattr__(self, "layer", layer)
        if not isinstance(layer, LSTM | GRU | SimpleRNN):
            raise InvalidArgumentError(f"Bidirectional takes a recurrent layer such as LSTM(8), not {layer!r}")
        if layer.name is not None or not layer.trainable:
            raise InvalidArgumentError("name and trainable are for the Bidirectional, not for the layer in it")

    def keras_weights(self) -> tuple[Weight, ...]:
        weights = self.layer.keras_weights()
        return tuple(weight.under(way) for way in ("forward_layer", "backward_layer") for weight in weights)
