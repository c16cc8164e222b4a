"""Layers that join several outputs: `Add()([a, b])`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kindling.layers.base import Layer, Sizes


@dataclass(frozen=True, repr=False)
class Add(Layer):
    """The sum; sizes of 1 are stretched."""

    type: ClassVar[str] = "add"


@dataclass(frozen=True, repr=False)
class Subtract(Layer):
    """The first minus the second."""

    type: ClassVar[str] = "subtract"


@dataclass(frozen=True, repr=False)
class Multiply(Layer):
    """The product, element by element."""

    type: ClassVar[str] = "multiply"


@dataclass(frozen=True, repr=False)
class Average(Layer):
    """The mean, element by element."""

    type: ClassVar[str] = "average"


@dataclass(frozen=True, repr=False)
class Maximum(Layer):
    """The largest, element by element."""

    type: ClassVar[str] = "maximum"


@dataclass(frozen=True, repr=False)
class Minimum(Layer):
    """The smallest, element by element."""

    type: ClassVar[str] = "minimum"


@dataclass(frozen=True, repr=False)
class Concatenate(Layer):
    """One after the other along an axis."""

    type: ClassVar[str] = "concatenate"
    axis: int = -1


@dataclass(frozen=True, repr=False)
class Dot(Layer):
    """The sum of products along an axis of each of two inputs; `axes` is one for both or a pair."""

    type: ClassVar[str] = "dot"
    axes: Sizes
