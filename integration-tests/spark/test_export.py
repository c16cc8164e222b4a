"""What leaves a fitted model is taken by PyTorch, and by another fit. One application, `apps/export.py`."""

from __future__ import annotations

from typing import Any

import pytest
from applications import app

# One forward pass in float32: the same operators in another program, and a softmax in float64 behind.
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, Any]]:
    return app("export").results


def test_the_archive_trains_in_pytorch_like_the_module_it_came_from(results: dict[str, dict[str, Any]]) -> None:
    assert results["archive"]["training"] == 0
    assert results["archive"]["names"]


def test_its_evaluation_gives_what_transform_gives(results: dict[str, dict[str, Any]]) -> None:
    assert results["archive"]["evaluation"] < TOLERANCE
    assert results["layers"]["evaluation"] < TOLERANCE


def test_weights_keep_their_layout_and_their_ties(results: dict[str, dict[str, Any]]) -> None:
    assert results["archive"]["layouts"] == {"turned": [[1, 10], 0], "slice": [[12, 1], 14]}
    assert results["archive"]["tied"]


def test_another_fit_goes_on_from_the_trained_weights(results: dict[str, dict[str, Any]]) -> None:
    losses = results["further"]
    assert losses["on"] < losses["last"] < losses["first"]


def test_a_layer_list_is_a_program_of_pytorchs_with_its_own_names(results: dict[str, dict[str, Any]]) -> None:
    assert results["layers"]["names"]
    assert results["layers"]["one"] == [1, 10]


def test_nothing_is_overwritten_or_guessed(results: dict[str, dict[str, Any]]) -> None:
    assert "exists already" in results["taken"]["message"]
    assert "training, evaluation" in results["mode"]["message"]
    assert "InvalidArgumentError" in results["mode"]["kinds"]
