"""Networks of layers: one after the other in a `Sequential`, or a graph in a `Model`. Both become a JSON document."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeAlias

from kindling.errors import InvalidArgumentError
from kindling.layers.attention import TransformerBlock
from kindling.layers.base import TYPES, InputSymbol, Layer, Symbol
from kindling.layers.keras import from_keras, layer_order, to_keras

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy as np

    from kindling.layers.keras import Weight

LayerLike: TypeAlias = "Layer | Mapping[str, Any] | tuple[Any, ...]"


class _Network:
    """What both have in common."""

    seed: int | None
    dataFormat: str | None

    def _document(self) -> dict[str, Any]:
        raise NotImplementedError

    def _weights(self) -> list[Weight]:
        return [weight for weights in self._weights_by_layer().values() for weight in weights]

    def _weights_by_layer(self) -> dict[str, list[Weight]]:
        """By the layers' names, in Keras' order if it has one."""
        raise NotImplementedError

    def to_json(self) -> str:
        """The document that the estimator's param `layers` holds. What is left open the driver fills in."""
        document = self._document()
        if self.dataFormat is not None:
            document["dataFormat"] = self.dataFormat
        if self.seed is not None:
            document["seed"] = self.seed
        return json.dumps(document)

    def keras_weights(self, state: Mapping[str, Any]) -> list[np.ndarray[Any, Any]]:
        """A fitted model's `state_dict()` as `keras_model.set_weights` takes it, for the same network built in Keras.

        >>> keras_model.set_weights(net.keras_weights(model.state_dict()))  # doctest: +SKIP
        """
        return to_keras(self._weights(), state)

    def keras_layer_weights(self, state: Mapping[str, Any]) -> dict[str, list[np.ndarray[Any, Any]]]:
        """The same by the names of the layers, each as `keras_layer.set_weights` takes it."""
        return {name: to_keras(weights, state) for name, weights in self._weights_by_layer().items() if weights}

    def state_from_keras(self, weights: Sequence[Any]) -> dict[str, np.ndarray[Any, Any]]:
        """What `keras_model.get_weights()` gave, under the names and in the shapes of `state_dict()`."""
        return from_keras(self._weights(), weights)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and json.loads(self.to_json()) == json.loads(other.to_json())

    def __hash__(self) -> int:
        return hash(json.dumps(json.loads(self.to_json()), sort_keys=True))


class Sequential(_Network):
    """Layers one after the other.

    A layer is an object, `Dense(10)`; a dict as in the JSON, `{"type": "dense", "units": 10}`; or a tuple of the type
    and what follows it, `("dense", 10)`.

    `inputShape` is the shape of one row; left out, it is a flat row as wide as the features. `seed` draws the first
    weights; left out, the estimator's does. `dataFormat="channels_first"` is for all layers that do not say.

    >>> from kindling import Dense, Dropout, Sequential
    >>> net = Sequential([Dense(64, activation="relu"), Dropout(0.1), ("dense", 10)], inputShape=(64,))
    >>> len(net.layers)
    3
    """

    def __init__(
        self,
        layers: Sequence[LayerLike],
        *,
        inputShape: Sequence[int] | None = None,
        seed: int | None = None,
        dataFormat: str | None = None,
    ) -> None:
        if not layers:
            raise InvalidArgumentError("a Sequential needs at least one layer")
        self.layers: tuple[Layer, ...] = tuple(_layer(index, given) for index, given in enumerate(layers))
        self.inputShape: tuple[int, ...] | None = None if inputShape is None else tuple(inputShape)
        self.seed = seed
        self.dataFormat = dataFormat

    def _document(self) -> dict[str, Any]:
        document: dict[str, Any] = {"layers": [layer.config() for layer in self.layers]}
        if self.inputShape is not None:
            document["inputShape"] = list(self.inputShape)
        return document

    def _weights_by_layer(self) -> dict[str, list[Weight]]:
        named = ((layer.name or str(index), layer) for index, layer in enumerate(self.layers))
        return {name: [weight.under(name) for weight in layer.keras_weights()] for name, layer in named}

    @classmethod
    def from_json(cls, text: str) -> Sequential:
        """The list that `to_json` wrote, or one by hand: a document, or only the layers in it."""
        document = json.loads(text)
        return cls(document) if isinstance(document, list) else cls(**document)

    def __call__(self, symbol: Symbol) -> Symbol:
        """The layers on what another layer gave, as a part of a graph."""
        for layer in self.layers:
            symbol = layer(symbol)
        return symbol

    def __repr__(self) -> str:
        return f"Sequential({list(self.layers)!r}, inputShape={self.inputShape}, seed={self.seed})"


