"""Convolutions. `dataFormat` is "channels_last", Keras' default, or "channels_first"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from kindling.layers.base import Initializer, Layer, Sizes
from kindling.layers.keras import convolution, depthwise, plain

if TYPE_CHECKING:
    from kindling.layers.keras import Weight


@dataclass(frozen=True, repr=False)
class _Convolution(Layer):
    """What convolutions of all ranks have in common."""

    filters: int
    kernelSize: Sizes
    strides: Sizes = 1
    padding: str = "valid"
    dataFormat: str | None = None
    dilationRate: Sizes = 1
    groups: int = 1
    activation: str | None = None
    useBias: bool = True
    kernelInitializer: Initializer = "glorot_uniform"
    biasInitializer: Initializer = "zeros"

    def keras_weights(self) -> tuple[Weight, ...]:
        return (convolution("weight"), *plain("bias")[: self.useBias])


@dataclass(frozen=True, repr=False)
class Conv1D(_Convolution):
    """A convolution over (steps, channels); `padding` is "valid", "same" or "causal"."""

    type: ClassVar[str] = "conv1d"


@dataclass(frozen=True, repr=False)
class Conv2D(_Convolution):
    """A convolution over (height, width, channels); `padding` is "valid" or "same"."""

    type: ClassVar[str] = "conv2d"


@dataclass(frozen=True, repr=False)
class Conv3D(_Convolution):
    """A convolution over (depth, height, width, channels); `padding` is "valid" or "same"."""

    type: ClassVar[str] = "conv3d"


@dataclass(frozen=True, repr=False)
class _Depthwise(Layer):
    """What convolutions by channel have in common."""

    kernelSize: Sizes
    strides: Sizes = 1
    padding: str = "valid"
    depthMultiplier: int = 1
    dataFormat: str | None = None
    dilationRate: Sizes = 1
    activation: str | None = None
    useBias: bool = True
    depthwiseInitializer: Initializer = "glorot_uniform"
    biasInitializer: Initializer = "zeros"

    def keras_weights(self) -> tuple[Weight, ...]:
        return (depthwise("weight", self.depthMultiplier), *plain("bias")[: self.useBias])


@dataclass(frozen=True, repr=False)
class DepthwiseConv1D(_Depthwise):
    """A convolution of every channel by itself, `depthMultiplier` results for each."""

    type: ClassVar[str] = "depthwiseConv1d"


@dataclass(frozen=True, repr=False)
class DepthwiseConv2D(_Depthwise):
    """A convolution of every channel of an image by itself."""

    type: ClassVar[str] = "depthwiseConv2d"


@dataclass(frozen=True, repr=False)
class _Separable(Layer):
    """What separable convolutions have in common."""

    filters: int
    kernelSize: Sizes
    strides: Sizes = 1
    padding: str = "valid"
    dataFormat: str | None = None
    dilationRate: Sizes = 1
    depthMultiplier: int = 1
    activation: str | None = None
    useBias: bool = True
    depthwiseInitializer: Initializer = "glorot_uniform"
    pointwiseInitializer: Initializer = "glorot_uniform"
    biasInitializer: Initializer = "zeros"

    def keras_weights(self) -> tuple[Weight, ...]:
        kernels = depthwise("depthwise", self.depthMultiplier), convolution("pointwise")
        return (*kernels, *plain("bias")[: self.useBias])


@dataclass(frozen=True, repr=False)
class SeparableConv1D(_Separable):
    """A convolution of every channel by itself, then one over the channels of each point."""

    type: ClassVar[str] = "separableConv1d"


@dataclass(frozen=True, repr=False)
class SeparableConv2D(_Separable):
    """The same over images."""

    type: ClassVar[str] = "separableConv2d"


@dataclass(frozen=True, repr=False)
class _Transposed(Layer):
    """What transposed convolutions have in common."""

    filters: int
    kernelSize: Sizes
    strides: Sizes = 1
    padding: str = "valid"
    outputPadding: Sizes | None = None
    dataFormat: str | None = None
    dilationRate: Sizes = 1
    activation: str | None = None
    useBias: bool = True
    kernelInitializer: Initializer = "glorot_uniform"
    biasInitializer: Initializer = "zeros"

    def keras_weights(self) -> tuple[Weight, ...]:
        return (convolution("weight"), *plain("bias")[: self.useBias])


@dataclass(frozen=True, repr=False)
class Conv1DTranspose(_Transposed):
    """The transpose of a convolution, which makes (steps, channels) longer."""

    type: ClassVar[str] = "conv1dTranspose"


@dataclass(frozen=True, repr=False)
class Conv2DTranspose(_Transposed):
    """The transpose of a convolution, which makes an image larger."""

    type: ClassVar[str] = "conv2dTranspose"


@dataclass(frozen=True, repr=False)
class Conv3DTranspose(_Transposed):
    """The transpose of a convolution, which makes a volume larger."""

    type: ClassVar[str] = "conv3dTranspose"
