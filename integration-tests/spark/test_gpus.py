"""A rank computes on the GPU that Spark gave its task: here one that no machine has, so each asks and is refused."""

from __future__ import annotations

from typing import Any

import pytest
from applications import app


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, Any]]:
    return app("gpus").results


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_rank_asks_for_the_gpu_that_spark_gave_its_task(results: dict[str, dict[str, Any]], device: str) -> None:
    message = results[device]["message"]
    assert "device is cuda:99, but " in message
    assert message.endswith(", or set device to cpu")
    assert "\n" not in message


def test_a_prediction_asks_for_it_too(results: dict[str, dict[str, Any]]) -> None:
    assert "device is cuda:99, but " in results["predictions"]["message"]


def test_cpu_leaves_it_alone(results: dict[str, dict[str, Any]]) -> None:
    assert results["cpu"]["rows"] == 200
