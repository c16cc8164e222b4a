"""Graphs of layers: names, shared layers, the JSON they become and the weights of Keras they hold."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from safetensors import safe_open

from kindling import (
    GRU,
    LSTM,
    Add,
    Bidirectional,
    Concatenate,
    Conv2D,
    Dense,
    Embedding,
    Flatten,
    Input,
    InvalidArgumentError,
    Model,
    Sequential,
    TransformerBlock,
)
from kindling.layers.network import read_network

ROOT = Path(__file__).parents[2]


def layers(net: Model | Sequential) -> list[dict[str, Any]]:
    written: list[dict[str, Any]] = json.loads(net.to_json())["layers"]
    return written


def test_layers_are_named_as_keras_names_them_unless_they_have_a_name() -> None:
    x = Input((4,))
    net = Model(x, Dense(1, name="head")(Add()([Dense(3)(x), Dense(3)(x)])))
    assert [(layer["name"], layer["inputs"]) for layer in layers(net)] == [
        ("dense", ["input"]),
        ("dense_1", ["input"]),
        ("add", ["dense", "dense_1"]),
        ("head", ["add"]),
    ]


def test_a_layer_that_is_called_twice_is_written_once_and_shared() -> None:
    a, b, dense = Input((4,), name="a"), Input((4,), name="b"), Dense(3)
    net = Model([a, b], Concatenate()([dense(a), dense(b)]))
    assert layers(net)[1] == {"type": "shared", "layer": "dense", "name": "dense_1", "inputs": ["b"]}
    # Two layers that only look alike are two layers.
    twins = Model([a, b], Concatenate()([Dense(3)(a), Dense(3)(b)]))
    assert [layer["type"] for layer in layers(twins)] == ["dense", "dense", "concatenate"]


def test_a_sequential_on_an_output_puts_its_layers_into_the_graph() -> None:
    x = Input((8, 8, 1), name="image")
    tower = Sequential([Conv2D(4, 3), Flatten()])
    net = Model(x, [Dense(2)(tower(x)), Dense(1)(tower(x))])
    assert [layer["type"] for layer in layers(net)] == ["conv2d", "flatten", "dense", "shared", "shared", "dense"]
    assert json.loads(net.to_json())["outputs"] == ["dense", "dense_1"]


def test_a_graph_comes_back_from_its_json_as_an_equal_one() -> None:
    a, b, dense = Input((4,), name="a"), Input((), name="b", dtype="int64"), Dense(3)
    net = Model([a, b], Add()([dense(a), dense(Embedding(9, 4)(b))]), seed=3, dataFormat="channels_first")
    again = read_network(net.to_json())
    assert isinstance(again, Model)
    assert again == net
    assert hash(again) == hash(net)
    assert isinstance(read_network(Sequential([Dense(1)]).to_json()), Sequential)


def test_the_graph_of_the_documentation_becomes_the_json_beside_it() -> None:
    text = (ROOT / "docs" / "layers.md").read_text()
    graph = text.partition("## A graph")[2]
    python, written = re.findall(r"```(?:python|json)\n(.*?)```", graph, re.DOTALL)[:2]
    scope: dict[str, Any] = {}
    exec(python, scope)  # noqa: S102 - our own documentation
    assert json.loads(scope["net"].to_json()) == json.loads(written)


def test_what_is_no_graph_is_refused() -> None:
    x, wrong = Input((2,), name="x"), cast("Any", Dense(1))
    with pytest.raises(InvalidArgumentError, match="the outputs need the input 'x'"):
        Model([Input((2,), name="other")], Dense(1)(x))
    with pytest.raises(InvalidArgumentError, match="outputs are what its last layers gave"):
        Model([x], [])
    with pytest.raises(InvalidArgumentError, match="outputs are what its last layers gave"):
        Model([x], [wrong])
    with pytest.raises(InvalidArgumentError, match="inputs are what Input"):
        Model([wrong(x)], [x])
    with pytest.raises(InvalidArgumentError, match="Dense is called on what Input"):
        wrong("x")
    with pytest.raises(InvalidArgumentError, match="two inputs or layers are called 'x'"):
        Model(x, Dense(1, name="x")(x))
    with pytest.raises(InvalidArgumentError, match="Bidirectional takes a recurrent layer"):
        Bidirectional(wrong)
    with pytest.raises(InvalidArgumentError, match="name and trainable are for the Bidirectional"):
        Bidirectional(LSTM(1, name="a"))
    document = {
        "inputs": [{"name": "x", "shape": [2]}],
        "layers": [{"name": "y", "type": "relu", "inputs": ["z"]}],
        "outputs": ["y"],
    }
    with pytest.raises(InvalidArgumentError, match="layer 0: its input 'z' is no earlier layer"):
        Model.from_json(json.dumps(document))


def test_the_weights_of_every_layer_go_to_keras_and_come_back() -> None:
    with safe_open(ROOT / "integration-tests" / "golden" / "layers.safetensors", "numpy") as file:
        metadata = file.metadata()
        names = list(file.keys())
        for key in [key for key in metadata if key.startswith("case.")]:
            case = key.removeprefix("case.")
            prefix = f"{case}/w."
            state = {name.removeprefix(prefix): file.get_tensor(name) for name in names if name.startswith(prefix)}
            net = read_network(metadata[key])
            back = net.state_from_keras(net.keras_weights(state))
            assert back.keys() == state.keys(), case
            for name, value in state.items():
                if not name.endswith("num_batches_tracked"):
                    np.testing.assert_array_equal(back[name], value, err_msg=f"{case} {name}")


def test_a_transformer_block_beside_other_layers_has_its_weights_by_name_only() -> None:
    x = Input((5, 4), name="x")
    block = TransformerBlock(2, 8)(x)
    chain = Model(x, Dense(1)(block))
    assert len(chain._weights()) == 18
    state = {name: np.zeros((4, 4), np.float32) for weight in chain._weights() for name in weight.names}
    fork = Model(x, Dense(1)(Concatenate()([block, Dense(3)(x)])))
    with pytest.raises(InvalidArgumentError, match="'transformerBlock' and 'dense' stand beside each other"):
        fork.keras_weights(state)
    by_layer = fork.keras_layer_weights(state | {"dense_1.weight": np.zeros((1, 7)), "dense_1.bias": np.zeros(1)})
    assert sorted(by_layer) == ["dense", "dense_1", "transformerBlock"]
    assert len(by_layer["transformerBlock"]) == 16


def test_kernels_have_the_shapes_of_keras() -> None:
    net = Sequential([Conv2D(5, (3, 2)), Flatten(), Dense(4), Bidirectional(GRU(2))])
    shapes = {"0.weight": (5, 1, 3, 2), "0.bias": (5,), "2.weight": (4, 10), "2.bias": (4,)}
    for way in ("forward_layer", "backward_layer"):
        gru = {"weight_ih": (6, 4), "weight_hh": (6, 2), "bias_ih": (6,), "bias_hh": (6,)}
        shapes |= {f"3.{way}.{name}": shape for name, shape in gru.items()}
    state = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    found = [array.shape for array in net.keras_weights(state)]
    assert found == [(3, 2, 1, 5), (5,), (10, 4), (4,), *[(4, 6), (2, 6), (2, 6)] * 2]
    with pytest.raises(InvalidArgumentError, match=r"the state has no 0\.bias"):
        net.keras_weights({"0.weight": state["0.weight"]})
    with pytest.raises(InvalidArgumentError, match="has 10 weights in Keras and 1 are given"):
        net.state_from_keras([state["0.weight"]])
