"""`make bench-programs`: a step of training in Kindling against the same step in Python PyTorch.

Each net is exported once and trained by three processes from the same weights on the same fresh random batches, with
one thread each: Kindling, and Python with PyTorch's default and with its fused AdamW. They take turns, a few steps at a
time, the order turned round from one round to the next; whoever is not asked sleeps.

    program name=bert ours_us=… python_fused_us=… ratio=… max_loss_diff=… ours_peak_mb=… python_peak_mb=…

`ratio` is our time over Python's fused one, the median over rounds; below 1 we are faster. `max_loss_diff` is the
largest relative difference of our loss from that of Python's fused AdamW over all steps. The peaks are those of
resident anonymous memory (without the pages of libraries) above what each process had once the model was loaded, in
processes of their own (Python's with the fused AdamW). With `--device cuda:0` all train on
that GPU, in float32 without TF32; the peaks are still the host's.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import torch
from collective import measure
from figures import Figure, median_ratio
from kindling import export
from nets import NETS
from ranks import Group, RankError, start
from safetensors.torch import save_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT = Path(__file__).resolve().parent.parent.parent
PYTHON_RANK = Path(__file__).resolve().parent / "program_rank.py"
WARM_UP = 3


@dataclass(frozen=True)
class Plan:
    """What is measured, checked."""

    program: Path
    nets: tuple[str, ...]
    rounds: int
    quick: bool
    device: str = "cpu"

    def steps(self, name: str) -> int:
        return 3 if self.quick else NETS[name].steps


def write(name: str, steps: int, folder: Path) -> None:
    """Writes the exported program, the state dict and the batches."""
    net = NETS[name]
    module, batches = net.module(), net.batches(steps)
    example = tuple(batches[f"x{i}"][0] for i in range(len(batches) - 1))
    save_file({key: value.contiguous() for key, value in batches.items()}, folder / "batches")
    torch.save(module.state_dict(), folder / "state")
    # What trains a Keras model in Python is a module around it; what is exported is the model itself.
    export(getattr(module, "k", module), example, folder / "program.pt2")


def libraries() -> str:
    """Where a process finds libtorch."""
    return f"{Path(torch.__file__).parent / 'lib'}:{os.environ.get('LD_LIBRARY_PATH', '')}"


def contestant(kind: str, name: str, plan: Plan, folder: Path) -> Group:
    """One process, ready to train."""
    command: list[str | Path]
    if kind == "ours":
        command = [plan.program, folder / "program.pt2", folder / "batches", "{}", plan.device]
    else:
        command = [sys.executable, PYTHON_RANK, name, folder / "state", folder / "batches", kind, plan.device]
    group = start(kind, [command], {"OMP_NUM_THREADS": "1", "LD_LIBRARY_PATH": libraries()})
    try:
        group.joined()
    except BaseException:
        group.__exit__()
        raise
    return group


def bench(name: str, plan: Plan, folder: Path) -> Figure:
    steps = plan.steps(name)
    write(name, WARM_UP + plan.rounds * steps, folder)
    kinds = ("ours", "fused", "default")
    losses: dict[str, list[float]] = {kind: [] for kind in kinds}
    with ExitStack() as stack:
        groups = {kind: stack.enter_context(contestant(kind, name, plan, folder)) for kind in kinds}

        def train(kind: str, count: int) -> float:
            answer = groups[kind].ask_first(f"steps {count}")
            losses[kind] += answer["losses"]
            return float(answer["seconds"]) * 1e6 / count

        def asked(kind: str) -> Callable[[], float]:
            return lambda: train(kind, steps)

        for kind in kinds:
            train(kind, WARM_UP)
        found = measure({kind: asked(kind) for kind in kinds}, plan.rounds)
    peaks = {kind: peak(kind, name, plan, folder) for kind in ("ours", "fused")}
    fields: dict[str, str | float] = {
        "name": name,
        "ours_us": median(found["ours"]),
        "python_fused_us": median(found["fused"]),
        "python_default_us": median(found["default"]),
        "ratio": median_ratio(found["ours"], found["fused"]),
        "max_loss_diff": f"{difference(losses['ours'], losses['fused']):.1e}",
        "python_loss_diff": f"{difference(losses['default'], losses['fused']):.1e}",
        "ours_peak_mb": peaks["ours"],
        "python_peak_mb": peaks["fused"],
    }
    return Figure("program", fields, found)


def peak(kind: str, name: str, plan: Plan, folder: Path) -> float:
    with contestant(kind, name, plan, folder) as group:
        group.ask_first(f"steps {min(10, plan.rounds * plan.steps(name))}")
        return float(group.ask_first("peak")["peak_mb"])


def difference(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The largest relative difference between two lists of losses."""
    return max(abs(own - other) / abs(other) for own, other in zip(ours, theirs, strict=True))


def parse(arguments: Sequence[str] | None = None) -> Plan:
    parser = argparse.ArgumentParser(description="A step of training in Kindling against Python PyTorch.")
    program = ROOT / "build" / "kindling-steps"
    parser.add_argument("--program", type=Path, default=program, help="the kindling-steps to measure")
    parser.add_argument("--nets", default=",".join(NETS), help=f"which nets ({','.join(NETS)})")
    parser.add_argument("--rounds", type=int, help="rounds (9)")
    parser.add_argument("--device", default="cpu", help="where to train: cpu (the default) or cuda:N")
    parser.add_argument("--quick", action="store_true", help="3 rounds of 3 steps: does it run?")
    given = parser.parse_args(arguments)
    nets = tuple(given.nets.split(","))
    unknown = [name for name in nets if name not in NETS]
    if unknown:
        parser.error(f"there is no net {unknown[0]!r}, but {', '.join(NETS)}")
    if not given.program.is_file():
        parser.error(f"{given.program} is not there: make bench-programs builds it")
    rounds = given.rounds if given.rounds is not None else (3 if given.quick else 9)
    if rounds < 1:
        parser.error(f"--rounds must be at least 1, not {rounds}")
    return Plan(given.program.resolve(), nets, rounds, given.quick, given.device)


def main(arguments: Sequence[str] | None = None) -> int:
    plan = parse(arguments)
    for name in plan.nets:
        with tempfile.TemporaryDirectory() as folder:
            try:
                print(bench(name, plan, Path(folder)).line(), flush=True)
            except RankError as error:
                print(f"bench: {name}: {error}", file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
