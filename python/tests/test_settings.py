"""The names of the settings: keywords, params, getters and setters agree, and a wrong name is answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pyspark.ml.param import Param, Params

import kindling
from kindling import KindlingError, TorchEstimator, TorchModel, jar_path
from kindling.estimator import Settings
from kindling.keywords import check
from kindling.params import Getter, Setter, TrainingParams, param
from kindling.summary import TrainingSummary

if TYPE_CHECKING:
    from pathlib import Path

NAMES = set(Settings.__annotations__)


def capital(name: str) -> str:
    return name[0].upper() + name[1:]


def test_every_keyword_has_a_param_a_getter_and_a_setter() -> None:
    for name in NAMES:
        assert hasattr(TorchEstimator, f"get{capital(name)}"), name
        assert hasattr(TorchEstimator, f"set{capital(name)}"), name
        assert isinstance(getattr(TorchEstimator, name), Param), name


def test_every_param_has_a_keyword_and_a_getter_and_setter_of_its_own() -> None:
    for name in dir(TrainingParams):
        attribute = getattr(TrainingParams, name)
        if isinstance(attribute, Param):
            assert name == attribute.name
            assert name in NAMES
        elif isinstance(attribute, (Getter, Setter)):
            assert attribute.name in NAMES
            assert name in {f"get{capital(attribute.name)}", f"set{capital(attribute.name)}"}


class Lamp(Params):
    level: Param[int] = param("level", int, "brightness")
    getLevel, setLevel = Getter(level), Setter(level)


def test_a_setter_returns_the_object_and_a_getter_the_value() -> None:
    lamp = Lamp()
    assert lamp.setLevel(3) is lamp
    assert lamp.getLevel() == 3
    assert Lamp.setLevel.__doc__ == "Set level: brightness"


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("learning_rate", "learningRate"),
        ("num_workers", "numWorkers"),
        ("features_col", "featuresCol"),
        ("max_iter", "maxIter"),
        ("lr", "learningRate"),
        ("epochs", "maxEpochs"),
        ("batchsize", "batchSize"),
    ],
)
def test_a_known_name_in_another_spelling_is_answered_with_the_right_one(wrong: str, right: str) -> None:
    with pytest.raises(TypeError, match=rf"^TorchEstimator has no setting '{wrong}': did you mean '{right}'\?$"):
        check("TorchEstimator", [wrong], NAMES)


def test_an_unknown_name_is_answered_with_all_names() -> None:
    with pytest.raises(TypeError, match="'zebra': it takes batchSize, beta1, "):
        check("TorchEstimator", ["zebra"], NAMES)


def test_a_wrong_keyword_is_found_before_spark_is_needed() -> None:
    with pytest.raises(TypeError, match="did you mean 'batchSize'"):
        TorchEstimator(batch_size=3)  # type: ignore[call-arg]


def test_an_estimator_without_a_session_says_so() -> None:
    with pytest.raises(KindlingError, match="there is no SparkSession"):
        TorchEstimator()


def test_spark_finds_the_classes_by_their_java_names() -> None:
    assert TorchEstimator.__module__ == TorchModel.__module__ == "kindling"
    assert kindling.TorchModel is TorchModel


def test_the_jar_that_the_environment_names_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jar = tmp_path / "kindling.jar"
    monkeypatch.setenv("KINDLING_JAR", str(jar))
    with pytest.raises(KindlingError, match="which KINDLING_JAR names"):
        jar_path()
    jar.touch()
    assert jar_path() == str(jar)


def test_a_summary_prints_one_line_per_epoch_and_no_empty_columns() -> None:
    document = """{"epochs": [{"epoch": 0, "loss": 1.5, "accuracy": 0.25, "rows": 100, "seconds": 0.5,
        "rowsPerSecond": 12345.6}], "totalRows": 100, "validationRows": 0, "skippedRows": 0, "steps": 7, "seconds": 2.0,
        "trainingSeconds": 1.5, "communicationSeconds": 0.1, "executors": 2, "workers": 4}"""
    summary = TrainingSummary.from_json(document)
    assert summary.history[0]["validationLoss"] is None
    assert (summary.rows, summary.executors) == (100, 2)
    assert str(summary).splitlines() == [
        "epoch    loss  accuracy  rows/s",
        "    1  1.5000    0.2500  12,346",
        "100 rows, 7 steps, 2.0 s (1.5 s training), 4 workers on 2 executors",
    ]
