"""PySpark on two executors: fit, transform, save, load, pipelines. One application, `apps/training.py`."""

from __future__ import annotations

from typing import Any

import pytest
from applications import app


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, Any]]:
    return app("training").results


def test_a_module_is_trained_and_predicts(results: dict[str, dict[str, Any]]) -> None:
    found = results["module"]
    history = found["history"]
    assert [epoch["epoch"] for epoch in history] == [0, 1, 2, 3]
    assert history[-1]["loss"] < history[0]["loss"]
    assert found["accuracy"] > 0.9
    assert found["columns"] == {
        "id": "bigint",
        "features": "array<float>",
        "label": "int",
        "prediction": "double",
        "probability": "vector",
    }


def test_the_summary_counts_what_trained(results: dict[str, dict[str, Any]]) -> None:
    found = results["module"]
    assert (found["executors"], found["workers"]) == (2, 2)
    # A fifth validates, drawn row by row: the count is near 320, and every epoch saw just these rows.
    assert 280 <= found["rows"] <= 360
    assert {epoch["rows"] for epoch in found["history"]} == {found["rows"]}
    assert all(epoch["validationLoss"] > 0 for epoch in found["history"])
    assert all(0 <= epoch["validationAccuracy"] <= 1 for epoch in found["history"])
    assert "2 workers on 2 executors" in found["text"]


def test_a_second_frame_validates_whole(results: dict[str, dict[str, Any]]) -> None:
    found = results["validated"]
    assert found["rows"] == [400, 80]
    losses = [epoch["validationLoss"] for epoch in found["history"]]
    assert losses[found["best"]] == min(losses)
    assert not found["stopped"]
    assert all(0 <= epoch["validationF1"] <= 1 and "validationAccuracy" in epoch for epoch in found["history"])
    assert found["history"][-1]["validationTopK"] > 0.9


def test_the_weights_fit_the_module_and_give_the_same_probabilities(results: dict[str, dict[str, Any]]) -> None:
    # float32 on both sides, products of 64 terms: rounding alone.
    assert results["state_dict"]["difference"] < 1e-5


def test_a_loaded_model_answers_the_same(results: dict[str, dict[str, Any]]) -> None:
    found = results["loaded"]
    assert found["kind"] == "kindling.TorchModel"
    assert found["different"] == 0
    assert found["columns"] == ["id", "features", "label", "guess"]
    assert found["weights"]
    assert found["summary"], "the summary is saved with the model"


def test_a_loaded_estimator_has_its_settings(results: dict[str, dict[str, Any]]) -> None:
    assert results["workers"]["settings"] == [50, 2, 3, 2]


def test_one_worker_and_two_take_the_same_steps(results: dict[str, dict[str, Any]]) -> None:
    # The same rows per batch, summed in another order: float32 rounding over a few steps.
    assert results["workers"]["one"] == pytest.approx(results["workers"]["two"], rel=1e-5)


def test_workers_that_encrypt_take_the_same_steps() -> None:
    found = app("encrypted").results
    assert (found["workers 2"]["executors"], found["workers 1"]["executors"]) == (2, 1)
    # As above: rounding.
    assert found["workers 2"]["losses"] == pytest.approx(found["workers 1"]["losses"], rel=1e-5)


def test_a_network_of_several_inputs_takes_a_column_for_each(results: dict[str, dict[str, Any]]) -> None:
    history = results["several inputs"]["history"]
    assert history[-1]["loss"] < history[0]["loss"]


def test_a_regression_over_single_columns_learns(results: dict[str, dict[str, Any]]) -> None:
    found = results["regression"]
    assert found["type"] == "double"
    assert found["error"] < 0.1  # the label's own variance is about 2


def test_a_graph_of_layers_trains_on_a_column_for_each_input(results: dict[str, dict[str, Any]]) -> None:
    found = results["graph"]
    assert found["history"][-1]["loss"] < found["history"][0]["loss"]
    assert found["predicted"] > 0.8
    # Keras' order of layers: the furthest from the output first.
    assert found["shapes"] == [[3, 3, 1, 4], [4], [4, 3], [144, 16], [16], [19, 10], [10]]
    assert found["same"]


def test_a_pipeline_is_saved_and_loaded_whole(results: dict[str, dict[str, Any]]) -> None:
    found = results["pipeline"]
    assert found["stage"] == "TorchModel"
    assert found["sums"][0] == found["sums"][1]


def test_a_cross_validator_searches_over_epochs(results: dict[str, dict[str, Any]]) -> None:
    few, many = results["pipeline"]["grid"]
    assert many > few
