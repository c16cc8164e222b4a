"""Spark's TorchDistributor: DDP over gloo, fed by its own reader of DataFrames. Argument: the data."""

from __future__ import annotations

import os
import sys

os.environ["PYSPARK_PYTHON"] = sys.executable

import workload
from pyspark.ml.torch.distributor import TorchDistributor


def train(rows: int, epochs: int, batch: int, rate: float) -> float:
    # Sent to the workers by value: what it needs, it imports there.
    import torch
    import torch.distributed as dist
    from pyspark.ml.torch.distributor import _get_spark_partition_data_loader as loader
    from torch import nn

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    layers = [nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)]
    model = nn.parallel.DistributedDataParallel(nn.Sequential(*layers))
    optimizer = torch.optim.Adam(model.parameters(), rate)
    loss = torch.zeros(())
    for _ in range(epochs):
        for x, y in loader(rows // dist.get_world_size(), batch, num_workers=1):
            features = torch.stack(x, 1).float() if isinstance(x, list) else x.float()
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(features), y.long().view(-1))
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return float(loss)


if __name__ == "__main__":
    spark = workload.session()
    frame = spark.read.parquet(sys.argv[1])
    count = frame.count()
    seconds, final = workload.timed(
        lambda: TorchDistributor(num_processes=workload.WORKERS, local_mode=False, use_gpu=False)._train_on_dataframe(
            train,
            frame.repartition(workload.WORKERS),
            count,
            workload.EPOCHS,
            workload.ROWS_PER_WORKER,
            workload.LEARNING_RATE,
        )
    )
    workload.result(name="fit", wall_s=seconds, loss=final, rows=count)
    spark.stop()
