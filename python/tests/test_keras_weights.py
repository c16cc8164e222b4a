"""Weights by name become a list in Keras' order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from kindling.errors import InvalidArgumentError
from kindling.keras_weights import weights_of


@dataclass
class Variable:
    path: str
    shape: tuple[int, ...]


@dataclass
class Model:
    weights: list[Variable] = field(default_factory=list)


DENSE = Model([Variable("net/dense/kernel", (3, 2)), Variable("net/dense/bias", (2,))])


def state(prefix: str = "") -> dict[str, Any]:
    return {f"{prefix}net/dense/bias": np.ones(2), f"{prefix}net/dense/kernel": np.zeros((3, 2))}


@pytest.mark.parametrize("prefix", ["", "_torch_params.", "inner._functional._torch_params."])
def test_weights_come_in_the_order_of_the_model_whatever_held_them(prefix: str) -> None:
    kernel, bias = weights_of(DENSE, state(prefix))
    assert kernel.shape == (3, 2)
    assert bias.tolist() == [1, 1]


def test_a_dot_in_a_path_is_an_underscore_in_the_name() -> None:
    (found,) = weights_of(Model([Variable("v1.0/kernel", (2,))]), {"v1_0/kernel": np.ones(2)})
    assert found.tolist() == [1, 1]


def test_a_variable_without_a_value_is_named() -> None:
    with pytest.raises(InvalidArgumentError, match=r"no weight 'net/dense_1/kernel'.*given names"):
        weights_of(Model([Variable("net/dense_1/kernel", (3, 2))]), state())


def test_another_shape_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match=r"is \[3, 2\], where the Keras model has \[2, 3\]"):
        weights_of(Model([Variable("net/dense/kernel", (2, 3))]), state())


def test_something_without_weights_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="has no weights to set"):
        weights_of(Model(), state())
