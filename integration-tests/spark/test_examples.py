"""The lessons in `examples/` run as they tell the reader to, in their order: the first writes the others' data."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
from applications import EXAMPLES, Finished, run, spark_command, spark_home


def lesson(name: str, tmp: Path) -> Finished:
    finished = run([sys.executable, EXAMPLES / name], TMPDIR=str(tmp))
    assert finished.code == 0, finished.output
    return finished


@pytest.fixture(scope="module")
def tmp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The temporary folder through which lessons hand on their data: not the machine's, which others use too."""
    return tmp_path_factory.mktemp("lessons")


@pytest.fixture(scope="module")
def digits(tmp: Path) -> Finished:
    return lesson("01_digits.py", tmp)


def test_lesson_1_reads_digits_right(digits: Finished) -> None:
    last = digits.lines("demo: ")[-1]
    line = re.fullmatch(r"demo: accuracy=(\d\.\d+) rows=(\d+) workers=2 executors=2 wall_s=(\d+\.\d)", last)
    assert line, digits.output
    assert float(line[1]) >= 0.95
    assert int(line[2]) == 1437
    # Most of it is JVMs starting: on a machine that is busy with something else that alone takes a minute.
    assert float(line[3]) < 60


@pytest.mark.usefixtures("digits")
def test_lesson_2_trains_a_list_of_layers(tmp: Path) -> None:
    output = lesson("02_sequential.py", tmp).output
    last_epoch = next(line.split() for line in output.splitlines() if line.split()[:1] == ["8"])
    assert float(last_epoch[4]) >= 0.9, "accuracy on the rows held out"


def test_lesson_3_keeps_its_weights_through_a_pipeline_and_back_to_torch(tmp: Path) -> None:
    output = lesson("03_pipeline.py", tmp).output
    right = re.search(r"right: (\d+) of 178", output)
    assert right, output
    assert int(right[1]) >= 170
    assert output.rstrip().endswith("PyTorch agrees")


@pytest.mark.usefixtures("digits")
def test_lesson_4_does_it_in_scala(jar: Path, tmp: Path) -> None:
    flags: list[str | Path] = ["--master", "local-cluster[2,1,1024]", "--jars", jar, "-i", EXAMPLES / "04_digits.scala"]
    finished = run([spark_command("spark-shell"), *flags], TMPDIR=str(tmp))
    accuracy = re.search(r"^accuracy: (\d\.\d+)$", finished.output, re.MULTILINE)
    assert finished.code == 0
    assert accuracy, finished.output
    assert float(accuracy[1]) >= 0.9


@pytest.mark.usefixtures("digits")
def test_lesson_5_submits_a_job(jar: Path, tmp: Path) -> None:
    path = f"{spark_home() / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    finished = run(["bash", EXAMPLES / "05_submit.sh", jar], folder=tmp, PATH=path, TMPDIR=str(tmp))
    assert finished.code == 0, finished.output
    last_epoch = next(line for line in finished.output.splitlines() if line.split()[:1] == ["10"])
    assert float(last_epoch.split()[4]) >= 0.9, "accuracy on the rows held out"
    assert "saved to file:" in finished.output


def test_lesson_6_trains_a_huggingface_model_and_gives_its_weights_back(tmp: Path) -> None:
    output = lesson("06_bert.py", tmp).output
    last_epoch = next(line.split() for line in output.splitlines() if line.split()[:1] == ["3"])
    assert float(last_epoch[4]) >= 0.95, "accuracy on the rows held out"
    assert output.rstrip().endswith("HuggingFace agrees")