class Model(_Network):
    """A graph of layers, from what `Input` gave to what its last layers gave.

    The inputs are filled by `inputCols` in their order. A layer called twice has the same weights in both places.

    >>> from kindling import Concatenate, Dense, Embedding, Input, Model
    >>> user, context = Input((), name="user", dtype="int64"), Input((8,), name="context")
    >>> joined = Concatenate()([Embedding(1000, 16)(user), context])
    >>> net = Model([user, context], Dense(1)(joined))
    >>> [layer["name"] for layer in json.loads(net.to_json())["layers"]]
    ['embedding', 'concatenate', 'dense']
    """

    def __init__(
        self,
        inputs: InputSymbol | Sequence[InputSymbol],
        outputs: Symbol | Sequence[Symbol],
        *,
        seed: int | None = None,
        dataFormat: str | None = None,
    ) -> None:
        self.inputs = (inputs,) if isinstance(inputs, Symbol) else tuple(inputs)
        self.outputs = (outputs,) if isinstance(outputs, Symbol) else tuple(outputs)
        self.seed = seed
        self.dataFormat = dataFormat
        if not self.outputs or not all(isinstance(output, Symbol) for output in self.outputs):
            raise InvalidArgumentError("a Model's outputs are what its last layers gave: at least one")
        if not self.inputs or not all(isinstance(one, InputSymbol) for one in self.inputs):
            raise InvalidArgumentError("a Model's inputs are what Input(...) gave: at least one")
        self._calls = [node for node in _reached(self.outputs) if node.layer is not None]
        for node in _reached(self.outputs):
            if node.layer is None and node not in self.inputs:
                raise InvalidArgumentError(f"the outputs need the input {node.name!r}, which is not in inputs")
        self._names, self._layer_names = self._name()

    def _name(self) -> tuple[dict[int, str], dict[int, str]]:
        """A name for every value, and one for every layer: its own, or Keras' dense, dense_1, ..."""
        layers = {id(node.layer): node.layer for node in self._calls if node.layer is not None}
        given = [one.name for one in self.inputs] + [layer.name for layer in layers.values()]
        own = [name for name in given if name is not None]
        taken = Counter(own)
        twice = [name for name, count in taken.items() if count > 1]
        if twice:
            raise InvalidArgumentError(f"two inputs or layers are called {twice[0]!r}: names must differ")

        def free(name: str) -> str:
            found, count = name, 0
            while found in taken:
                count += 1
                found = f"{name}_{count}"
            taken[found] = 1
            return found

        names = {id(one): one.name or free("input") for one in self.inputs}
        layer_names: dict[int, str] = {}
        for node in self._calls:
            layer = node.layer
            if layer is None:
                continue
            if id(layer) in layer_names:
                names[id(node)] = free(layer_names[id(layer)])
            else:
                names[id(node)] = layer_names[id(layer)] = layer.name or free(layer.type)
        return names, layer_names

    def _document(self) -> dict[str, Any]:
        seen: set[int] = set()
        layers = []
        for node in self._calls:
            layer = node.layer
            if layer is None:
                continue
            shared = {"type": "shared", "layer": self._layer_names[id(layer)]}
            config = shared if id(layer) in seen else layer.config()
            seen.add(id(layer))
            given = [self._names[id(one)] for one in node.inputs]
            layers.append(config | {"name": self._names[id(node)], "inputs": given})
        inputs = [{"name": self._names[id(one)], "shape": list(one.shape), "dtype": one.dtype} for one in self.inputs]
        return {"inputs": inputs, "layers": layers, "outputs": [self._names[id(one)] for one in self.outputs]}

    def _weights(self) -> list[Weight]:
        self._check_blocks()
        return super()._weights()

    def _weights_by_layer(self) -> dict[str, list[Weight]]:
        named = [(self._layer_names[id(layer)], layer) for layer in layer_order(self.outputs)]
        return {name: [weight.under(name) for weight in layer.keras_weights()] for name, layer in named}

    def _check_blocks(self) -> None:
        """Keras has no transformer block: how far its layers are from the outputs depends on who wrote it there."""
        before = {id(call): {id(one) for one in _reached(call.inputs)} for call in self._calls}
        weighted = [call for call in self._calls if call.layer is not None and call.layer.keras_weights()]
        for block in weighted:
            for other in weighted:
                beside = id(block) not in before[id(other)] and id(other) not in before[id(block)]
                if isinstance(block.layer, TransformerBlock) and beside and block.layer is not other.layer:
                    names = self._names[id(block)], self._names[id(other)]
                    raise InvalidArgumentError(
                        f"{names[0]!r} and {names[1]!r} stand beside each other, so that the layers of a transformer"
                        " block have no certain place in Keras: set the weights by layer, with keras_layer_weights"
                    )

    @classmethod
    def from_json(cls, text: str) -> Model:
        """The graph that `to_json` wrote, or one by hand."""
        document = json.loads(text)
        inputs = [InputSymbol(one["shape"], one.get("dtype", "float32"), one["name"]) for one in document["inputs"]]
        values: dict[str, Symbol] = {str(one.name): one for one in inputs}
        layers: dict[str, Layer] = {}
        for index, entry in enumerate(document["layers"]):
            settings = dict(entry)
            given = settings.pop("inputs", [])
            name = settings.get("name", "")
            missing = [one for one in given if one not in values]
            if missing or not name:
                problem = f"its input {missing[0]!r} is no earlier layer" if missing else "it has no name"
                raise InvalidArgumentError(f"layer {index}: {problem}")
            layer = layers.get(settings["layer"]) if settings.get("type") == "shared" else _layer(index, settings)
            if layer is None:
                raise InvalidArgumentError(f"layer {index}: it shares {settings['layer']!r}, which is no earlier layer")
            layers[name] = layer
            values[name] = layer(*(values[one] for one in given))
        outputs = [values[name] for name in document["outputs"]]
        return cls(inputs, outputs, seed=document.get("seed"), dataFormat=document.get("dataFormat"))

    def __repr__(self) -> str:
        layers = {self._layer_names[id(node.layer)]: node.layer for node in self._calls}
        return f"Model(inputs={[self._names[id(one)] for one in self.inputs]}, layers={layers})"


