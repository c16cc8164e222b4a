"""What a layer is: settings, a type in the JSON, and the place of its weights in Keras."""

from __future__ import annotations

import itertools
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from kindling.errors import InvalidArgumentError
from kindling.keywords import check

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from typing_extensions import Self

    from kindling.layers.keras import Weight

# An initialiser by Keras' name, or with its settings: {"name": "constant", "value": 0.1}.
Initializer: TypeAlias = "str | dict[str, Any]"
# One number for every axis, or one per axis.
Sizes: TypeAlias = "int | tuple[int, ...]"

TYPES: dict[str, type[Layer]] = {}


@dataclass(frozen=True, repr=False)
class Layer:
    """One layer. `type` is its name in the JSON; `name` what its weights are called after; frozen if not `trainable`.

    Called on the outputs of other layers it becomes part of a graph: `y = Dense(10)(x)`. Called twice, it has the same
    weights in both places.
    """

    type: ClassVar[str]
    name: str | None = field(default=None, kw_only=True)
    trainable: bool = field(default=True, kw_only=True)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "type" in cls.__dict__:  # not what several layers have in common
            TYPES[cls.type] = TYPES[cls.__name__] = cls

    def __new__(cls, *_: Any, **given: Any) -> Self:
        # Before __init__, which dataclass writes: the names are checked where a hint can be given.
        check(cls.__name__, given, (field.name for field in fields(cls)))
        return super().__new__(cls)

    def _given(self) -> Iterator[tuple[str, Any]]:
        """The settings that are not the default."""
        for one in fields(self):
            value = getattr(self, one.name)
            if value is not None and (one.default is MISSING or value != one.default):
                yield one.name, value

    def config(self) -> dict[str, Any]:
        """The layer as JSON: its type, and what differs from the defaults."""
        return {"type": self.type, **{name: _json(value) for name, value in self._given()}}

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self._given())
        return f"{type(self).__name__}({settings})"

    def __call__(self, *inputs: Symbol | Sequence[Symbol]) -> Symbol:
        """The output of this layer for these inputs, in a graph that a `Model` will take."""
        given: list[Symbol] = []
        for one in inputs:
            given.extend([one] if isinstance(one, Symbol) else one)
        if not given or not all(isinstance(one, Symbol) for one in given):
            raise InvalidArgumentError(
                f"{type(self).__name__} is called on what Input(...) or another layer gave, not on {inputs!r}"
            )
        return Symbol(self, tuple(given))

    def keras_weights(self) -> tuple[Weight, ...]:
        """The weights in the order in which the same layer of Keras has them."""
        return ()


def _json(value: Any) -> Any:
    if isinstance(value, Layer):
        return value.config()
    if isinstance(value, tuple | list):
        return [_json(one) for one in value]
    return value


_ORDER = itertools.count()


class Symbol:
    """What a layer will give once the graph runs: the output of one call of it, or an input of the graph."""

    def __init__(self, layer: Layer | None, inputs: tuple[Symbol, ...] = (), name: str | None = None) -> None:
        self.layer = layer
        self.inputs = inputs
        self.name = name
        self.order = next(_ORDER)

    def __repr__(self) -> str:
        return f"Symbol({self.name!r})" if self.layer is None else f"Symbol({self.layer!r})"


class InputSymbol(Symbol):
    """An input of a graph."""

    def __init__(self, shape: Sequence[int], dtype: str, name: str | None) -> None:
        super().__init__(None, (), name)
        self.shape = tuple(shape)
        self.dtype = dtype


def Input(shape: Sequence[int], *, name: str | None = None, dtype: str = "float32") -> InputSymbol:
    """An input of a graph: the shape of one row, and "float32", "int64" or "int32"."""
    return InputSymbol(shape, dtype, name)
