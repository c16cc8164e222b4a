"""Weights of a network of layers in Keras' order and shapes, and back.

A `Weight` says how one array of `keras_model.get_weights()` is made of tensors of Kindling's `state_dict`. Kindling's
have PyTorch's shapes: a dense kernel is (units, features), a convolution's (filters, channels, height, width).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kindling.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from kindling.layers.base import Layer, Symbol

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Weight:
    """One of Keras' arrays: the names of the tensors it is made of, and how it is made and taken apart."""

    names: tuple[str, ...]
    join: Callable[[Sequence[Array]], Array] = lambda arrays: arrays[0]
    split: Callable[[Array], Sequence[Array]] = lambda array: (array,)

    def under(self, prefix: str) -> Weight:
        return replace(self, names=tuple(f"{prefix}.{name}" for name in self.names))


def plain(*names: str) -> tuple[Weight, ...]:
    """Weights that are the same in both."""
    return tuple(Weight((name,)) for name in names)


def transposed(name: str) -> Weight:
    """A matrix: Keras has inputs first, PyTorch outputs."""
    return Weight((name,), lambda a: a[0].T, lambda a: (a.T,))


def convolution(name: str) -> Weight:
    """A kernel: (window, input, output) in Keras, (output, input, window) in PyTorch."""
    return Weight(
        (name,),
        lambda a: np.transpose(a[0], (*range(2, a[0].ndim), 1, 0)),
        lambda a: (np.transpose(a, (a.ndim - 1, a.ndim - 2, *range(a.ndim - 2))),),
    )


def depthwise(name: str, multiplier: int) -> Weight:
    """A kernel by channel: (window, channels, multiplier) in Keras, (channels * multiplier, 1, window) in PyTorch."""

    def join(arrays: Sequence[Array]) -> Array:
        window = arrays[0].shape[2:]
        kernel = arrays[0].reshape(-1, multiplier, *window)
        return np.transpose(kernel, (*range(2, kernel.ndim), 0, 1))

    def split(array: Array) -> Sequence[Array]:
        kernel = np.transpose(array, (array.ndim - 2, array.ndim - 1, *range(array.ndim - 2)))
        return (kernel.reshape(-1, 1, *kernel.shape[2:]),)

    return Weight((name,), join, split)


def heads(name: str, count: int) -> Weight:
    """A projection into heads: (features, heads, size) in Keras, (heads * size, features) in PyTorch."""
    return Weight(
        (name,),
        lambda a: a[0].T.reshape(a[0].shape[1], count, -1),
        lambda a: (a.reshape(a.shape[0], -1).T,),
    )


def head_bias(name: str, count: int) -> Weight:
    return Weight((name,), lambda a: a[0].reshape(count, -1), lambda a: (a.reshape(-1),))


def joined_heads(name: str, count: int) -> Weight:
    """The projection out of heads: (heads, size, features) in Keras, (features, heads * size) in PyTorch."""
    return Weight(
        (name,),
        lambda a: a[0].T.reshape(count, -1, a[0].shape[0]),
        lambda a: (a.reshape(-1, a.shape[-1]).T,),
    )


def _swap_gates(array: Array) -> Array:
    """A GRU's gates stand along axis 0: update, reset, new in Keras; reset, update, new in PyTorch."""
    first, second, new = np.split(array, 3)
    return np.concatenate([second, first, new])


def gru_matrix(name: str) -> Weight:
    return Weight((name,), lambda a: _swap_gates(a[0]).T, lambda a: (_swap_gates(a.T),))


def gru_bias(*names: str) -> Weight:
    """Keras' bias of a GRU has a row for the inputs and one for the state."""
    return Weight(
        names,
        lambda arrays: np.stack([_swap_gates(array) for array in arrays]),
        lambda a: tuple(_swap_gates(row) for row in a),
    )


def to_keras(weights: Sequence[Weight], state: Mapping[str, Any]) -> list[Array]:
    """The arrays for `keras_model.set_weights`, from a state by name."""
    arrays = []
    for weight in weights:
        missing = [name for name in weight.names if name not in state]
        if missing:
            raise InvalidArgumentError(f"the state has no {missing[0]}: it belongs to another network")
        arrays.append(np.ascontiguousarray(weight.join([np.asarray(state[name]) for name in weight.names])))
    return arrays


def from_keras(weights: Sequence[Weight], arrays: Sequence[Any]) -> dict[str, Array]:
    """The state by name, from what `keras_model.get_weights()` gave."""
    if len(weights) != len(arrays):
        raise InvalidArgumentError(
            f"the network has {len(weights)} weights in Keras and {len(arrays)} are given: the two networks differ"
        )
    state: dict[str, Array] = {}
    for weight, array in zip(weights, arrays, strict=True):
        parts = weight.split(np.asarray(array))
        state |= {name: np.ascontiguousarray(part) for name, part in zip(weight.names, parts, strict=True)}
        if weight.names[0].endswith(".running_var"):
            # PyTorch counts batches as well.
            state[weight.names[0].replace("running_var", "num_batches_tracked")] = np.asarray(0, dtype=np.int64)
    return state


def layer_order(outputs: Sequence[Symbol]) -> list[Layer]:
    """The layers of a graph in the order of `keras_model.layers`.

    Keras sorts layers by their distance from the outputs, the furthest first, and those of one distance by when a walk
    from the outputs first meets them (`map_graph` in keras/src/ops/function.py).
    """
    met: dict[int, int] = {}
    nodes: list[Symbol] = []
    finished: set[int] = set()

    def key(node: Symbol) -> int:
        return id(node if node.layer is None else node.layer)

    # A stack of our own, as a graph may be deeper than Python's: each node with the inputs still to be walked.
    for output in outputs:
        stack: list[tuple[Symbol, Iterator[Symbol]]] = []
        pending: Symbol | None = output
        while pending is not None or stack:
            if pending is not None:
                if id(pending) not in finished:
                    met.setdefault(key(pending), len(met))
                    stack.append((pending, iter(pending.inputs)))
                pending = None
                continue
            node, inputs = stack[-1]
            pending = next(inputs, None)
            if pending is None:
                stack.pop()
                if id(node) not in finished:
                    finished.add(id(node))
                    nodes.append(node)

    depths: dict[int, int] = {}
    of_layer: dict[int, int] = {}
    for node in reversed(nodes):
        depth = max(depths.get(id(node), 0), of_layer.get(key(node), 0))
        of_layer[key(node)] = depths[id(node)] = depth
        for given in node.inputs:
            depths[id(given)] = max(depth + 1, depths.get(id(given), 0))
    layers = {key(node): node.layer for node in nodes if node.layer is not None}
    return [layers[one] for one in sorted(layers, key=lambda one: (-of_layer[one], met[one]))]
