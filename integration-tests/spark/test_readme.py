"""What the README shows, runs: each block under a line `<!-- run: python -->` (or scala, bash), as it stands there.

They run in their order in one folder that holds what the text says the reader has: `digits.parquet`, the exported
`net.pt2`, `kindling.jar`, and `train.py`, which is the Python block.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from applications import ROOT, Finished, run, spark_command, spark_home
from kindling import export
from sklearn.datasets import load_digits

BLOCK = re.compile(r"^<!-- run: (python|scala|bash) -->\n```\1\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS: list[tuple[str, str]] = BLOCK.findall((ROOT / "README.md").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, jar: Path) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    digits = load_digits()
    features = pa.array((digits.data / 16).astype("float32").tolist(), pa.list_(pa.float32()))
    pq.write_table(pa.table({"features": features, "label": pa.array(digits.target)}), folder / "digits.parquet")
    net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    export(net, [torch.zeros(4, 64)], folder / "net.pt2")
    (folder / "kindling.jar").symlink_to(jar)
    for language, code in BLOCKS:
        if language == "python":
            (folder / "train.py").write_text(code)
    return folder


def start(language: str, code: str, folder: Path, jar: Path) -> Finished:
    """Only reaching the end counts: spark-shell goes on after an error."""
    end = {"python": "print('the end')", "scala": 'println("the end"); System.exit(0)', "bash": "echo the end"}
    file = folder / f"code.{language}"
    file.write_text(f"{code}\n{end[language]}\n")
    shell: list[str | Path] = [spark_command("spark-shell"), "--master", "local[2]", "--jars", jar, "-i", file]
    commands: dict[str, list[str | Path]] = {
        "python": [sys.executable, file],
        "scala": shell,
        "bash": ["bash", "-euo", "pipefail", file],
    }
    path = f"{spark_home() / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return run(commands[language], folder=folder, PATH=path)


def test_the_readme_shows_each_language() -> None:
    assert {language for language, _ in BLOCKS} == {"python", "scala", "bash"}


@pytest.mark.parametrize(("language", "code"), BLOCKS, ids=[language for language, _ in BLOCKS])
def test_the_code_of_the_readme_runs(language: str, code: str, folder: Path, jar: Path) -> None:
    finished = start(language, code, folder, jar)
    assert finished.code == 0, finished.output
    assert "the end" in finished.output.splitlines(), finished.output
    assert language != "scala" or "error:" not in finished.output, finished.output
    assert ("saved to model" if "kindling.Train" in code else "probability") in finished.output, finished.output
