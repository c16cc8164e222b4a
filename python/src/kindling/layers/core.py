"""Dense layers, embeddings, dropout, rescaling and reshaping."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from kindling.layers.base import Initializer, Layer, Sizes
from kindling.layers.keras import plain, transposed

if TYPE_CHECKING:
    from kindling.layers.keras import Weight

# One number, one per axis, or a pair of before and after per axis.
Margins: TypeAlias = "int | tuple[int, ...] | tuple[tuple[int, int], ...]"


@dataclass(frozen=True, repr=False)
class Dense(Layer):
    """A fully connected layer: `activation(x W + b)`."""

    type: ClassVar[str] = "dense"
    units: int
    activation: str | None = None
    useBias: bool = True
    kernelInitializer: Initializer = "glorot_uniform"
    biasInitializer: Initializer = "zeros"

    def keras_weights(self) -> tuple[Weight, ...]:
        return (transposed("weight"), *plain("bias")[: self.useBias])


@dataclass(frozen=True, repr=False)
class Embedding(Layer):
    """A vector of `outputDim` for each of `inputDim` ids. As the first layer it makes the input integers."""

    type: ClassVar[str] = "embedding"
    inputDim: int
    outputDim: int
    embeddingsInitializer: Initializer = "uniform"

    def keras_weights(self) -> tuple[Weight, ...]:
        return plain("weight")


@dataclass(frozen=True, repr=False)
class Dropout(Layer):
    """Sets a `rate` of its inputs to zero while training, and scales the others up."""

    type: ClassVar[str] = "dropout"
    rate: float


@dataclass(frozen=True, repr=False)
class AlphaDropout(Layer):
    """Dropout that keeps mean and deviation, for nets of `selu`."""

    type: ClassVar[str] = "alphaDropout"
    rate: float


@dataclass(frozen=True, repr=False)
class SpatialDropout1D(Layer):
    """Drops whole channels of (steps, channels)."""

    type: ClassVar[str] = "spatialDropout1d"
    rate: float


@dataclass(frozen=True, repr=False)
class SpatialDropout2D(Layer):
    """Drops whole channels of images."""

    type: ClassVar[str] = "spatialDropout2d"
    rate: float
    dataFormat: str | None = None


@dataclass(frozen=True, repr=False)
class SpatialDropout3D(Layer):
    """Drops whole channels of volumes."""

    type: ClassVar[str] = "spatialDropout3d"
    rate: float
    dataFormat: str | None = None


@dataclass(frozen=True, repr=False)
class Rescaling(Layer):
    """`x * scale + offset`; bytes become floats."""

    type: ClassVar[str] = "rescaling"
    scale: float
    offset: float = 0.0


@dataclass(frozen=True, repr=False)
class Identity(Layer):
    """What it is given."""

    type: ClassVar[str] = "identity"


@dataclass(frozen=True, repr=False)
class Flatten(Layer):
    """All axes into one, the channels last."""

    type: ClassVar[str] = "flatten"
    dataFormat: str | None = None


@dataclass(frozen=True, repr=False)
class Reshape(Layer):
    """The same numbers in another shape; one size may be -1."""

    type: ClassVar[str] = "reshape"
    targetShape: tuple[int, ...]


@dataclass(frozen=True, repr=False)
class Permute(Layer):
    """A row's axes, counted from 1, in another order."""

    type: ClassVar[str] = "permute"
    dims: tuple[int, ...]


@dataclass(frozen=True, repr=False)
class RepeatVector(Layer):
    """A vector `n` times."""

    type: ClassVar[str] = "repeatVector"
    n: int


@dataclass(frozen=True, repr=False)
class ZeroPadding1D(Layer):
    """Zeros before and after the steps."""

    type: ClassVar[str] = "zeroPadding1d"
    padding: Margins = 1
    dataFormat: str | None = None


@dataclass(frozen=True, repr=False)
class ZeroPadding2D(Layer):
    """Zeros around an image."""

    type: ClassVar[str] = "zeroPadding2d"
    padding: Margins = 1
    dataFormat: str | None = None


@dataclass(frozen=True, repr=False)
class ZeroPadding3D(Layer):
    """Zeros around a volume."""

    type: ClassVar[str] = "zeroPadding3d"
    padding: Margins = 1
    dataFormat: str | None = None


@dataclass(frozen=True, repr=False)
class Cropping1D(Layer):
    """Cuts off the first and last steps."""

    type: ClassVar[str] = "cropping1d"
    cropping: Margins = 1
    dataFormat: str | None = None


@dataclass(frozen=True, repr=False)
class Cropping2D(Layer):
    """Cuts off the edges of an image."""

    type: ClassVar[str] = "cropping2d"
    cropping: Margins = 0
    dataFormat: str | None = None


@dataclass(frozen=True, repr=False)
class Cropping3D(Layer):
    """Cuts off the edges of a volume."""

    type: ClassVar[str] = "cropping3d"
    cropping: Margins = 1
    dataFormat: str | None = None


@dataclass(frozen=True, repr=False)
class UpSampling1D(Layer):
    """Each step `size` times."""

    type: ClassVar[str] = "upSampling1d"
    size: int = 2


@dataclass(frozen=True, repr=False)
class UpSampling2D(Layer):
    """An image enlarged, `interpolation` "nearest" or "bilinear"."""

    type: ClassVar[str] = "upSampling2d"
    size: Sizes = 2
    dataFormat: str | None = None
    interpolation: str = "nearest"


@dataclass(frozen=True, repr=False)
class UpSampling3D(Layer):
    """A volume enlarged."""

    type: ClassVar[str] = "upSampling3d"
    size: Sizes = 2
    dataFormat: str | None = None
