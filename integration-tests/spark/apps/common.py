"""What the applications share: a small cluster, data that needs no Python on the executors, and how they report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kindling import jar_path
from pyspark.sql import SparkSession

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark.sql import DataFrame

GOLDEN = Path(__file__).resolve().parents[2] / "golden"


def session(master: str = "local-cluster[2,1,1024]", **conf: str) -> SparkSession:
    quiet = {"spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false", "spark.sql.shuffle.partitions": "4"}
    conf = {"spark.jars": jar_path(), **quiet, **conf}
    builder = SparkSession.builder.master(master)
    for key, value in conf.items():
        builder = builder.config(key, value)
    return builder.getOrCreate()


def digits(spark: SparkSession, rows: int = 200, partitions: int = 4) -> DataFrame:
    """`id`, 64 `features` in -1..1 of which the one numbered like the `label` stands out, and ten labels."""
    return digits_of(spark.range(0, rows, 1, partitions))


def digits_of(ids: DataFrame) -> DataFrame:
    """The same for ids of the caller's own, partitioned as they are."""
    return ids.selectExpr(
        "id",
        "transform(sequence(0, 63), i -> cast(0.3 * sin(id * 7 + i * i) + if(i = id % 10, 2, 0) as float)) as features",
        "cast(id % 10 as int) as label",
    )


def executors(spark: SparkSession) -> str:
    """The ids of the executors that live now: a new one has a new id."""
    return str(spark.sparkContext._jsc.sc().getExecutorIds().mkString(","))


def executor_processes(spark: SparkSession) -> list[int]:
    """The process numbers of the executors of a local cluster, all on this machine."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    app = spark.sparkContext.applicationId
    found = []
    for pid in pids:
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if "org.apache.spark.executor.CoarseGrainedExecutorBackend" in line and app in line:
            found.append(pid)
    return found


def report(name: str, **values: Any) -> None:
    print("RESULT " + json.dumps({"name": name, **values}), flush=True)


def failure(name: str, call: Callable[[], Any]) -> None:
    """Report the exception that `call` should raise: its classes from the outermost down, and its message."""
    try:
        call()
    except Exception as error:  # noqa: BLE001 - the test judges which one it is
        kinds = [kind.__name__ for kind in type(error).__mro__]
        report(name, kinds=kinds, message=str(error), java=bool(getattr(error, "java", None)))
    else:
        report(name, kinds=[], message="nothing was raised", java=False)
