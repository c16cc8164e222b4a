"""The task of `make bench-fit` and `make bench-transform`: rows, net and settings, the same for every contestant.

Imports nothing but the standard library at the top, so that an environment without torch can read it.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import SparkSession

WIDTH, CLASSES, HIDDEN = 64, 10, 256
EPOCHS, WORKERS, LEARNING_RATE = 3, 2, 1e-3
ROWS_PER_WORKER = 256
"""Of one step. Kindling's batchSize counts the rows of all workers, the rivals' batch size those of one."""


def write(folder: Path, rows: int) -> Path:
    """`rows` rows of `features: array<float>` and a `label` by a random linear rule, in one Parquet file."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / f"rows-{rows}.parquet"
    rng = np.random.default_rng(0)
    features = rng.standard_normal((rows, WIDTH), dtype="float32")
    labels = (features @ rng.standard_normal((WIDTH, CLASSES))).argmax(1).astype("int64")
    arrays = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), WIDTH).cast(pa.list_(pa.float32()))
    pq.write_table(pa.table({"features": arrays, "label": pa.array(labels)}), path, row_group_size=20_000)
    return path


def read(path: Path) -> tuple[Any, Any]:
    """The same rows in memory, as arrays that may be written to."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    features = table["features"].combine_chunks().flatten().to_numpy().reshape(-1, WIDTH).copy()
    return features, table["label"].to_numpy().copy()


def net() -> Any:
    import torch
    from torch import nn

    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(WIDTH, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES)
    )


def session(**conf: str) -> SparkSession:
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master(f"local[{WORKERS}]")
    quiet = {"spark.driver.memory": "6g", "spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false"}
    for key, value in {**quiet, **conf}.items():
        builder = builder.config(key, value)
    return builder.getOrCreate()


def timed(call: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def result(**values: Any) -> None:
    print("RESULT " + json.dumps(values), flush=True)
