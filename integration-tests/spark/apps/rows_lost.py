"""An executor is killed after the rows were read and before the workers start; what it held is read again.

Another job holds one of the two slots until the file `go` is there, so that no worker can start before. Its task writes
into `holder` in which process it runs; the rows are in the other one.
"""

import os
import sys
import threading
import time
from pathlib import Path

from common import digits, executor_processes, failure, report, session
from kindling import TorchEstimator
from pyspark.sql import functions as f
from torch import nn

kind, folder = sys.argv[1], Path(sys.argv[2])
spark = session(**{"spark.locality.wait": "0s"})
data, width = digits(spark, rows=400, partitions=8), 64
if kind == "random":
    # Other values each time they are computed.
    noise = f.udf(lambda: float(time.time_ns() % 1_000_003), "float").asNondeterministic()
    data, width = data.select(f.array_append("features", noise()).alias("features"), "label"), 65


def parent(process):
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def hold(_):
    # The executor forked a daemon, and that this process.
    (folder / "holder").write_text(str(parent(parent(os.getpid()))))
    deadline = time.monotonic() + 120
    while not (folder / "go").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return [0]


other = threading.Thread(target=lambda: spark.sparkContext.parallelize([0], 1).mapPartitions(hold).count())
other.start()
while not (folder / "holder").exists():
    time.sleep(0.05)
print("PROCESSES", *executor_processes(spark), flush=True)

estimator = TorchEstimator(
    model=nn.Linear(width, 10), numWorkers=2, maxEpochs=2, slotTimeout=120.0, inputShapes=[[width]]
)
if kind == "random":
    failure("random", lambda: estimator.fit(data))
else:
    for name in ("disturbed", "undisturbed"):
        summary = estimator.fit(data).summary
        report(name, rows=summary.rows, losses=[epoch["loss"] for epoch in summary.history])
other.join()
spark.stop()