def read_network(text: str) -> Sequential | Model:
    """The network that a JSON document describes."""
    document = json.loads(text)
    return Model.from_json(text) if isinstance(document, dict) and "inputs" in document else Sequential.from_json(text)


def _reached(outputs: Iterable[Symbol]) -> list[Symbol]:
    """Everything that the outputs are made of, in the order in which it was made."""
    found: dict[int, Symbol] = {}
    pending = list(outputs)
    while pending:
        node = pending.pop()
        if id(node) not in found:
            found[id(node)] = node
            pending.extend(node.inputs)
    return sorted(found.values(), key=lambda node: node.order)


def _layer(index: int, given: LayerLike) -> Layer:
    """One entry of the list as a layer; an error names its index."""
    if isinstance(given, Layer):
        return given
    try:
        match given:
            case {"type": str(kind), **settings}:
                named: dict[str, Any] = {str(name): value for name, value in settings.items()}
                return _known(kind)(**named)
            case (str(kind), *values):
                return _known(kind)(*values)
    except (TypeError, InvalidArgumentError) as error:
        raise InvalidArgumentError(f"layer {index}: {error}") from None
    raise InvalidArgumentError(
        f"layer {index} is {given!r}: it should be a layer such as Dense(10), a dict with a 'type', or a tuple"
    )


def _known(kind: str) -> type[Layer]:
    found = TYPES.get(kind)
    if found is None:
        names = dict.fromkeys(layer.type for layer in TYPES.values())
        raise InvalidArgumentError(f"there is no layer type {kind!r}: it is one of {', '.join(names)}")
    return found
