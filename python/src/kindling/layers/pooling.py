"""The largest or the mean of windows, or of all there is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kindling.layers.base import Layer, Sizes


@dataclass(frozen=True, repr=False)
class _Pooling(Layer):
    """What pooling by windows has in common."""

    poolSize: Sizes = 2
    strides: Sizes | None = None
    padding: str = "valid"
    dataFormat: str | None = None


@dataclass(frozen=True, repr=False)
class MaxPooling1D(_Pooling):
    """The largest number of each window of steps; `strides` are `poolSize` if not given."""

    type: ClassVar[str] = "maxPooling1d"


@dataclass(frozen=True, repr=False)
class MaxPooling2D(_Pooling):
    """The largest number of each window of an image."""

    type: ClassVar[str] = "maxPooling2d"


@dataclass(frozen=True, repr=False)
class MaxPooling3D(_Pooling):
    """The largest number of each window of a volume."""

    type: ClassVar[str] = "maxPooling3d"


@dataclass(frozen=True, repr=False)
class AveragePooling1D(_Pooling):
    """The mean of each window of steps; padding does not count."""

    type: ClassVar[str] = "averagePooling1d"


@dataclass(frozen=True, repr=False)
class AveragePooling2D(_Pooling):
    """The mean of each window of an image."""

    type: ClassVar[str] = "averagePooling2d"


@dataclass(frozen=True, repr=False)
class AveragePooling3D(_Pooling):
    """The mean of each window of a volume."""

    type: ClassVar[str] = "averagePooling3d"


@dataclass(frozen=True, repr=False)
class _GlobalPooling(Layer):
    """What pooling of everything has in common."""

    dataFormat: str | None = None
    keepdims: bool = False


@dataclass(frozen=True, repr=False)
class GlobalMaxPooling1D(_GlobalPooling):
    """The largest number of each channel; `keepdims` leaves axes of size 1."""

    type: ClassVar[str] = "globalMaxPooling1d"


@dataclass(frozen=True, repr=False)
class GlobalMaxPooling2D(_GlobalPooling):
    """The largest number of each channel of an image."""

    type: ClassVar[str] = "globalMaxPooling2d"


@dataclass(frozen=True, repr=False)
class GlobalMaxPooling3D(_GlobalPooling):
    """The largest number of each channel of a volume."""

    type: ClassVar[str] = "globalMaxPooling3d"


@dataclass(frozen=True, repr=False)
class GlobalAveragePooling1D(_GlobalPooling):
    """The mean of each channel."""

    type: ClassVar[str] = "globalAveragePooling1d"


@dataclass(frozen=True, repr=False)
class GlobalAveragePooling2D(_GlobalPooling):
    """The mean of each channel of an image."""

    type: ClassVar[str] = "globalAveragePooling2d"


@dataclass(frozen=True, repr=False)
class GlobalAveragePooling3D(_GlobalPooling):
    """The mean of each channel of a volume."""

    type: ClassVar[str] = "globalAveragePooling3d"
