"""What Spark Connect cannot do yet ends in one sentence. No server is asked: the refusals come before it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kindling import KindlingError, TorchEstimator, TorchModel


class Reference:
    """What fit hands over in place of a Java object: it is counted, and has no params."""

    def release_ref(self) -> None:
        pass


@pytest.fixture(autouse=True)
def remote(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARK_CONNECT_MODE_ENABLED", "1")


def test_a_module_is_refused(frame: Any) -> None:
    estimator = TorchEstimator(model=torch.nn.Linear(2, 1))
    with pytest.raises(KindlingError, match=r"cannot be sent over Spark Connect yet: write it with kindling\.export"):
        estimator._fit(frame)


def test_a_model_is_made_of_a_reference_but_gives_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyspark.ml.util.RemoteModelRef", Reference)
    model = TorchModel(Reference())
    assert model.getPredictionCol() == "prediction"
    with pytest.raises(KindlingError, match="cannot be read over Spark Connect yet"):
        model.state_dict()
    with pytest.raises(KindlingError, match="cannot be read over Spark Connect yet"):
        _ = model.summary
