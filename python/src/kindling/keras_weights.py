"""Trained weights in the order in which a Keras model takes them.

The weights of an exported Keras model have the paths of its variables (`sequential/dense/kernel`) as their names: as
they are where Kindling exported it, behind `_torch_params.` where torch did. The values are in Keras' own layout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kindling.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

# Where Keras' torch backend keeps the variables of a layer.
_HOLDER = "_torch_params."


def weights_of(model: Any, state: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """What `model.set_weights` takes, from the trained values by name."""
    variables = getattr(model, "weights", None)
    if not variables:
        raise InvalidArgumentError(
            f"{type(model).__name__} has no weights to set: give the Keras model, built, as it was exported"
        )
    # One value under several names is the same value; in a module nested in others the first name may be any of them.
    values = {name.rpartition(_HOLDER)[2]: value for name, value in state.items()}
    return [_value(variable, values) for variable in variables]


def _value(variable: Any, values: Mapping[str, np.ndarray]) -> np.ndarray:
    path = variable.path
    # torch lets no dot stand in the name of one weight.
    value = values.get(path, values.get(path.replace(".", "_")))
    if value is None:
        raise InvalidArgumentError(
            f"the trained network has no weight {path!r}: give the Keras model that was exported. Keras numbers layers"
            " as they are made, so a model built again has other names unless its layers are given names"
        )
    if tuple(value.shape) != tuple(variable.shape):
        raise InvalidArgumentError(
            f"the trained weight {path!r} is {list(value.shape)}, where the Keras model has {list(variable.shape)}"
        )
    return value
