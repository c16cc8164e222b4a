"""Telling Keras models from other modules, without importing Keras or torch: who holds one has imported them."""

from __future__ import annotations

import sys
from typing import Any

from kindling.errors import InvalidArgumentError


def is_keras(value: object) -> bool:
    """Whether it is a Keras layer or model, of whatever backend."""
    keras = sys.modules.get("keras")
    # While keras is still being imported by another thread it has no Layer yet.
    return keras is not None and isinstance(value, getattr(keras, "Layer", ()))


def refuse_other_backends(value: object) -> None:
    """A Keras model is a torch.nn.Module on Keras' torch backend only: say so."""
    backend = sys.modules["keras"].backend.backend() if is_keras(value) else "torch"
    if backend != "torch":
        raise InvalidArgumentError(
            f"the Keras model runs on {backend}: set the environment variable KERAS_BACKEND to torch before importing"
            " keras"
        )


def input_names(model: Any) -> list[str] | None:
    """The names of the inputs of a Sequential or functional model, in its order; None for a model that has none."""
    inputs = getattr(model, "inputs", None)
    return [tensor.name for tensor in inputs] if inputs else None
