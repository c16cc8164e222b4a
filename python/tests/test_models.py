"""Models of HuggingFace and Keras become programs as their users expect: inputs by name, logits, weights that train."""

from __future__ import annotations

import json
import os
import zipfile
from typing import TYPE_CHECKING, Any

os.environ["KERAS_BACKEND"] = "torch"
os.environ["KERAS_TORCH_DEVICE"] = "cpu"

import keras
import pytest
import torch
from pyspark.sql.types import ArrayType, FloatType, LongType, StructField, StructType
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, BertModel

from kindling import InvalidArgumentError, export
from kindling.export import export_for
from kindling.keras_net import KerasNet

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SIZES: dict[str, Any] = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
}
IDS, MASK = torch.zeros(4, 6, dtype=torch.int64), torch.ones(4, 6, dtype=torch.int64)


def bert(kind: Any = BertForSequenceClassification) -> Any:
    return kind(BertConfig(vocab_size=20, num_labels=3, **SIZES))


def specs(path: Path) -> tuple[list[str], list[str], list[str], list[str]]:
    """Names of parameters, buffers and user inputs, and the operators that run."""
    with zipfile.ZipFile(path) as archive:
        name = next(n for n in archive.namelist() if n.endswith("models/model.json"))
        module = json.loads(archive.read(name))["graph_module"]
    inputs = module["signature"]["input_specs"]
    return (
        [i["parameter"]["parameter_name"] for i in inputs if "parameter" in i],
        [i["buffer"]["buffer_name"] for i in inputs if "buffer" in i],
        [i["user_input"]["arg"]["as_tensor"]["name"] for i in inputs if "user_input" in i],
        [node["target"].split(".")[-2] for node in module["graph"]["nodes"]],
    )


def results(path: Path) -> int:
    with zipfile.ZipFile(path) as archive:
        name = next(n for n in archive.namelist() if n.endswith("models/model.json"))
        return len(json.loads(archive.read(name))["graph_module"]["graph"]["outputs"])


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(2, 2)

    def forward(self, x: Tensor, *, scale: Tensor) -> tuple[Tensor, Tensor]:
        return self.out(x), scale


def test_inputs_by_name_keep_the_order_of_the_mapping(tmp_path: Path) -> None:
    model = bert()
    export(model, {"attention_mask": MASK, "input_ids": IDS}, tmp_path / "net.pt2")
    assert specs(tmp_path / "net.pt2")[2] == ["attention_mask", "input_ids"]
    assert results(tmp_path / "net.pt2") == 1, "the logits alone"
    assert model.config.use_cache == bert().config.use_cache, "the user's settings are left as they were"


def test_a_keyword_only_argument_is_an_input(tmp_path: Path) -> None:
    export(Two(), {"x": torch.zeros(4, 2), "scale": torch.zeros(4, 1)}, tmp_path / "net.pt2", output=0)
    assert specs(tmp_path / "net.pt2")[2] == ["x", "scale"]
    assert results(tmp_path / "net.pt2") == 1


def test_a_model_that_is_told_the_labels_returns_its_loss_first(tmp_path: Path) -> None:
    labels = torch.zeros(4, dtype=torch.int64)
    export(bert(), {"input_ids": IDS, "attention_mask": MASK, "labels": labels}, tmp_path / "net.pt2")
    assert results(tmp_path / "net.pt2") == 2


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("last", "BertModel has no output 'last': it returns results last_hidden_state, pooler_output"),
        (5, "BertModel has no output 5: it returns results last_hidden_state, pooler_output"),
    ],
)
def test_an_output_that_is_not_there_is_named(tmp_path: Path, output: str | int, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        export(bert(BertModel), [IDS, MASK], tmp_path / "net.pt2", output=output)
    export(bert(BertModel), [IDS, MASK], tmp_path / "net.pt2", output="pooler_output")
    assert results(tmp_path / "net.pt2") == 1


def test_an_argument_that_forward_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="forward of Two has no argument 'y': it takes x, scale"):
        export(Two(), {"x": torch.zeros(4, 2), "y": torch.zeros(4, 1)}, tmp_path / "net.pt2")


def test_masks_drawn_in_numpy_are_refused(tmp_path: Path) -> None:
    from transformers import Wav2Vec2Config, Wav2Vec2ForSequenceClassification

    convolutions: dict[str, Any] = {"conv_dim": (8,), "conv_stride": (5,), "conv_kernel": (10,)}
    positions: dict[str, Any] = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    model = Wav2Vec2ForSequenceClassification(Wav2Vec2Config(**SIZES, **convolutions, **positions))
    with pytest.raises(InvalidArgumentError, match=r"set config\.apply_spec_augment to False"):
        export(model, [torch.zeros(4, 200)], tmp_path / "net.pt2")


