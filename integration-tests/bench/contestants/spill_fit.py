"""Kindling: one epoch over generated rows, watching memory. Arguments: the program, MB of rows, MB of `shardMemory`."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import workload
from kindling import TorchEstimator, jar_path
from pyspark.sql import DataFrame
from pyspark.sql import functions as sql

program, megabytes, budget = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
WIDTH = 128
ROW_BYTES = 4 * WIDTH + 8
HEAP = "3g"
# A heap that is all there from the start is in the baseline and not in what grows.
spark = workload.session(
    **{
        "spark.jars": jar_path(),
        "spark.driver.memory": HEAP,
        "spark.driver.extraJavaOptions": f"-Xms{HEAP} -XX:+AlwaysPreTouch",
    }
)
pid = spark._jvm.java.lang.ProcessHandle.current().pid()  # type: ignore[union-attr]


def resident() -> int:
    """Bytes of anonymous and shared memory of the JVM; pages of files are the system's to take back."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "RssShmem:"))]
    return 1024 * sum(kilobytes)


def generated(rows: int, partitions: int) -> DataFrame:
    """Rows by a rule of each row's number, so that nothing is read but what `fit` keeps."""
    value = (sql.hash("id") / 2.0**31).cast("float")
    return spark.range(0, rows, 1, partitions).select(
        sql.array_repeat(value, WIDTH).alias("features"),
        sql.pmod(sql.hash("id"), sql.lit(10)).cast("long").alias("label"),
    )


estimator = TorchEstimator(
    model=program, optimizer="adam", batchSize=1024, maxEpochs=1, numWorkers=2, shardMemory=budget << 20
)
estimator.fit(generated(10_000, 2))
seen, over = [resident()], threading.Event()


def watch() -> None:
    while not over.wait(0.05):
        seen.append(resident())


watcher = threading.Thread(target=watch)
watcher.start()
rows = (megabytes << 20) // ROW_BYTES
seconds, model = workload.timed(lambda: estimator.fit(generated(rows, max(2, megabytes // 256))))
over.set()
watcher.join()
peak = max(seen) - seen[0]
workload.result(
    rows=rows,
    wall_s=seconds,
    training_s=model.summary.trainingSeconds,
    rows_per_s=rows / model.summary.trainingSeconds,
    wait_share=model.summary.waitShare,
    peak_mb=peak / 2**20,
    of_budget=peak / (budget << 20),
)
spark.stop()
