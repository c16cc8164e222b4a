"""Multi-head attention and the transformer block over (steps, features)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from kindling.layers.base import Initializer, Layer
from kindling.layers.keras import head_bias, heads, joined_heads, plain, transposed

if TYPE_CHECKING:
    from kindling.layers.keras import Weight


def _attention_weights(count: int, bias: bool) -> tuple[Weight, ...]:
    weights: list[Weight] = []
    for name in ("query", "key", "value"):
        weights.append(heads(f"{name}.weight", count))
        weights.extend([head_bias(f"{name}.bias", count)] * bias)
    return (*weights, joined_heads("output.weight", count), *plain("output.bias")[:bias])


@dataclass(frozen=True, repr=False)
class MultiHeadAttention(Layer):
    """Scaled dot product attention in `numHeads` heads.

    It is called on query and value, `attention(query, value)`, on query, value and key, or on one that is all three.
    """

    type: ClassVar[str] = "multiHeadAttention"
    numHeads: int
    keyDim: int
    valueDim: int | None = None
    dropout: float = 0.0
    useBias: bool = True
    outputShape: int | None = None
    useCausalMask: bool = False
    kernelInitializer: Initializer = "glorot_uniform"
    biasInitializer: Initializer = "zeros"

    def keras_weights(self) -> tuple[Weight, ...]:
        return _attention_weights(self.numHeads, self.useBias)


@dataclass(frozen=True, repr=False)
class TransformerBlock(Layer):
    """Attention and a feed-forward net of `intermediateDim`, each added to its input and normalised after or before."""

    type: ClassVar[str] = "transformerBlock"
    numHeads: int
    intermediateDim: int
    dropout: float = 0.0
    activation: str = "relu"
    layerNormEpsilon: float = 1e-5
    normalizeFirst: bool = False
    useCausalMask: bool = False
    kernelInitializer: Initializer = "glorot_uniform"
    biasInitializer: Initializer = "zeros"

    def keras_weights(self) -> tuple[Weight, ...]:
        """Those of the layers that it is made of, one after the other."""
        attention = tuple(weight.under("attention") for weight in _attention_weights(self.numHeads, True))
        feedforward = (
            transposed("intermediate.weight"),
            *plain("intermediate.bias"),
            transposed("output.weight"),
            *plain("output.bias"),
        )
        blocks: list[Weight] = []
        for name, inner in (("attention", attention), ("feedforward", feedforward)):
            norm = plain(f"{name}_norm.weight", f"{name}_norm.bias")
            blocks.extend(norm + inner if self.normalizeFirst else inner + norm)
        return tuple(blocks)
