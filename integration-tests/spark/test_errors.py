"""Every mistake ends in one clear sentence, and the executors live on. One application, `apps/errors.py`."""

from __future__ import annotations

import re
from typing import Any

import pytest
from applications import app


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, Any]]:
    return app("errors").results


VALUE = "ValueError"


@pytest.mark.parametrize(
    ("name", "kind", "pattern"),
    [
        ("no such column", VALUE, r"no column \"pixels\".*id, features, label"),
        ("no such column, module", VALUE, r"no column 'pixels'.*id, features, label"),
        ("string features", VALUE, r"column \"features\".*string"),
        ("wrong length", VALUE, r"features.*63.*64"),
        ("ragged", VALUE, r"features.*63.*64"),
        ("too few columns", VALUE, r"2 columns.*64"),
        ("empty", VALUE, r"no row to train on"),
        ("null label", VALUE, r"label.*null|null.*label"),
        ("label out of range", VALUE, r"label.*\b10\b"),
        ("fractional label", VALUE, r"label.*1\.5"),
        ("null features", VALUE, r"features.*null|null.*features"),
        ("zero workers", VALUE, r"numWorkers"),
        ("too many workers", VALUE, r"numWorkers.*5.*2|5.*numWorkers.*2"),
        ("unknown optimizer", VALUE, r"optimizer.*sgd.*adamw"),
        ("cuda", VALUE, r"device.*cuda"),
        ("momentum with adamw", VALUE, r"momentum.*adamw"),
        ("no network", VALUE, r"model.*layers"),
        ("snake case", "TypeError", r"did you mean 'batchSize'"),
        ("softmax", VALUE, r"softmax.*crossEntropy"),
        ("unexportable", VALUE, r"Linear does not take inputs float32\[batch, 64\]: mat1 and mat2"),
        ("truncated archive", VALUE, r"archive.*truncated"),
        ("text archive", VALUE, r"neither a \.pt2 archive nor"),
        ("future archive", VALUE, r"schema 99.*reads schema 8"),
        ("missing archive", VALUE, r"nothing\.pt2"),
        ("transform without the column", VALUE, r"no column \"features\""),
    ],
)
def test_a_mistake_is_told_in_one_sentence(
    results: dict[str, dict[str, Any]], name: str, kind: str, pattern: str
) -> None:
    found = results[name]
    message = found["message"]
    assert kind in found["kinds"], found
    assert re.search(pattern, message), message
    assert "\n" not in message
    assert "Exception" not in message
    assert "KindlingError" in found["kinds"] or kind == "TypeError"
    assert len(message) < 400


def test_a_bad_row_is_named(results: dict[str, dict[str, Any]]) -> None:
    """The rows 5, 33, 77 and 120 of four partitions of fifty each."""
    places = {
        "null features": "row 5 of partition 0",
        "label out of range": "row 33 of partition 0",
        "ragged": "row 27 of partition 1",
        "null label": "row 20 of partition 2",
    }
    for name, place in places.items():
        assert results[name]["message"].startswith(f"{place}: "), results[name]["message"]


def test_a_null_in_transform_says_so_within_sparks_own_error(results: dict[str, dict[str, Any]]) -> None:
    assert re.search(r"features.*null|null.*features", results["transform a null"]["message"])


def test_too_many_workers_are_refused_in_seconds(results: dict[str, dict[str, Any]]) -> None:
    assert results["too many workers took"]["seconds"] < 15


def test_the_executors_outlive_every_mistake(results: dict[str, dict[str, Any]]) -> None:
    found = results["afterwards"]
    assert found["after"] == found["before"]
    assert found["predicted"] == 200
