"""Fits that are ended from outside: cancelled by the application, or by Ctrl-C."""

from __future__ import annotations

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


def test_ctrl_c_ends_a_fit_and_its_cluster_within_seconds() -> None:
    with Application([sys.executable, APPS / "interrupt.py"]) as application:
        application.until("TRAINING", timeout=120)
        pressed = time.monotonic()
        application.signal(signal.SIGINT)
        application.process.wait(20)
        took = time.monotonic() - pressed
        assert application.gone(30), "processes of the application still live"
        assert application.finish(1).code != 0
    assert "KeyboardInterrupt" in application.output
    assert took < 15
