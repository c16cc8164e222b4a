"""A Keras 3 model, on Keras' torch backend, as a torch.nn.Module that torch.export can read.

Exported as it is, a Keras model would not train: its layers reach their variables past the module that holds them, so
torch takes every weight for a constant. `KerasNet` holds the values itself, under the variables' own paths
(`sequential/dense/kernel`), and lends them to the model for the time of a call, in Keras' `StatelessScope`. Trainable
variables are parameters; the others are buffers, which get what the call assigned to them.

Batch normalisation is written as torch's operator with Keras' statistics beside it: only the operator has a switch
between training and evaluation that a program can turn.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from kindling.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


class KerasNet(torch.nn.Module):
    """Calls a Keras model in training, with weights that torch sees.

    `places` says for each input of the model which of the module's inputs it is.
    """

    model: Any

    def __init__(self, model: Any, examples: Sequence[torch.Tensor], places: Sequence[int]) -> None:
        super().__init__()
        self.places = places
        # Not a submodule: its own parameters would be a second set of the same weights.
        self.__dict__["model"] = model
        if not model.built:
            # Not in training, where it would move the statistics of the caller's model.
            with torch.no_grad():
                self._call(examples, training=False)
        refuse_losses(model)
        names = [variable.path for variable in model.variables]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InvalidArgumentError(f"two variables of the Keras model are named {twice!r}: give its layers names")
        self.variables = {name.replace(".", "_"): v for name, v in zip(names, model.variables, strict=True)}
        for name, variable in self.variables.items():
            value = variable.value.detach().cpu().clone()
            if variable.trainable:
                self.register_parameter(name, torch.nn.Parameter(value))
            else:
                self.register_buffer(name, value)

    def forward(self, *inputs: torch.Tensor) -> Any:
        keras = sys.modules["keras"]
        own = {name: getattr(self, name) for name in self.variables}
        with keras.StatelessScope(state_mapping=[(v, own[name]) for name, v in self.variables.items()]) as scope:
            before = {name: scope.get_current_value(v) for name, v in self.variables.items()}
            with _switchable_batch_norm(self.model):
                outputs = self._call(inputs, training=True)
            after = {name: scope.get_current_value(v) for name, v in self.variables.items()}
        for name, buffer in self.named_buffers():
            if after[name] is not before[name]:
                buffer.copy_(after[name].detach())
        return outputs

    def _call(self, inputs: Sequence[torch.Tensor], *, training: bool) -> Any:
        keras = sys.modules["keras"]
        structure = getattr(self.model, "_inputs_struct", None)
        ordered = [inputs[place] for place in self.places]
        arguments: Any = ordered[0] if len(ordered) == 1 else ordered
        if isinstance(structure, dict):
            # Keras flattens a dict by its sorted keys, not in the order in which it was written.
            arguments = keras.tree.pack_sequence_as(structure, ordered)
        with keras.device("cpu"):
            return self.model(arguments, training=training)


def refuse_losses(model: Any) -> None:
    """What Keras' own `fit` adds to the loss is not in the model's output, so a program would leave it out."""
    if model.losses:
        raise InvalidArgumentError(
            "the Keras model adds losses of its own (a regularizer, or add_loss), which are not part of its output:"
            " remove them, and use weightDecay where a regularizer kept weights small"
        )


@contextmanager
def _switchable_batch_norm(model: Any) -> Iterator[None]:
    """Within, batch normalisations of `model` call torch's operator."""
    keras = sys.modules["keras"]
    layers = [one for one in model._flatten_layers() if isinstance(one, keras.layers.BatchNormalization)]
    for one in layers:
        object.__setattr__(one, "call", _batch_norm(one, one.call))
    try:
        yield
    finally:
        for one in layers:
            object.__delattr__(one, "call")


def _batch_norm(layer: Any, original: Callable[..., Any]) -> Callable[..., Any]:
    def call(inputs: torch.Tensor, training: bool | None = None, mask: torch.Tensor | None = None) -> Any:
        if not (training and layer.trainable):
            return original(inputs, training=training, mask=mask)
        if mask is not None or layer.renorm or layer.synchronized:
            raise InvalidArgumentError(
                f"the batch normalisation {layer.name!r} is masked, renormalised or synchronized: a program cannot"
                " switch it to evaluation"
            )
        keras = sys.modules["keras"]
        x = inputs.to(getattr(torch, keras.backend.result_type(inputs.dtype, "float32")))
        # The operator also moves the statistics it is given, by the unbiased variance, where Keras takes the biased
        # one. So it gets copies, and Keras' own formula moves the variables, on what is no part of the gradient.
        mean, variance = (one.value.to(x.dtype) for one in (layer.moving_mean, layer.moving_variance))
        scale = layer.gamma.value.to(x.dtype) if layer.scale else None
        shift = layer.beta.value.to(x.dtype) if layer.center else None
        normal = torch.nn.functional.batch_norm(
            x.movedim(layer.axis, 1),
            mean.clone(),
            variance.clone(),
            scale,
            shift,
            training=True,
            momentum=0.0,
            eps=layer.epsilon,
        )
        moments = layer._moments(x.detach(), None)
        for one, old, new in zip((layer.moving_mean, layer.moving_variance), (mean, variance), moments, strict=True):
            one.assign(old * layer.momentum + new * (1.0 - layer.momentum))
        return normal.movedim(1, layer.axis).to(inputs.dtype)

    return call
