"""Fits that are ended from outside: cancelled by the application, by Ctrl-C, or by the loss of an executor."""

from __future__ import annotations

import re
import signal
import sys
import time

from applications import APPS, Application, app


def test_a_cancelled_fit_ends_and_frees_its_slots() -> None:
    results = app("cancel").results
    assert "KindlingError" in results["cancelled"]["kinds"]
    assert results["cancelled"]["message"] == "the run was cancelled"
    assert results["cancelled took"]["seconds"] < 10
    assert results["next fit"]["rows"] == 200
    assert results["next fit"]["after"] == results["next fit"]["before"], "no executor was lost"


def test_a_lost_executor_ends_the_fit_by_name_and_the_next_one_trains() -> None:
    results = app("lost").results
    assert "KindlingError" in results["lost"]["kinds"]
    assert re.search(r"executor \d+", results["lost"]["message"]), results["lost"]["message"]
    assert results["lost took"]["seconds"] < 10
    assert results["next fit"]["rows"] == 200


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
