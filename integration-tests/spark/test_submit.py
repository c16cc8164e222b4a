"""`spark-submit --class kindling.Train kindling.jar`: the jar without any code. Exit codes are what schedulers read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from applications import GOLDEN, Finished, run, spark_command

if TYPE_CHECKING:
    from pathlib import Path

ROWS = 120


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Parquet folder of several files, so that there are several partitions."""
    folder = tmp_path_factory.mktemp("data")
    for part in range(4):
        ids = range(part * ROWS // 4, (part + 1) * ROWS // 4)
        features = [[float(i == row % 10) for i in range(64)] for row in ids]
        table = pa.table({"features": pa.array(features, pa.list_(pa.float32())), "label": [row % 10 for row in ids]})
        pq.write_table(table, folder / f"part-{part}.parquet")
    return folder


def submit(jar: Path, *flags: str | Path, master: str = "local-cluster[2,1,1024]") -> Finished:
    return run([spark_command("spark-submit"), "--master", master, "--class", "kindling.Train", jar, *flags])


def test_a_job_trains_and_saves_its_model(jar: Path, data: Path, tmp_path: Path) -> None:
    program, output = GOLDEN / "mlp_f32.pt2", tmp_path / "model"
    finished = submit(
        jar, "--data", data, "--model", program, "--epochs", "3", "--num-workers", "2", f"--output=file://{output}"
    )
    assert finished.code == 0, finished.output
    assert f"{ROWS} rows" in finished.output
    assert "2 workers on 2 executors" in finished.output
    assert output.is_dir()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--data", "somewhere"], "kindling: --model is missing"),
        (["--data", "a", "--model", "b", "--speed", "9"], "kindling: there is no flag --speed"),
        (["--data", "a", "--model", "b", "--epochs", "many"], 'kindling: --epochs: "many" is not a whole number'),
    ],
)
def test_wrong_flags_are_answered_with_the_usage_and_2(jar: Path, flags: list[str], sentence: str) -> None:
    finished = submit(jar, *flags, master="local[1]")
    assert finished.code == 2, finished.output
    assert sentence in finished.output.splitlines()
    assert "usage: spark-submit --class kindling.Train" in finished.output


def test_a_job_that_fails_ends_with_1_and_one_sentence(jar: Path, data: Path) -> None:
    program = GOLDEN / "mlp_f32.pt2"
    finished = submit(jar, "--data", data, "--model", program, "--label-col", "nothing", master="local[1]")
    assert finished.code == 1, finished.output
    said = finished.lines("kindling: ")
    assert len(said) == 1
    assert 'no column "nothing"' in said[0]
