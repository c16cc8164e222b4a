"""Columns that are no numbers, from PySpark. One application, `apps/columns.py`."""

from __future__ import annotations

from typing import Any

import pytest
from applications import app


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, Any]]:
    return app("columns").results


def test_strings_are_indexed_by_frequency_and_the_prediction_is_a_string(results: dict[str, dict[str, Any]]) -> None:
    found = results["strings"]
    assert found["animals"] == ["emu", "cat", "dog"]
    assert found["births"] == ["egg", "live"]
    assert found["right"] == 240
    assert found["type"] == "string"


def test_a_string_that_fit_did_not_see_is_named_with_its_column(results: dict[str, dict[str, Any]]) -> None:
    assert 'the column "animal" is "gnu", which is none of the 3 values that fit saw' in results["strings"]["refusal"]


def test_pictures_are_those_of_pillow_and_torchvision(results: dict[str, dict[str, Any]]) -> None:
    found = results["pictures"]
    assert found["counts"] == [6, 6]
    # In steps of 1/255. Of a PNG the decoded pixels are the same, and so is the filter: each side rounds the result,
    # and Pillow and torchvision what lies between the two directions, too. Of a JPEG another decoder may round the
    # inverse transform otherwise and interpolate colours, which are stored at half the size, by other weights.
    assert all(worst <= (2 if " png " in key else 8) for key, worst in found["worst"].items()), found["worst"]
    assert all(mean <= (0.6 if " png " in key else 1.5) for key, mean in found["mean"].items()), found["mean"]


def test_a_program_of_bytes_learns_what_one_of_floats_does(results: dict[str, dict[str, Any]]) -> None:
    found = results["bytes"]
    losses = found["losses"]["uint8"]
    assert len(losses) == 3
    assert losses[0] > losses[-1] > 0
    # v / 255 by the program, or while the picture is read.
    assert losses == pytest.approx(found["losses"]["float32"], rel=1e-6)
    # Three epochs do not learn all 40, but more than a guess would have.
    assert 20 < found["right"]["uint8"] == found["right"]["float32"]


def test_other_outputs_are_columns_beside_the_prediction(results: dict[str, dict[str, Any]]) -> None:
    found = results["outputs"]
    assert found["types"]["hidden"] == "vector"
    assert found["types"]["sum"] == "double"
    assert found["columns"][-3:] == ["prediction", "probability", "raw"]
    # The same operations on float32 numbers below 3, perhaps in another order of sums.
    assert all(difference < 1e-5 for each in found["differences"].values() for difference in each), found["differences"]
