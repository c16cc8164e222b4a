"""Ingests of which Spark runs a copy beside a slow task, on a cluster of two hosts; for test_speculation.py.

One partition's first attempt stops before its last row until the file `go` is there, or Spark kills it.
"""

import sys
import time
from pathlib import Path

from common import digits, executor_processes, report, session
from kindling import TorchEstimator
from pyspark import TaskContext
from torch import nn

master, folder = sys.argv[1], Path(sys.argv[2])
spark = session(
    master,
    **{
        "spark.speculation": "true",
        "spark.speculation.interval": "100ms",
        "spark.speculation.quantile": "0.5",
        "spark.executor.memory": "1g",
        "spark.python.worker.reuse": "false",
    },
)
while len(executor_processes(spark)) < 2:
    time.sleep(0.1)
spark.sparkContext.parallelize(range(8), 8).map(lambda _: time.sleep(0.1)).collect()


def held() -> int:
    """Files of rows that the executors hold."""
    maps = [Path(f"/proc/{pid}/maps").read_text() for pid in executor_processes(spark)]
    return sum(".arrows" in line for text in maps for line in text.splitlines())


def slow(partition, rows):
    attempt = TaskContext.get().attemptNumber()
    rows = list(rows)
    mark = folder / f"{partition}-{attempt}"
    mark.with_suffix(".begun").touch()
    yield from rows[:-1]
    deadline = time.monotonic() + 120
    while partition == 3 and attempt == 0 and not (folder / "go").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    mark.with_suffix(".ended").touch()
    yield from rows[-1:]


data = digits(spark, rows=400, partitions=8).cache()
# Every shard is a file, so that what is left shows.
estimator = TorchEstimator(model=nn.Linear(64, 10), numWorkers=2, maxEpochs=2, shardMemory=1, inputShapes=[[64]])
for name, frame in {
    "undisturbed": data,
    "speculated": spark.createDataFrame(data.rdd.mapPartitionsWithIndex(slow), data.schema),
}.items():
    summary = estimator.fit(frame).summary
    deadline = time.monotonic() + 20
    while held() and time.monotonic() < deadline:
        time.sleep(0.1)
    members = spark.sparkContext._jsc.sc().getExecutorMemoryStatus().keys().mkString(",").split(",")
    report(
        name,
        rows=summary.rows,
        losses=[epoch["loss"] for epoch in summary.history],
        left=held(),
        hosts=sorted(
            host.rpartition(":")[0] for host in members if host.startswith("127.") and not host.startswith("127.0.0.1:")
        ),
    )
report("attempts", files=sorted(path.name for path in folder.iterdir()))
(folder / "go").touch()
spark.stop()
