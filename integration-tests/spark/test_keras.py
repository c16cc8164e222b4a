"""Keras models through Spark and back. One application, `apps/keras_models.py`."""

from __future__ import annotations

from typing import Any

import pytest
from applications import app

# Five steps of float32 in which sums over 120 rows are taken in another order: a hundred times its precision.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, Any]]:
    # Importing Keras and two exports: minutes where the machine has other work.
    return app("keras_models", timeout=600).results


def test_a_functional_model_takes_the_steps_that_pytorch_takes_with_it_alone(
    results: dict[str, dict[str, Any]],
) -> None:
    found = results["functional"]
    assert found["learned"] > 0.1
    assert max(found["losses"]) < TOLERANCE
    assert found["weights"] < TOLERANCE < found["moved"]


def test_a_fit_leaves_the_model_alone_and_its_weights_go_back(results: dict[str, dict[str, Any]]) -> None:
    assert results["functional"]["untouched"]
    assert results["functional"]["answers"] < TOLERANCE


def test_statistics_go_back_too_and_evaluation_has_no_noise(results: dict[str, dict[str, Any]]) -> None:
    found = results["sequential"]
    assert found["answers"] < TOLERANCE < found["changed"]
    assert found["statistics"] > TOLERANCE
