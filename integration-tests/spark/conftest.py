"""Whole applications, each in a process of its own: local-cluster leaks from one test into the next (SPARK-31922).

What is tested is what was built, so the environment names it; a missing piece ends the session with a sentence, never
with skipped tests:

    KINDLING_JAR      the jar, with the native library inside
    LIBTORCH          the folder of torch 2.11 (the Python package or a libtorch)
    KINDLING_REPLAY   the kindling-replay program, for test_replay.py alone
    SPARK_HOME        a Spark of your own; else the one inside pyspark
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REQUIRED = {
    "KINDLING_JAR": "the jar that Maven builds in jvm-bindings, with the native library inside",
    "LIBTORCH": "the folder of a torch 2.11 installation",
}


def existing(name: str, meaning: str) -> Path:
    value = os.environ.get(name, "")
    if not value:
        raise pytest.UsageError(f"{name} is not set: it names {meaning}")
    if not Path(value).exists():
        raise pytest.UsageError(f"{name} names {value}, which does not exist: it names {meaning}")
    return Path(value)


def pytest_sessionstart() -> None:
    for name, meaning in REQUIRED.items():
        existing(name, meaning)


@pytest.fixture(scope="session")
def replay_binary() -> Path:
    return existing("KINDLING_REPLAY", "the kindling-replay program that cargo builds")


@pytest.fixture(scope="session")
def jar() -> Path:
    return Path(os.environ["KINDLING_JAR"]).resolve()
