"""The list of layers and the JSON it becomes."""

from __future__ import annotations

import json

import pytest

import kindling
from kindling import (
    Activation,
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    LayerNormalization,
    ReLU,
    Reshape,
    Sequential,
)


def test_every_layer_is_written_with_its_type_and_what_differs_from_the_defaults() -> None:
    net = Sequential(
        [
            Reshape((8, 8, 1)),
            Conv2D(4, (3, 3), padding="same", activation="relu"),
            BatchNormalization(),
            Flatten(),
            LayerNormalization(),
            Dense(16, useBias=False),
            ReLU(),
            Dropout(0.5),
            Dense(10),
        ],
        inputShape=(64,),
        seed=3,
    )
    assert json.loads(net.to_json()) == {
        "layers": [
            {"type": "reshape", "targetShape": [8, 8, 1]},
            {"type": "conv2d", "filters": 4, "kernelSize": [3, 3], "padding": "same", "activation": "relu"},
            {"type": "batchNorm"},
            {"type": "flatten"},
            {"type": "layerNorm"},
            {"type": "dense", "units": 16, "useBias": False},
            {"type": "relu"},
            {"type": "dropout", "rate": 0.5},
            {"type": "dense", "units": 10},
        ],
        "inputShape": [64],
        "seed": 3,
    }


def test_objects_dicts_and_tuples_make_the_same_layers() -> None:
    net = Sequential([("embedding", 100, 8), {"type": "flatten"}, Dense(2)])
    assert net.layers == (Embedding(100, 8), Flatten(), Dense(2))


def test_an_activation_is_a_layer_by_its_name() -> None:
    assert Sequential([Activation("swish")]) == Sequential([{"type": "activation", "activation": "swish"}])


def test_what_the_list_leaves_open_is_left_out_for_the_driver() -> None:
    assert Sequential([Dense(2)]).to_json() == '{"layers": [{"type": "dense", "units": 2}]}'


def test_a_list_comes_back_from_its_json_as_an_equal_one() -> None:
    net = Sequential([Conv2D(4, (3, 5)), Flatten(), Dense(2)], inputShape=(1, 8, 8), seed=4)
    assert Sequential.from_json(net.to_json()) == net
    assert Sequential.from_json('[{"type": "dense", "units": 2}]') == Sequential([Dense(2)])


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([Dense(1), "relu"], "layer 1 is 'relu'"),
        ([("lstmm", 3)], "layer 0: there is no layer type 'lstmm': it is one of activation,"),
        (
            [{"type": "conv2d", "filters": 1, "kernel_size": 3}],
            "layer 0: Conv2D has no setting 'kernel_size'.*'kernelSize'",
        ),
        ([("dense",)], "layer 0: .*'units'"),
        ([], "at least one layer"),
    ],
)
def test_a_wrong_entry_is_named_by_its_index(layers: list[object], message: str) -> None:
    with pytest.raises(kindling.InvalidArgumentError, match=message):
        Sequential(layers)  # type: ignore[arg-type]


def test_a_wrong_keyword_is_answered_with_the_right_one() -> None:
    with pytest.raises(TypeError, match=r"^Dense has no setting 'use_bias': did you mean 'useBias'\?$"):
        Dense(units=1, use_bias=False)  # type: ignore[call-arg]
