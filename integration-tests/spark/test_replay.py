"""The batches that Kindling took, replayed in PyTorch on one process: the same losses and the same weights.

`kindling-replay` trains a golden program over a group of ranks and writes down which rows made up every batch. Here
the same rows go through the eager module, with PyTorch's own optimizer. What the workers did to each other (order of
rows, shares, sums of gradients) must leave no trace but rounding.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from applications import GOLDEN
from safetensors import safe_open
from safetensors.torch import load_file

sys.path.insert(0, str(GOLDEN))
import make_golden

# Sums over 16 rows in another order, some tens of steps: rounding of the type, with room for AdamW's division.
TOLERANCE = {"f32": 1e-5, "f64": 1e-10}
PARTITIONS = [5, 0, 61, 1, 30, 0, 23]
ROWS, BATCH, EPOCHS = sum(PARTITIONS), 16, 2


@dataclass(frozen=True)
class Job:
    """A golden case, and the data it is given here."""

    case: make_golden.Case
    tag: str

    @property
    def dtype(self) -> torch.dtype:
        return make_golden.DTYPES[self.tag]

    def data(self) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(5)
        (x,), y = self.case.batch(ROWS, self.dtype)
        return x, y


CASES = {case.name: case for case in make_golden.CASES}
JOBS = [Job(CASES[name], tag) for name in ("mlp", "mlp_sgd", "regression", "unused", "lstm") for tag in ("f32", "f64")]


def replay(job: Job, world: int, transport: str, binary: Path, folder: Path) -> dict[str, Any]:
    """What `kindling-replay` did: rows, perRank and losses. The weights it leaves in `folder`."""
    x, y = job.data()
    np.save(folder / "features.npy", x.numpy())
    np.save(folder / "labels.npy", y.numpy())
    request = {
        "program": str(GOLDEN / f"{job.case.program or job.case.name}_{job.tag}.pt2"),
        "features": str(folder / "features.npy"),
        "labels": str(folder / "labels.npy"),
        "partitions": PARTITIONS,
        "world": world,
        "transport": transport,
        "loss": {"name": job.case.loss},
        "optimizer": job.case.optimizer,
        "batchSize": BATCH,
        "maxEpochs": EPOCHS,
        "seed": 7,
        "shuffle": True,
        "weights": str(folder / "weights.safetensors"),
    }
    done = subprocess.run(
        [binary],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        # Test programs link libtorch without knowing where it is installed.
        env={**os.environ, "LD_LIBRARY_PATH": str(Path(os.environ["LIBTORCH"]) / "lib")},
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def retrain(job: Job, batches: list[list[int]]) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses and weights of the eager module over the same batches."""
    torch.set_num_threads(1)
    net = make_golden.build(job.case, job.dtype)
    criterion = torch.nn.functional.cross_entropy if job.case.loss == "crossEntropy" else torch.nn.functional.mse_loss
    steps, losses = make_golden.optimizer(net, job.case.optimizer, fused=False), []
    x, y = job.data()
    for rows in batches:
        steps.zero_grad()
        loss = criterion(net(x[rows]), y[rows])
        losses.append(loss.item())
        loss.backward()  # type: ignore[no-untyped-call]
        steps.step()
    return losses, net.state_dict()


@pytest.mark.parametrize("job", JOBS, ids=lambda job: f"{job.case.name}-{job.tag}")
@pytest.mark.parametrize(("world", "transport"), [(1, "local"), (2, "tcp"), (3, "local"), (3, "tcp")])
def test_the_recorded_batches_replayed_in_pytorch_give_the_same_losses_and_weights(
    job: Job, world: int, transport: str, replay_binary: Path, tmp_path: Path
) -> None:
    answer = replay(job, world, transport, replay_binary, tmp_path)
    losses, weights = retrain(job, answer["rows"])
    tolerance = TOLERANCE[job.tag]
    assert answer["losses"] == pytest.approx(losses, rel=tolerance, abs=tolerance)
    found = load_file(tmp_path / "weights.safetensors")
    assert found.keys() == weights.keys()
    for name, value in weights.items():
        torch.testing.assert_close(found[name], value, rtol=10 * tolerance, atol=10 * tolerance, msg=name)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_row_is_in_one_batch_of_every_epoch(world: int, replay_binary: Path, tmp_path: Path) -> None:
    answer = replay(JOBS[0], world, "local", replay_binary, tmp_path)
    batches, steps = answer["rows"], -(-ROWS // BATCH)
    assert len(batches) == EPOCHS * steps
    for epoch in range(EPOCHS):
        taken = batches[epoch * steps : (epoch + 1) * steps]
        assert [len(rows) for rows in taken] == [BATCH] * (steps - 1) + [ROWS - BATCH * (steps - 1)]
        assert sorted(row for rows in taken for row in rows) == list(range(ROWS))
    assert batches[:steps] != batches[steps:], "the second epoch takes the rows in another order"
    for step, rows in enumerate(batches):
        assert sorted(rows) == sorted(row for rank in answer["perRank"] for row in rank[step])


def test_batches_do_not_depend_on_the_world(replay_binary: Path, tmp_path: Path) -> None:
    taken = [replay(JOBS[0], world, "local", replay_binary, tmp_path)["rows"] for world in (1, 2, 3)]
    one, two, three = ([sorted(rows) for rows in batches] for batches in taken)
    assert one == two == three


def test_the_golden_programs_start_from_the_weights_of_the_eager_modules() -> None:
    """Else every comparison here would fail for a reason that has nothing to do with Kindling."""
    for job in JOBS:
        program = torch.export.load(GOLDEN / f"{job.case.program or job.case.name}_{job.tag}.pt2")
        net = make_golden.build(job.case, job.dtype)
        for name, value in net.state_dict().items():
            torch.testing.assert_close(program.state_dict[name], value, rtol=0, atol=0)


def test_the_golden_files_name_the_torch_that_wrote_them() -> None:
    for path in GOLDEN.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            assert file.metadata()["torch"].startswith("2.11.")
