"""Data that no one would choose: each is trained on as it is, or refused in one sentence that names the column.

One application, `apps/hostile.py`; its executors live through all of it. test_errors.py has the mistakes that people
make.
"""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from applications import app


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, Any]]:
    return app("hostile", timeout=420).results


ROW = r"^row 20 of partition 2: "
SECOND = r"^row 1 of partition 0: "

REFUSED = {
    "NaN": ROW + r'element 3 of the column "features" is NaN: .*handleInvalid',
    "null element": ROW + r'element 3 of the column "features" is null: .*handleInvalid',
    "nothing left": r"no row to train on: 200 rows were read, of which 0 validate and 200 were skipped",
    "infinite label": ROW + r'the label in the column "label" is Infinity',
    "negative label": ROW + r'the label in the column "label" is -1',
    "NaN label": ROW + r'the column "label" is NaN',
    "null label type": r'the column "label" is a void',
    "negative weight": ROW + r'the weight in the column "w" is -1\.0',
    "infinite weight": ROW + r'the weight in the column "w" is Infinity',
    "NaN weight": ROW + r'the column "w" is NaN',
    "null weight": ROW + r'the column "w" is null',
    "text weight": r'the column "w" is a string, but weightCol needs one number per row: cast it',
    "null indicator": ROW + r'the column "v" is null',
    "all validate": r"no row to train on: 200 rows were read, of which 200 validate",
    "no columns": r'no column "features": the data has none',
    "another in capitals": r'Spark does not tell the columns "label" and "Label" apart',
    "map": r'the column "features" is a map<int,double>',
    "array of arrays": r'the column "features" is an array of array<float>',
    "array of strings": r'the column "features" is an array of strings, which have no vocabulary',
    "interval": r'the column "features" is an interval day',
    "bytes for numbers": r'the column "features" holds pictures, but .* shape \[64\]',
    "bytes for a picture": r'^row \d+ of partition \d: the column "features": the picture is neither PNG nor JPEG',
    "ragged labels": r'^row \d of partition \d: the column "label" has \d numbers, but 10 are needed',
    "null struct": SECOND + r'the column "a\.b" is null',
    "no such field": r'no column "a\.c": the columns are a, label',
    "short vector": SECOND + r'the column "features" has 63 numbers, but 64',
    "long vector": SECOND + r'the column "features" has 1000 numbers, but 64',
    "null vector": SECOND + r'the column "features" is null',
    "NaN in a vector": SECOND + r'the column "features" holds a NaN',
    "times in float32": r'the column "t" is a timestamp, .*float32',
    "all filtered": r"no row to train on: 0 rows were read",
    "no rows": r"no row to train on: 0 rows were read",
    "batch beyond the JVM": r"batchSize must be a whole number of at most 2147483647 in size, but is 2147483648",
    "stream": r"the DataFrame is a stream",
}


@pytest.mark.parametrize(("name", "pattern"), REFUSED.items())
def test_what_cannot_be_trained_on_is_refused_in_one_sentence(
    results: dict[str, dict[str, Any]], name: str, pattern: str
) -> None:
    found = results[name]
    assert "InvalidArgumentError" in found["kinds"], found
    assert re.search(pattern, found["message"]), found["message"]
    assert "\n" not in found["message"]


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("failing function", r"ZeroDivisionError"),
        ("failing cast", r"cannot be cast"),
        ("files that are gone", r"part-.*does not exist"),
    ],
)
def test_what_fails_while_spark_computes_it_is_told_in_sparks_words(
    results: dict[str, dict[str, Any]], name: str, pattern: str
) -> None:
    found = results[name]
    assert "InvalidArgumentError" not in found["kinds"], found
    assert found["message"].startswith("reading the data failed: ")
    assert re.search(pattern, found["message"]), found["message"]
    assert "\n" not in found["message"]


@pytest.mark.parametrize(
    ("name", "rows", "steps"),
    [
        ("null element skipped", 199, 7),
        ("a column twice", 200, 7),
        ("dots and backticks", 200, 7),
        ("null struct skipped", 1, 1),
        ("times before 1970", 30, 1),
        ("dates of the first century", 30, 1),
        ("wide decimals", 40, 2),
        ("more workers than rows", 1, 1),
        ("a thousand empty partitions", 3, 1),
        ("batch of one", 20, 20),
        ("batch beyond all rows", 200, 1),
        ("afterwards", 200, 7),
    ],
)
def test_what_is_odd_but_right_is_trained_on(
    results: dict[str, dict[str, Any]], name: str, rows: int, steps: int
) -> None:
    found = results[name]
    assert (found["rows"], found["steps"]) == (rows, steps)
    assert all(math.isfinite(loss) for loss in found["losses"]), found


@pytest.mark.parametrize("name", ["null element kept", "infinite feature"])
def test_a_number_without_a_finite_loss_is_seen_in_the_history(results: dict[str, dict[str, Any]], name: str) -> None:
    found = results[name]
    assert found["rows"] == 200
    assert not any(math.isfinite(loss) for loss in found["losses"])


def test_the_executors_live_through_all_of_it(results: dict[str, dict[str, Any]]) -> None:
    assert results["executors"]["after"] == results["executors"]["before"]
