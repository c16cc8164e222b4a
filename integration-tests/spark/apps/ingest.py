"""Ingests that go wrong in one way or another, and what is left in the executors after each; for test_ingest.py.

All rows go to files, which show in the list of a process's mappings for as long as it holds them.
"""

import os
import shutil
import signal
import tempfile
import threading
import time
from pathlib import Path

from common import GOLDEN, digits, executor_processes, failure, report, session
from kindling import TorchEstimator
from pyspark import TaskContext
from pyspark.ml.evaluation import MulticlassClassificationEvaluator
from pyspark.ml.tuning import CrossValidator, ParamGridBuilder

disks = [Path(tempfile.mkdtemp()) for _ in range(2)]
spark = session(**{"spark.local.dir": ",".join(map(str, disks))})
data = digits(spark, rows=400, partitions=8).cache()
estimator = TorchEstimator(model=GOLDEN / "mlp_f32.pt2", numWorkers=2, maxEpochs=2, shardMemory=1)


def held() -> int:
    """Files of rows that the executors hold."""
    maps = [Path(f"/proc/{pid}/maps").read_text() for pid in executor_processes(spark)]
    return sum(".arrows" in line for text in maps for line in text.splitlines())


def ended(name, summary=None):
    """Report a fit, and what is left once the executors have had time to end its tasks."""
    deadline = time.monotonic() + 20
    while held() and time.monotonic() < deadline:
        time.sleep(0.1)
    values = {} if summary is None else {"losses": [epoch["loss"] for epoch in summary.history], "rows": summary.rows}
    report(name, left=held(), **values)


def through(trouble):
    """The rows, each partition of which goes through `trouble(partition, attempt)` before its last row."""

    def pass_on(partition, rows):
        rows = list(rows)
        yield from rows[:-1]
        trouble(partition, TaskContext.get().attemptNumber())
        yield from rows[-1:]

    return spark.createDataFrame(data.rdd.mapPartitionsWithIndex(pass_on), data.schema)


ended("undisturbed", estimator.fit(data).summary)


def fail(partition, attempt):
    if partition in (0, 5) and attempt < 2:
        raise RuntimeError("this attempt fails")


ended("failed tasks", estimator.fit(through(fail)).summary)


def kill(partition, attempt):
    """Ends the executor, with the rows that it has read so far."""
    if partition == 5 and attempt == 0:
        daemon = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[1])
        executor = int(Path(f"/proc/{daemon}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(executor, signal.SIGKILL)


ended("a killed executor", estimator.fit(through(kill)).summary)


failure("bad row", lambda: estimator.fit(data.selectExpr("features", "if(id = 399, null, label) as label")))
ended("after the bad row")


def cancel():
    deadline = time.monotonic() + 60
    while not held() and time.monotonic() < deadline:
        time.sleep(0.05)
    spark.sparkContext.cancelAllJobs()


canceller = threading.Thread(target=cancel)
canceller.start()


def slowly(rows):
    for row in rows:
        yield row
        if row.id % 200 == 199:
            time.sleep(1)


many = digits(spark, rows=40000, partitions=2)
failure("cancelled", lambda: estimator.fit(spark.createDataFrame(many.rdd.mapPartitions(slowly), many.schema)))
canceller.join()
ended("after the cancellation")

# One partition for two workers on two executors: one of them fetches its half.
moved = estimator.fit(data.coalesce(1)).summary
report("moved", rows=moved.movedRows, bytes=moved.movedBytes)


def ingests():
    """How often the application has read data to train on, by the descriptions of its jobs."""
    jobs = spark.sparkContext._jsc.sc().statusStore().jobsList(None)
    descriptions = [jobs.apply(i).description() for i in range(jobs.size())]
    return sum(text.isDefined() and text.get().endswith(": read the data") for text in descriptions)


before = ingests()
grid = ParamGridBuilder().addGrid(estimator.learningRate, [1e-2, 1e-3, 1e-4]).build()
judge = MulticlassClassificationEvaluator(metricName="accuracy")
search = estimator.copy({estimator.numWorkers: 1})
CrossValidator(estimator=search, estimatorParamMaps=grid, evaluator=judge, numFolds=2, parallelism=2).fit(data)
report("search", ingests=ingests() - before)
ended("searched")
before = ingests()
models = search.fit(data, [*grid, {estimator.validationFraction: 0.5}])
report("maps", rows=[model.summary.rows for model in models], ingests=ingests() - before)
ended("fitted maps")

# The last: nothing of Spark that is on disk is left after them.
folders = [str(path) for path in disks]


def lose(pattern):
    """Partition 4 removes what Spark has on disk."""

    def trouble(partition, _):
        if partition == 4:
            for folder in folders:
                for path in Path(folder).glob(pattern):
                    shutil.rmtree(path, ignore_errors=True)

    return trouble


# As a cleaner of temporary files does that does not know them; the directories stay, without which Spark fails.
ended("emptied disks", estimator.fit(through(lose("spark-*/executor-*/blockmgr-*/*"))).summary)
# What is left then goes with the executors: Spark runs nothing in them any more that could drop it.
failure("lost disks", lambda: estimator.fit(through(lose("spark-*/executor-*/blockmgr-*"))))
report("disks", folders=folders)
spark.stop()
for path in disks:
    shutil.rmtree(path, ignore_errors=True)
