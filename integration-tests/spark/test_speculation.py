"""Spark runs copies of slow tasks on other hosts: here a cluster whose workers have addresses of their own.

A local cluster has one host, on which Spark starts no copy of a task that runs there.
"""

from __future__ import annotations

import re
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from applications import APPS, Application, run, spark_command

if TYPE_CHECKING:
    from pathlib import Path

HOSTS = ["127.0.0.2", "127.0.0.3"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("cluster")
    (folder / "marks").mkdir()
    deploy = "org.apache.spark.deploy"
    spark_class = spark_command("spark-class")
    with ExitStack() as stack:
        # The driver has the usual address.
        master = [f"{deploy}.master.Master", "--host", "127.0.0.1", "--port", "0", "--webui-port", "0"]
        leader = stack.enter_context(Application([spark_class, *master], folder))
        leader.until("Starting Spark master at spark://", timeout=60, anywhere=True)
        found = re.search(r"Starting Spark master at (spark://\S+)", leader.output)
        assert found is not None
        for host in HOSTS:
            options = [
                "--host",
                host,
                "--cores",
                "1",
                "--memory",
                "1g",
                "--webui-port",
                "0",
                "--work-dir",
                str(folder / host),
            ]
            worker = [f"{deploy}.worker.Worker", *options, found[1]]
            joined = stack.enter_context(Application([spark_class, *worker], folder, SPARK_LOCAL_IP=host))
            joined.until("Successfully registered with master", timeout=60, anywhere=True)
        finished = run([sys.executable, APPS / "speculation.py", found[1], folder / "marks"], timeout=300)
    assert finished.code == 0, finished.output
    return finished.results


def test_a_copy_of_a_slow_task_wins_and_every_row_is_there_once(results: dict[str, dict[str, Any]]) -> None:
    found = results["speculated"]
    assert found["rows"] == 400
    # The same steps by the same workers; where a partition lies may decide whose gradient is added first.
    assert found["losses"] == pytest.approx(results["undisturbed"]["losses"], rel=1e-6)


def test_the_slow_attempt_did_not_end_and_its_copy_did(results: dict[str, dict[str, Any]]) -> None:
    marks = results["attempts"]["files"]
    assert "3-0.begun" in marks
    assert "3-0.ended" not in marks
    copies = {mark for mark in marks if mark.startswith("3-") and mark.endswith(".ended")}
    assert len(copies) == 1, marks


def test_the_executors_are_on_hosts_of_their_own_and_hold_nothing_in_the_end(
    results: dict[str, dict[str, Any]],
) -> None:
    for name in ("undisturbed", "speculated"):
        assert results[name]["hosts"] == HOSTS
        assert results[name]["left"] == 0
