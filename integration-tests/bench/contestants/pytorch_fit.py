"""PyTorch without Spark, the data in memory, one thread per process; only the training is timed.

Arguments: the data, and `ddp` (DDP over gloo, a half of the rows each) or `floor` (two processes that do not talk, with
the fused optimizer: what the computation alone takes on two cores).
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import workload
from torch import nn


def run(rank: int, data: str, kind: str, meeting: str, results: Any) -> None:
    torch.set_num_threads(1)
    # Both kinds meet before the clock starts, so that the two processes compute at the same time.
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=workload.WORKERS)
    features, labels = (
        torch.from_numpy(array)[rank :: workload.WORKERS].contiguous() for array in workload.read(Path(data))
    )
    model = workload.net()
    if kind == "ddp":
        model = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.Adam(model.parameters(), workload.LEARNING_RATE, fused=kind == "floor")
    loss, batch = torch.zeros(()), workload.ROWS_PER_WORKER
    dist.barrier()
    start = time.perf_counter()
    for _ in range(workload.EPOCHS):
        order = torch.randperm(len(features))
        for begin in range(0, len(features) - batch + 1, batch):
            chosen = order[begin : begin + batch]
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(features[chosen]), labels[chosen])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    dist.barrier()
    if rank == 0:
        results.put((time.perf_counter() - start, float(loss), len(features) * workload.WORKERS))


if __name__ == "__main__":
    results = mp.get_context("spawn").SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(run, (sys.argv[1], sys.argv[2], str(Path(folder) / "meeting"), results), workload.WORKERS)  # type: ignore[no-untyped-call]
    seconds, final, count = results.get()
    workload.result(name="fit", wall_s=seconds, loss=final, rows=count)
