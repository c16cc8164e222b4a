"""Kindling: `fit` of a `.pt2` twice in one process, cold and warm. Arguments: the data, the program, the workers."""

from __future__ import annotations

import sys

import workload
from kindling import TorchEstimator, jar_path

data, program, workers = sys.argv[1], sys.argv[2], int(sys.argv[3])
spark = workload.session(**{"spark.jars": jar_path(), "spark.kindling.progress": "off"})
rows = spark.read.parquet(data)
rows.count()
estimator = TorchEstimator(
    model=program,
    optimizer="adam",
    learningRate=workload.LEARNING_RATE,
    batchSize=workload.ROWS_PER_WORKER * workers,
    maxEpochs=workload.EPOCHS,
    numWorkers=workers,
)
for name in ("cold", "warm"):
    seconds, model = workload.timed(lambda: estimator.fit(rows))
    summary = model.summary
    workload.result(
        name=name,
        wall_s=seconds,
        training_s=summary.trainingSeconds,
        loss=summary.history[-1]["loss"],
        rows=summary.rows,
    )
spark.stop()
