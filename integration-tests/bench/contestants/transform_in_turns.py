"""Kindling's `transform` and Spark's `predict_batch_udf` with the same net, in turns, in one application.

Both write two columns of every row, the label and ten scores, to Spark's `noop` sink. Arguments: the data, the program,
the rows of a batch, the rounds. `predict_batch_udf` is given one thread per task, as Kindling takes.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

os.environ["PYSPARK_PYTHON"] = sys.executable

import torch
import workload
from kindling import TorchEstimator, jar_path
from pyspark.ml.functions import predict_batch_udf
from pyspark.sql.types import ArrayType, FloatType

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from pyspark.sql import DataFrame

data, program, batch, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
spark = workload.session(**{"spark.jars": jar_path(), "spark.kindling.progress": "off"})
rows = spark.read.parquet(data)
count = rows.count()
model = TorchEstimator(model=program, inferBatchSize=batch, maxEpochs=1, batchSize=4096).fit(rows.limit(20_000))
state = model.state_dict()
shared = spark.sparkContext.broadcast({name: torch.as_tensor(value).numpy() for name, value in state.items()})


def predictor() -> Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    torch.set_num_threads(1)
    layers = [
        torch.nn.Linear(64, 256),
        torch.nn.ReLU(),
        torch.nn.Linear(256, 256),
        torch.nn.ReLU(),
        torch.nn.Linear(256, 10),
    ]
    net = torch.nn.Sequential(*layers)
    net.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in shared.value.items()})
    net.eval()

    def predict(features: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        with torch.inference_mode():
            scores: np.ndarray[Any, Any] = net(torch.from_numpy(features)).softmax(1).numpy()
            return scores

    return predict


udf = predict_batch_udf(
    predictor, return_type=ArrayType(FloatType()), batch_size=batch, input_tensor_shapes=[[workload.WIDTH]]
)
contestants = {
    "kindling": model.transform(rows).select("label", "probability"),
    "predict_batch_udf": rows.select("label", udf("features").alias("probability")),
}


def write(frame: DataFrame) -> None:
    frame.write.format("noop").mode("overwrite").save()


def scores(name: str) -> torch.Tensor:
    some = contestants[name].limit(50).collect()
    return torch.tensor([list(row.probability) for row in some], dtype=torch.float64)


difference = (scores("kindling") - scores("predict_batch_udf")).abs().max().item()
for frame in contestants.values():
    write(frame)
order = list(contestants)
for _ in range(rounds):
    for name in order:
        seconds, _none = workload.timed(lambda name=name: write(contestants[name]))
        workload.result(name=name, rows_per_s=count / seconds)
    order.reverse()
workload.result(name="difference", value=difference)
spark.stop()
