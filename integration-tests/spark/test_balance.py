"""What is trained depends on the rows alone: not on their partitions, the executors that hold them, or the workers."""

from __future__ import annotations

from typing import Any

import pytest
from applications import app

# Two epochs in float32 with the gradients of a batch added in another order: some roundings of 6e-8 per step.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, Any]]:
    return app("balance").results


@pytest.mark.parametrize("frame", ["even", "one giant partition", "many, and empty ones"])
@pytest.mark.parametrize("workers", [1, 2])
def test_the_same_rows_give_the_same_losses(results: dict[str, dict[str, Any]], frame: str, workers: int) -> None:
    found = results[f"{frame}, {workers}"]
    assert found["rows"] == 1000
    assert found["losses"] == pytest.approx(results["even, 1"]["losses"], rel=TOLERANCE)


def test_fewer_rows_than_workers_train(results: dict[str, dict[str, Any]]) -> None:
    assert results["fewer rows than workers"] == {"rows": 1, "steps": 1}