def test_columns_named_as_the_arguments_feed_those(tmp_path: Path, frame: Callable[..., Any]) -> None:
    names = ["attention_mask", "input_ids"]
    schema = StructType([StructField(name, ArrayType(LongType())) for name in names])
    data = frame(schema, {"attention_mask": [1, 1, 1], "input_ids": [1, 2, 3]})
    export_for(bert(), data, names, None, str(tmp_path / "net.pt2"))
    assert specs(tmp_path / "net.pt2")[2] == names


def small() -> Any:
    keras.utils.clear_session()
    layers = keras.layers
    return keras.Sequential(
        [layers.Input((5,)), layers.Dense(4), layers.BatchNormalization(), layers.Dropout(0.5), layers.Dense(2)]
    )


def test_a_keras_model_brings_its_variables_as_parameters_and_buffers(tmp_path: Path) -> None:
    model = small()
    before = [variable.value.detach().clone() for variable in model.variables]
    export(model, [torch.zeros(4, 5)], tmp_path / "net.pt2")
    parameters, buffers, inputs, operators = specs(tmp_path / "net.pt2")
    assert parameters == [variable.path for variable in model.trainable_variables]
    assert buffers == [variable.path for variable in model.variables if not variable.trainable]
    assert len(inputs) == 1
    assert "batch_norm" in operators, "an operator that knows evaluation"
    assert "dropout" in operators
    assert "wrap_with_set_grad_enabled" not in operators
    after = [variable.value for variable in model.variables]
    assert all(map(torch.equal, before, after)), "the user's model is left as it was"


def test_a_keras_batch_norm_moves_its_statistics_as_keras_does() -> None:
    model = small()
    x = torch.randn(6, 5)
    net = KerasNet(model, [x], [0])
    net(x)
    model(x, training=True)
    state = net.state_dict()
    for variable in model.variables:
        if "moving" in variable.path:
            torch.testing.assert_close(state[variable.path], variable.value.detach())


def test_a_keras_model_with_a_dict_of_inputs_gets_each_where_it_belongs() -> None:
    keras.utils.clear_session()
    b, a = keras.Input((2,), name="b"), keras.Input((2,), name="a")
    model = keras.Model({"b": b, "a": a}, keras.layers.Subtract()([b, a]))
    ordered = [layer.name for layer in model.inputs]
    values = {"b": torch.full((4, 2), 5.0), "a": torch.full((4, 2), 2.0)}
    inputs = [values[name] for name in ordered]
    torch.testing.assert_close(KerasNet(model, inputs, [0, 1])(*inputs), torch.full((4, 2), 3.0))


def test_an_unbuilt_keras_model_is_left_as_it_was() -> None:
    keras.utils.clear_session()
    model = keras.Sequential([keras.layers.Dense(3), keras.layers.BatchNormalization()])
    KerasNet(model, [torch.randn(4, 2)], [0])
    variance = next(v for v in model.variables if "moving_variance" in v.path)
    torch.testing.assert_close(variance.value.detach(), torch.ones(3))


def test_inputs_of_a_keras_model_are_bound_by_name(tmp_path: Path, frame: Callable[..., Any]) -> None:
    keras.utils.clear_session()
    words, numbers = keras.Input((3,), dtype="int32", name="words"), keras.Input((2,), name="numbers")
    seen = keras.layers.Flatten()(keras.layers.Embedding(9, 4)(words))
    model = keras.Model([words, numbers], keras.layers.Dense(2)(keras.layers.Concatenate()([seen, numbers])))
    schema = StructType([StructField("numbers", ArrayType(FloatType())), StructField("words", ArrayType(LongType()))])
    data = frame(schema, {"numbers": [0.5, 1.0], "words": [1, 2, 3]})
    export_for(model, data, ["numbers", "words"], None, str(tmp_path / "net.pt2"))
    with zipfile.ZipFile(tmp_path / "net.pt2") as archive:
        name = next(n for n in archive.namelist() if n.endswith("models/model.json"))
        graph = json.loads(archive.read(name))["graph_module"]["graph"]
    widths = [
        graph["tensor_values"][i["as_tensor"]["name"]]["sizes"][1]["as_int"]
        for i in graph["inputs"]
        if not i["as_tensor"]["name"].startswith(("p_", "b_", "c_"))
    ]
    assert widths == [2, 3], "the program's inputs stand in the order of the columns"
    with pytest.raises(InvalidArgumentError, match="has the inputs words, numbers, not word, numbers"):
        export(model, {"word": IDS, "numbers": torch.zeros(4, 2)}, tmp_path / "net.pt2")


def test_a_keras_model_with_losses_of_its_own_is_refused(tmp_path: Path) -> None:
    dense = keras.layers.Dense(2, kernel_regularizer="l2")
    with pytest.raises(InvalidArgumentError, match="use weightDecay"):
        export(keras.Sequential([keras.layers.Input((3,)), dense]), [torch.zeros(4, 3)], tmp_path / "net.pt2")
