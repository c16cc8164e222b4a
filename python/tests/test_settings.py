"""The names of the settings: keywords, params, getters and setters agree, and a wrong name is answered."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from pyspark.ml.param import Param, Params

import kindling
from kindling import KindlingError, TorchEstimator, TorchModel, jar_path
from kindling.estimator import Settings
from kindling.keywords import check
from kindling.params import Getter, Setter, TrainingParams, param
from kindling.summary import TrainingSummary

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


def documented() -> dict[str, str]:
    """The defaults in docs/params.md by name, which a test of the Scala classes compares with theirs."""
    found: dict[str, str] = {}
    for line in (Path(__file__).parents[2] / "docs" / "params.md").read_text().splitlines():
        if line.startswith("| `") and not line.startswith("| `spark."):
            names, defaults = ([part.strip(" `") for part in cell.split(",")] for cell in line.split("|")[1:3])
            found.update({name: defaults[min(index, len(defaults) - 1)] for index, name in enumerate(names)})
    return found


def test_params_and_their_defaults_are_those_of_the_documentation() -> None:
    params = TrainingParams()
    params._inference_defaults()
    params._training_defaults()
    table = documented()
    assert sorted(table) == sorted(each.name for each in params.params)
    for name, text in table.items():
        written: object = {"": None, "unset": None, "empty": "", "true": True, "false": False}.get(text, text)
        with suppress(ValueError):
            written = float(text)
        found = params.getOrDefault(name) if params.hasDefault(name) else None
        assert found == written, name


class Lamp(Params):
    level: Param[int] = param("level", int, "brightness")
    getLevel, setLevel = Getter(level), Setter(level)


def test_a_setter_returns_the_object_and_a_getter_the_value() -> None:
    lamp = Lamp()
    assert lamp.setLevel(3) is lamp
    assert lamp.getLevel() == 3
    assert Lamp.setLevel.__doc__ == "Set level: brightness"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("auto", "auto"),
        ("encoder.*, decoder", "encoder.*, decoder"),
        (4, "4"),
        (["encoder.layers.*", "decoder"], "encoder.layers.*,decoder"),
        (["4"], "4,"),
        (("auto",), "auto,"),
    ],
)
def test_checkpointing_is_a_text_a_number_or_a_list_that_stays_one(given: object, text: str) -> None:
    assert TrainingParams.activationCheckpointing.typeConverter(given) == text


@pytest.mark.parametrize("given", [True, 2.5, [4], {"encoder": 1}])
def test_checkpointing_of_another_type_is_refused(given: object) -> None:
    with pytest.raises(TypeError, match="to string type"):
        TrainingParams.activationCheckpointing.typeConverter(given)


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
        ("sync_batch_norm", "syncBatchNorm"),
        ("activation_checkpointing", "activationCheckpointing"),
    ],
)
def test_a_known_name_in_another_spelling_is_answered_with_the_right_one(wrong: str, right: str) -> None:
    with pytest.raises(TypeError, match=rf"^TorchEstimator has no setting '{wrong}': did you mean '{right}'\?$"):
        check("TorchEstimator", [wrong], NAMES)


def test_an_unknown_name_is_answered_with_all_names() -> None:
    with pytest.raises(TypeError, match=f"'zebra': it takes {', '.join(sorted(NAMES))}$"):
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
    document = """{"epochs": [{"epoch": 0, "loss": 1.5, "accuracy": 0.25, "learningRate": 5e-5, "skippedSteps": 2,
        "rows": 100, "seconds": 0.5, "rowsPerSecond": 12345.6}], "totalRows": 100, "validationRows": 0,
        "skippedRows": 0, "steps": 7, "skippedSteps": 2, "seconds": 2.0,
        "trainingSeconds": 1.5, "communicationSeconds": 0.1, "dataWaitSeconds": 0.3, "executors": 2, "workers": 4}"""
    summary = TrainingSummary.from_json(document)
    assert summary.history[0]["validationLoss"] is None
    assert (summary.rows, summary.executors) == (100, 2)
    assert summary.waitShare == pytest.approx(0.2)
    assert str(summary).splitlines() == [
        "epoch    loss  accuracy  learningRate  rows/s",
        "    1  1.5000    0.2500         5e-05  12,346",
        "100 rows, 7 steps (2 skipped), 2.0 s (1.5 s training), 4 workers on 2 executors",
    ]


@pytest.mark.parametrize(
    ("given", "size"), [(4096, 4096), ("4096", 4096), ("512m", 512 << 20), ("2G", 2 << 30), ("1 tb", 1 << 40)]
)
def test_memory_is_given_in_bytes_or_as_spark_writes_sizes(given: object, size: int) -> None:
    assert TrainingParams.shardMemory.typeConverter(given) == size


@pytest.mark.parametrize("given", ["2x", "g", "", "1.5g", 2.5, None])
def test_what_is_no_size_is_refused(given: object) -> None:
    with pytest.raises(TypeError):
        TrainingParams.shardMemory.typeConverter(given)


def test_a_summary_has_what_was_asked_for_and_none_where_it_is_not_defined() -> None:
    document = """{"epochs": [{"epoch": 0, "loss": 1.5, "validationLoss": 1.0, "learningRate": 0.01,
        "skippedSteps": 0, "rows": 9, "seconds": 0.5, "rowsPerSecond": 9}, {"epoch": 1, "loss": 1.0,
        "validationLoss": 0.5, "validationAuc": 0.75, "learningRate": 0.01, "skippedSteps": 0, "rows": 9,
        "seconds": 0.5, "rowsPerSecond": 9}], "totalRows": 9, "validationRows": 3, "skippedRows": 0, "steps": 7,
        "skippedSteps": 0, "seconds": 2.0, "trainingSeconds": 1.5, "communicationSeconds": 0.1,
        "dataWaitSeconds": 0.3, "executors": 2,
        "workers": 4, "bestEpoch": 1, "stoppedEarly": true}"""
    summary = TrainingSummary.from_json(document)
    assert [epoch["validationAuc"] for epoch in summary.history] == [None, 0.75]
    assert (summary.bestEpoch, summary.stoppedEarly) == (1, True)
    assert str(summary).splitlines()[:3] == [
        "epoch    loss  validationLoss  validationAuc  learningRate  rows/s",
        "    1  1.5000          1.0000                         0.01       9",
        "    2  1.0000          0.5000         0.7500          0.01       9",
    ]


@pytest.mark.parametrize(
    ("name", "value"), [("batchSize", 2**31), ("maxIter", 2**31), ("ignoreIndex", -(2**31) - 1), ("seed", 2**63)]
)
def test_a_whole_number_that_the_jvm_has_no_room_for_is_refused_by_name(name: str, value: int) -> None:
    with pytest.raises(kindling.InvalidArgumentError, match=f"{name} must be a whole number of at most"):
        TrainingParams()._set(**{name: value})


def test_the_largest_whole_numbers_are_taken() -> None:
    params = TrainingParams()._set(batchSize=2**31 - 1, seed=-(2**63), shardMemory=2**40)
    assert params.getOrDefault("shardMemory") == 2**40
