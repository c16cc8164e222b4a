"""Fits that are ended from outside: cancelled by the application, by Ctrl-C, or by the loss of an executor."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from typing import TYPE_CHECKING

from applications import APPS, Application, app

if TYPE_CHECKING:
    from pathlib import Path


def test_a_cancelled_fit_ends_and_frees_its_slots() -> None:
    results = app("cancel").results
    assert "KindlingError" in results["cancelled"]["kinds"]
    assert results["cancelled"]["message"] == "the run was cancelled"
    assert results["cancelled took"]["seconds"] < 10
    assert results["next fit"]["rows"] == 200
    assert results["next fit"]["after"] == results["next fit"]["before"], "no executor was lost"


def executor_that_trains(application: Application) -> int:
    """The process number of one of the two executors, once both train."""
    application.until("kindling: epoch 1/", timeout=120)
    processes = next(line for line in application.output.splitlines() if line.startswith("PROCESSES")).split()[1:]
    assert len(processes) == 2, processes
    return int(processes[0])


def test_a_lost_executor_ends_the_fit_by_name_leaves_a_record_and_the_next_one_trains(tmp_path: Path) -> None:
    records = tmp_path / "records"
    with Application([sys.executable, APPS / "lost.py", records]) as application:
        os.kill(executor_that_trains(application), signal.SIGKILL)
        killed = time.monotonic()
        application.until('RESULT {"name": "lost"', timeout=20)
        took = time.monotonic() - killed
        finished = application.finish(120)
    assert finished.code == 0, finished.output
    lost = finished.results["lost"]
    assert "KindlingError" in lost["kinds"]
    assert re.search(r"executor \d+", lost["message"]), lost["message"]
    assert took < 10
    assert finished.results["next fit"]["rows"] == 200

    # The survivor's alone: a killed process writes nothing, and a fit that goes well has nothing to tell.
    (path,) = records.iterdir()
    record = json.loads(path.read_text())
    assert path.name == f"kindling-{record['run']}-attempt{record['attempt']}-rank{record['rank']}.json"
    assert (record["rank"] in (0, 1), record["size"]) == (True, 2)
    assert record["error"]
    assert 0 < len(record["records"]) <= 2000
    assert any("all-reduce" in entry["operation"] for entry in record["records"])


def test_an_executor_that_stops_ends_the_fit_by_its_silence_long_before_spark_notices() -> None:
    with Application([sys.executable, APPS / "stopped.py"]) as application:
        os.kill(executor_that_trains(application), signal.SIGSTOP)
        # Spark waits two minutes. Kindling waits three heartbeats, and ten seconds for the other rank to end.
        application.until('RESULT {"name": "stopped"', timeout=60)
        output = application.output
    assert "has given no sign of life for 1.5 s" in output, output
    assert re.search(r"rank \d on executor \d+ on .* failed: rank \d \(", output), output


def test_ctrl_c_ends_a_fit_within_seconds_and_the_session_goes_on() -> None:
    with Application([sys.executable, APPS / "interrupt.py"]) as application:
        application.until("TRAINING", timeout=120)
        # To Python alone, as a notebook does: a terminal would end the executors of a local cluster, too.
        application.process.send_signal(signal.SIGINT)
        pressed = time.monotonic()
        application.until('RESULT {"name": "interrupted"', timeout=20)
        took = time.monotonic() - pressed
        finished = application.finish(60)
    assert finished.code == 0, finished.output
    assert took < 10
    assert finished.results["next fit"]["rows"] == 200
    assert finished.results["next fit"]["after"] == finished.results["next fit"]["before"], "no executor was lost"
