"""Networks as a list of layers, named and configured as in Keras: no torch is needed to write one down.

The list becomes a small JSON document, which the driver turns into a program with freshly initialised weights. Images
are channels first: (channels, height, width). Shapes never count the batch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from kindling.errors import InvalidArgumentError
from kindling.keywords import check

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from typing_extensions import Self


@dataclass(frozen=True)
class Layer:
    """One layer of a `Sequential`. `type` is its name in the JSON."""

    type: ClassVar[str]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        _TYPES[cls.type] = cls

    def __new__(cls, *_: Any, **given: Any) -> Self:
        # Before __init__, which dataclass writes: the names are checked where a hint can be given.
        check(cls.__name__, given, (field.name for field in fields(cls)))
        return super().__new__(cls)

    def config(self) -> dict[str, Any]:
        """The layer as JSON: its type, and what differs from being unset."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        shown = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items() if v is not None}
        return {"type": self.type, **shown}


_TYPES: dict[str, type[Layer]] = {}


@dataclass(frozen=True)
class Dense(Layer):
    """A fully connected layer: `activation(x W + b)`."""

    type: ClassVar[str] = "dense"
    units: int
    activation: str | None = None
    useBias: bool = True


@dataclass(frozen=True)
class Conv2D(Layer):
    """A convolution over (channels, height, width); `padding` is "valid" or "same"."""

    type: ClassVar[str] = "conv2d"
    filters: int
    kernelSize: int | tuple[int, int]
    strides: int | tuple[int, int] = 1
    padding: str = "valid"
    activation: str | None = None
    useBias: bool = True


@dataclass(frozen=True)
class Dropout(Layer):
    """Sets a `rate` of its inputs to zero while training, and scales the others up."""

    type: ClassVar[str] = "dropout"
    rate: float


@dataclass(frozen=True)
class BatchNormalization(Layer):
    """Normalises each channel over the batch; `momentum` is Keras': the share of the old average that is kept."""

    type: ClassVar[str] = "batchNorm"
    momentum: float = 0.99
    epsilon: float = 1e-3


@dataclass(frozen=True)
class LayerNormalization(Layer):
    """Normalises each row over its last axis."""

    type: ClassVar[str] = "layerNorm"
    epsilon: float = 1e-3


@dataclass(frozen=True)
class Embedding(Layer):
    """A vector of `outputDim` for each of `inputDim` ids. As the first layer it makes the input integers."""

    type: ClassVar[str] = "embedding"
    inputDim: int
    outputDim: int


@dataclass(frozen=True)
class Flatten(Layer):
    """All axes into one."""

    type: ClassVar[str] = "flatten"


@dataclass(frozen=True)
class Reshape(Layer):
    """The same numbers in another shape."""

    type: ClassVar[str] = "reshape"
    targetShape: tuple[int, ...]


@dataclass(frozen=True)
class ReLU(Layer):
    """`max(x, 0)`."""

    type: ClassVar[str] = "relu"


@dataclass(frozen=True)
class GELU(Layer):
    """`x` times the normal distribution's Phi(x)."""

    type: ClassVar[str] = "gelu"


@dataclass(frozen=True)
class Tanh(Layer):
    """The hyperbolic tangent."""

    type: ClassVar[str] = "tanh"


@dataclass(frozen=True)
class Sigmoid(Layer):
    """`1 / (1 + exp(-x))`."""

    type: ClassVar[str] = "sigmoid"


@dataclass(frozen=True)
class Softmax(Layer):
    """Scores into probabilities over the last axis. The crossEntropy loss wants scores: it has a softmax of its own."""

    type: ClassVar[str] = "softmax"


_ACTIVATIONS: dict[str, type[Layer]] = {kind.type: kind for kind in (ReLU, GELU, Tanh, Sigmoid, Softmax)}


def Activation(activation: str) -> Layer:
    """The activation of that name as a layer: `Activation("relu")` is `ReLU()`."""
    kind = _ACTIVATIONS.get(activation)
    if kind is None:
        raise InvalidArgumentError(f"there is no activation {activation!r}: it is one of {', '.join(_ACTIVATIONS)}")
    return kind()


LayerLike: TypeAlias = "Layer | Mapping[str, Any] | tuple[Any, ...]"


class Sequential:
    """Layers one after the other.

    A layer is an object, `Dense(10)`; a dict as in the JSON, `{"type": "dense", "units": 10}`; or a tuple of the type
    and what follows it, `("dense", 10)`.

    `inputShape` is the shape of one row; left out, it is a flat row as wide as the features. `seed` draws the first
    weights; left out, the estimator's does.

    >>> net = Sequential([Dense(64, activation="relu"), Dropout(0.1), ("dense", 10)], inputShape=(64,))
    >>> len(net.layers)
    3
    """

    def __init__(
        self, layers: Sequence[LayerLike], *, inputShape: Sequence[int] | None = None, seed: int | None = None
    ) -> None:
        if not layers:
            raise InvalidArgumentError("a Sequential needs at least one layer")
        self.layers: tuple[Layer, ...] = tuple(_layer(index, given) for index, given in enumerate(layers))
        self.inputShape: tuple[int, ...] | None = None if inputShape is None else tuple(inputShape)
        self.seed = seed

    def to_json(self) -> str:
        """The document that the estimator's param `layers` holds. What is left open the driver fills in."""
        document: dict[str, Any] = {"layers": [layer.config() for layer in self.layers]}
        if self.inputShape is not None:
            document["inputShape"] = list(self.inputShape)
        if self.seed is not None:
            document["seed"] = self.seed
        return json.dumps(document)

    @classmethod
    def from_json(cls, text: str) -> Sequential:
        """The list that `to_json` wrote, or one by hand: a document, or only the layers in it."""
        document = json.loads(text)
        return cls(document) if isinstance(document, list) else cls(**document)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequential) and json.loads(self.to_json()) == json.loads(other.to_json())

    def __hash__(self) -> int:
        return hash(self.to_json())

    def __repr__(self) -> str:
        return f"Sequential({list(self.layers)!r}, inputShape={self.inputShape}, seed={self.seed})"


def _layer(index: int, given: LayerLike) -> Layer:
    """One entry of the list as a layer; an error names its index."""
    if isinstance(given, Layer):
        return given
    try:
        match given:
            case {"type": str(kind), **settings}:
                return _known(kind)(**{str(name): value for name, value in settings.items()})
            case (str(kind), *values):
                return _known(kind)(*values)
    except (TypeError, InvalidArgumentError) as error:
        raise InvalidArgumentError(f"layer {index}: {error}") from None
    raise InvalidArgumentError(
        f"layer {index} is {given!r}: it should be a layer such as Dense(10), a dict with a 'type', or a tuple"
    )


def _known(kind: str) -> type[Layer]:
    found = _TYPES.get(kind)
    if found is None:
        raise InvalidArgumentError(f"there is no layer type {kind!r}: it is one of {', '.join(_TYPES)}")
    return found
