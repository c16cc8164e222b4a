"""Modules become programs whose inputs are what the columns hold."""

from __future__ import annotations

import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import torch
from pyspark.ml.linalg import SparseVector, VectorUDT
from pyspark.sql.types import (
    ArrayType,
    BooleanType,
    DateType,
    DoubleType,
    FloatType,
    IntegerType,
    LongType,
    StringType,
    StructField,
    StructType,
    TimestampType,
)
from torch import Tensor, nn

from kindling import InvalidArgumentError, export
from kindling.export import Input, _path, export_for, read_inputs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ARRAY, INTEGERS = ArrayType(FloatType()), ArrayType(LongType())


class Lookup(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb, self.out = nn.Embedding(10, 4), nn.Linear(4 + 3, 2)

    def forward(self, ids: Tensor, x: Tensor) -> Tensor:
        out: Tensor = self.out(torch.cat([self.emb(ids).mean(1), x], 1))
        return out


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def graph(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        name = next(n for n in archive.namelist() if n.endswith("models/model.json"))
        return json.loads(archive.read(name))["graph_module"]["graph"]


def inputs(path: Path) -> list[tuple[int, list[Any]]]:
    """Type (5 int64, 7 float32, 8 float64) and sizes of each user input."""
    found = graph(path)
    names = [i["as_tensor"]["name"] for i in found["inputs"]]
    metas = [found["tensor_values"][n] for n in names if not n.startswith(("p_", "b_", "c_"))]
    return [(m["dtype"], [s.get("as_int", "batch") for s in m["sizes"]]) for m in metas]


def test_the_batch_stays_open_and_dropout_stays_in_train_mode(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5)).eval()
    export(net, [torch.zeros(2, 3)], tmp_path / "net.pt2")
    assert inputs(tmp_path / "net.pt2") == [(7, ["batch", 3])]
    dropout = next(n for n in graph(tmp_path / "net.pt2")["nodes"] if "dropout" in n["target"])
    assert dropout["inputs"][-1] == {"name": "train", "arg": {"as_bool": True}, "kind": 1}
    assert not net.training, "the user's module is left as it was"


def test_integer_columns_feed_an_embedding_and_floats_take_the_width_of_the_parameters(
    tmp_path: Path, frame: Callable[..., Any]
) -> None:
    schema = StructType([StructField("ids", INTEGERS), StructField("x", ArrayType(FloatType()))])
    data = frame(schema, {"ids": [1, 2, 3, 4, 5], "x": [0.0, 1.0, 2.0]})
    export_for(Lookup().double(), data, ["ids", "x"], None, str(tmp_path / "net.pt2"))
    assert inputs(tmp_path / "net.pt2") == [(5, ["batch", 5]), (8, ["batch", 3])]


def test_integer_columns_feed_a_linear_layer_as_floats(tmp_path: Path, frame: Callable[..., Any]) -> None:
    data = frame(StructType([StructField("a", IntegerType()), StructField("b", LongType())]))
    export_for(nn.Linear(2, 1), data, ["a", "b"], None, str(tmp_path / "net.pt2"))
    assert inputs(tmp_path / "net.pt2") == [(7, ["batch", 2])]


def test_ids_and_plain_integers_are_told_apart_by_the_network(tmp_path: Path, frame: Callable[..., Any]) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.emb, self.out = nn.Embedding(10, 2), nn.Linear(3, 2)

        def forward(self, ids: Tensor, counts: Tensor) -> Tensor:
            out: Tensor = self.out(counts) + self.emb(ids).mean(1)
            return out

    data = frame(StructType([StructField("ids", INTEGERS), StructField("n", INTEGERS)]), {"ids": [1], "n": [1, 2, 3]})
    export_for(Mixed(), data, ["ids", "n"], None, str(tmp_path / "net.pt2"))
    assert inputs(tmp_path / "net.pt2") == [(5, ["batch", 1]), (7, ["batch", 3])]


def test_a_network_of_another_width_than_the_data_is_refused(tmp_path: Path, frame: Callable[..., Any]) -> None:
    data = frame(StructType([StructField("x", ARRAY)]), {"x": [1.0, 2.0]})
    with pytest.raises(InvalidArgumentError, match=r"Linear does not take inputs float32\[batch, 2\]: mat1 and mat2"):
        export_for(nn.Linear(3, 1), data, ["x"], None, str(tmp_path / "net.pt2"))


def test_a_network_with_one_input_takes_all_columns_side_by_side(frame: Callable[..., Any]) -> None:
    data = frame(StructType([StructField("a", DoubleType()), StructField("x", ARRAY)]), {"a": 1.0, "x": [1.0, 2.0]})
    assert read_inputs(data, ["a", "x"], None, 1) == [Input((3,), integers=False)]
    assert read_inputs(data, ["a", "x"], None, None) == [Input((1,), integers=False), Input((2,), integers=False)]


def test_input_shapes_come_before_what_the_data_says(frame: Callable[..., Any]) -> None:
    data = frame(StructType([StructField("x", ARRAY)]))
    assert read_inputs(data, ["x"], [[1, 8, 8]], 1) == [Input((1, 8, 8), integers=False)]
    assert data.jobs == 0


def test_the_length_of_an_assembled_vector_is_read_without_a_job(frame: Callable[..., Any]) -> None:
    field = StructField("v", VectorUDT(), metadata={"ml_attr": {"num_attrs": 7}})
    data = frame(StructType([field]))
    assert read_inputs(data, ["v"], None, 1) == [Input((7,), integers=False)]
    assert data.jobs == 0


def test_the_length_of_another_vector_is_read_from_its_first_row(frame: Callable[..., Any]) -> None:
    data = frame(StructType([StructField("v", VectorUDT())]), {"v": None}, {"v": SparseVector(9, [1], [1.0])})
    assert read_inputs(data, ["v"], None, 1) == [Input((9,), integers=False)]


def test_a_dot_or_a_backtick_in_a_name_is_part_of_it(frame: Callable[..., Any]) -> None:
    data = frame(StructType([StructField("a.b`c", ARRAY)]), {"a.b`c": [1.0, 2.0]})
    assert read_inputs(data, ["a.b`c"], None, 1) == [Input((2,), integers=False)]


def test_a_path_leads_to_a_field_of_a_struct_and_names_may_hold_dots() -> None:
    inner = StructType([StructField("b.c", ARRAY), StructField("b", StructType([StructField("d", ARRAY)]))])
    schema = StructType([StructField("a", inner), StructField("x", ARRAY)])
    assert _path(schema, "a.b.c") == ["a", "b.c"]
    assert _path(schema, "a.b.d") == ["a", "b", "d"]
    assert _path(schema, "a.e") is None


def test_booleans_and_dates_are_whole_numbers_and_timestamps_are_not(frame: Callable[..., Any]) -> None:
    fields = [StructField("b", BooleanType()), StructField("d", DateType()), StructField("t", TimestampType())]
    assert [x.integers for x in read_inputs(frame(StructType(fields)), ["b", "d", "t"], None, 3)] == [True, True, False]


@pytest.mark.parametrize(
    ("columns", "arguments", "message"),
    [
        (["x", "nothing"], 1, "there is no column 'nothing': the columns are x, s, y, z"),
        (["s"], 1, "column 's' is string: features must be numbers, or strings named in indexCols"),
        (["x"], 1, "column 'x' has no values to read its length from: set inputShapes"),
        (["x", "y", "z"], 2, "takes 2 inputs, but inputCols names 3 columns"),
    ],
)
def test_columns_that_cannot_feed_the_network_are_named(
    frame: Callable[..., Any], columns: list[str], arguments: int, message: str
) -> None:
    names = {"x": ARRAY, "s": StringType(), "y": FloatType(), "z": FloatType()}
    with pytest.raises(InvalidArgumentError, match=message):
        read_inputs(frame(StructType([StructField(n, t) for n, t in names.items()])), columns, None, arguments)


def test_an_export_that_fails_says_what_torch_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        export(nn.Linear(3, 1), [torch.zeros(4, 5)], tmp_path / "net.pt2")
    message = str(caught.value)
    assert message.startswith("torch.export could not export Linear with inputs float32[batch, 5]: ")
    assert "\n" not in message


def test_control_flow_on_values_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="could not export Branching"):
        export(Branching(), [torch.zeros(4, 2)], tmp_path / "net.pt2")


def test_exports_from_several_threads_at_once_all_succeed(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        nets = [nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)) for _ in range(8)]
        list(pool.map(lambda i: export(nets[i], [torch.zeros(4, 3)], tmp_path / f"{i}.pt2"), range(8)))
    assert all(inputs(tmp_path / f"{i}.pt2") == [(7, ["batch", 3])] for i in range(8))


def test_a_half_precision_module_is_refused(tmp_path: Path, frame: Callable[..., Any]) -> None:
    data = frame(StructType([StructField("a", FloatType())]))
    with pytest.raises(InvalidArgumentError, match=r"parameters are torch.bfloat16: train it in float32 or float64"):
        export_for(nn.Linear(1, 1).bfloat16(), data, ["a"], None, str(tmp_path / "net.pt2"))


def test_one_example_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="example input 0 needs a batch of two rows or more"):
        export(nn.Linear(1, 1), [torch.zeros(1, 1)], tmp_path / "net.pt2")
