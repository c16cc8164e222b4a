"""Runs an application in a process of its own, with a deadline, and hands back what it printed.

An application of ours reports with lines `RESULT {"name": ..., ...}`; everything else it prints is for whoever reads a
failed test.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Self

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
GOLDEN = HERE.parent / "golden"
APPS = HERE / "apps"
EXAMPLES = ROOT / "examples"


@dataclass(frozen=True)
class Finished:
    """How an application ended; `code` is negative when a signal ended it."""

    code: int
    output: str
    seconds: float
    results: dict[str, dict[str, Any]] = field(default_factory=dict)

    def lines(self, start: str) -> list[str]:
        return [line for line in self.output.splitlines() if line.startswith(start)]


def environment(**more: str) -> dict[str, str]:
    """The environment of these tests, with the Python package importable and no settings of another Spark."""
    path = os.pathsep.join(filter(None, [str(ROOT / "python" / "src"), os.environ.get("PYTHONPATH", "")]))
    # Spark picks the first address that is not loopback; tests have no business on a network.
    fixed = {"PYTHONPATH": path, "PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    return {**os.environ, **fixed, "PYTHONUNBUFFERED": "1", **more}


class Application:
    """A running application, the leader of a session of processes, so that it can be ended with all it started.

    A thread reads what it prints as it comes: a full pipe would stop it, its shutdown included.
    """

    def __init__(self, command: Sequence[str | Path], folder: Path | None = None, **more: str) -> None:
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env=environment(**more),
            start_new_session=True,
        )
        self._lines: list[str] = []
        self._ended = False
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, name=f"reads {command[-1]}", daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing of it outlives the block."""
        self.signal(signal.SIGKILL)
        self.process.wait()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self._lines.append(line)
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    @property
    def output(self) -> str:
        with self._news:
            return "".join(self._lines)

    def until(self, text: str, timeout: float, *, anywhere: bool = False) -> None:
        """Wait for a line of its output that starts so, or that has it anywhere."""

        def said() -> bool:
            return any(text in line if anywhere else line.startswith(text) for line in self._lines)

        with self._news:
            self._news.wait_for(lambda: said() or self._ended, timeout)
            met = said()
        assert met, f"the application did not say {text!r} within {timeout} s:\n{self.output}"

    def signal(self, number: signal.Signals) -> None:
        """To every process of the session, as a terminal does."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def finish(self, timeout: float) -> Finished:
        """Wait for the end; past the deadline everything is killed and the test fails."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            code = None
        seconds = time.monotonic() - self.started
        self.signal(signal.SIGKILL)  # executors outlive their driver for a while
        self.process.wait()
        self._reader.join(10)
        assert code is not None, f"{self.process.args!r} was still running after {timeout} s:\n{self.output}"
        found = [json.loads(line.removeprefix("RESULT ")) for line in self._lines if line.startswith("RESULT ")]
        return Finished(code, self.output, seconds, {entry.pop("name"): entry for entry in found})


def run(command: Sequence[str | Path], timeout: float = 120, folder: Path | None = None, **more: str) -> Finished:
    with Application(command, folder, **more) as application:
        return application.finish(timeout)


@cache
def app(name: str, timeout: float = 180) -> Finished:
    """One of `apps/`, run once per test session however many tests look at its results."""
    finished = run([sys.executable, APPS / f"{name}.py"], timeout)
    assert finished.code == 0, f"{name} ended with {finished.code}:\n{finished.output}"
    return finished


def spark_home() -> Path:
    named = os.environ.get("SPARK_HOME")
    if named:
        return Path(named)
    import pyspark

    return Path(pyspark.__file__).parent


def spark_command(name: str) -> Path:
    """spark-submit or spark-shell."""
    return spark_home() / "bin" / name
