"""Rows are in the executors once, whatever happens while they are read, and gone when the call has ended."""

from __future__ import annotations

import os
import re
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest
from applications import APPS, Application, Finished, app

if TYPE_CHECKING:
    from pathlib import Path

# The same steps by the same workers; where a partition lies may decide whose gradient is added first.
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, Any]]:
    return app("ingest", timeout=300).results


@pytest.mark.parametrize("trouble", ["failed tasks", "a killed executor", "emptied disks"])
def test_every_row_is_there_once_whatever_its_tasks_met(results: dict[str, dict[str, Any]], trouble: str) -> None:
    found = results[trouble]
    assert found["rows"] == 400
    assert found["losses"] == pytest.approx(results["undisturbed"]["losses"], rel=TOLERANCE)


def test_a_bad_row_and_a_cancellation_end_the_fit(results: dict[str, dict[str, Any]]) -> None:
    assert "is null" in results["bad row"]["message"]
    assert results["cancelled"]["message"] == "the run was cancelled"


def test_a_fit_whose_executors_lose_their_disks_ends_in_one_sentence_that_names_one(
    results: dict[str, dict[str, Any]],
) -> None:
    message = results["lost disks"]["message"]
    assert "KindlingError" in results["lost disks"]["kinds"]
    assert any(folder in message for folder in results["disks"]["folders"]), message
    assert "No such file" in message, message
    assert "\n" not in message


def test_nothing_is_left_in_the_executors_after_any_end(results: dict[str, dict[str, Any]]) -> None:
    left = {name: found["left"] for name, found in results.items() if "left" in found}
    assert len(left) == 8
    assert left == dict.fromkeys(left, 0)


def test_the_summary_says_what_moved(results: dict[str, dict[str, Any]]) -> None:
    # 64 float32 features and an int64 label.
    assert results["moved"] == {"rows": 200, "bytes": 200 * (64 * 4 + 8)}


def test_a_cross_validator_with_fits_side_by_side_reads_each_fold_once(results: dict[str, dict[str, Any]]) -> None:
    assert results["search"]["ingests"] == 3, "two folds, and the best on all rows"


def test_a_list_of_param_maps_reads_once_per_kind_of_rows(results: dict[str, dict[str, Any]]) -> None:
    found = results["maps"]
    assert found["ingests"] == 2
    assert found["rows"][:3] == [400, 400, 400]
    assert 100 < found["rows"][3] < 300


def lose_the_rows(kind: str, folder: Path) -> Finished:
    """Kill the executor that holds the rows before any worker can start."""
    with Application([sys.executable, APPS / "rows_lost.py", kind, folder]) as application:
        application.until("PROCESSES", timeout=120)
        application.until("free task slots", timeout=120, anywhere=True)
        processes = next(line for line in application.output.splitlines() if line.startswith("PROCESSES")).split()[1:]
        holder = (folder / "holder").read_text()
        (with_rows,) = [process for process in processes if process != holder]
        os.kill(int(with_rows), signal.SIGKILL)
        (folder / "go").touch()
        finished = application.finish(180)
    assert finished.code == 0, finished.output
    assert "they are read again" in finished.output, finished.output
    return finished


def test_rows_lost_before_the_training_are_read_again_and_train_to_the_same_losses(tmp_path: Path) -> None:
    results = lose_the_rows("same", tmp_path).results
    assert results["disturbed"]["rows"] == 400
    assert results["disturbed"]["losses"] == pytest.approx(results["undisturbed"]["losses"], rel=TOLERANCE)


def test_rows_that_are_others_when_read_again_end_the_fit_by_name(tmp_path: Path) -> None:
    found = lose_the_rows("random", tmp_path).results["random"]
    assert "InvalidArgumentError" in found["kinds"], found
    assert re.match(
        r"partition \d was read again, as executor \d+ on .* was lost, and gave other values, or rows in another",
        found["message"],
    ), found
