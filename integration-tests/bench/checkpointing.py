"""`make bench-checkpointing`: memory and time of a step with `activationCheckpointing`, against none.

Each net is exported once and trained by one process per choice, from the same weights on the same batches, with one
thread each. They take turns, a step at a time, the order turned round from one round to the next.

    checkpointing net=bert choice=auto ours_us=… time_ratio=… peak_mb=… mapped_us=… mapped_peak_mb=… same_losses=yes

`time_ratio` is to `none`, the median over rounds; the peaks are those of resident memory above what each process had
once the model was loaded. `mapped` is a second process with `MALLOC_MMAP_THRESHOLD_=1048576`: glibc holds on to much of
what is freed, unless large tensors are mapped each by itself.
`same_losses` says whether every loss has the same bits.
"""

from __future__ import annotations

import argparse
import json
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
from nets import CLASSES, Bert
from programs import ROOT, libraries
from ranks import Group, RankError, start
from safetensors.torch import save_file
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

WARM_UP = 1
MAPPED = " mapped"


def deep() -> nn.Module:
    """24 layers of 256: all of its activations are alike."""
    layers = [layer for _ in range(24) for layer in (nn.Linear(256, 256), nn.LayerNorm(256), nn.GELU())]
    return nn.Sequential(*layers, nn.Linear(256, CLASSES))


def rows(steps: int) -> dict[str, Tensor]:
    return {"x0": torch.randn(steps, 2048, 256), "y": torch.randint(0, CLASSES, (steps, 2048))}


def sentences(steps: int) -> dict[str, Tensor]:
    return {
        "x0": torch.randint(0, 1000, (steps, 32, 128)),
        "x1": torch.ones(steps, 32, 128, dtype=torch.int64),
        "y": torch.randint(0, CLASSES, (steps, 32)),
    }


@dataclass(frozen=True)
class Net:
    """A net and what its batches look like."""

    module: Callable[[], nn.Module]
    batches: Callable[[int], dict[str, Tensor]]
    modules: str  # each of which is a segment


NETS = {
    "bert": Net(lambda: Bert(layers=8), sentences, "m.bert.encoder.layer.*"),
    "mlp": Net(deep, rows, "*"),
}


def choices(name: str) -> dict[str, object]:
    """What is compared, none first."""
    some: dict[str, object] = {"none": "none", "auto": "auto", "4": 4}
    return some if name == "mlp" else some | {"modules": [NETS[name].modules]}


def contestant(program: Path, folder: Path, choice: object, mapped: bool) -> Group:
    settings = json.dumps({"activationCheckpointing": choice})
    command: list[str | Path] = [program, folder / "program.pt2", folder / "batches", settings]
    malloc = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)} if mapped else {}
    group = start("ours", [command], {"OMP_NUM_THREADS": "1", "LD_LIBRARY_PATH": libraries()} | malloc)
    try:
        group.joined()
    except BaseException:
        group.__exit__()
        raise
    return group


def bench(name: str, program: Path, rounds: int, folder: Path) -> list[Figure]:
    net = NETS[name]
    torch.manual_seed(0)
    batches = net.batches(WARM_UP + rounds)
    example = tuple(batches[f"x{i}"][0] for i in range(len(batches) - 1))
    save_file(batches, folder / "batches")
    export(net.module(), example, folder / "program.pt2")
    with ExitStack() as stack:
        groups = {
            choice + suffix: stack.enter_context(contestant(program, folder, value, bool(suffix)))
            for choice, value in choices(name).items()
            for suffix in ("", MAPPED)
        }
        losses: dict[str, list[float]] = {choice: [] for choice in groups}

        def train(choice: str) -> float:
            answer = groups[choice].ask_first("steps 1")
            losses[choice] += answer["losses"]
            return float(answer["seconds"]) * 1e6

        def asked(choice: str) -> Callable[[], float]:
            return lambda: train(choice)

        for choice in groups:
            train(choice)
        found = measure({choice: asked(choice) for choice in groups}, rounds)
        peaks = {choice: float(group.ask_first("peak")["peak_mb"]) for choice, group in groups.items()}

    def figure(choice: str) -> Figure:
        fields: dict[str, str | float] = {
            "net": name,
            "choice": choice,
            "ours_us": median(found[choice]),
            "time_ratio": median_ratio(found[choice], found["none"]),
            "peak_mb": peaks[choice],
            "mapped_us": median(found[choice + MAPPED]),
            "mapped_peak_mb": peaks[choice + MAPPED],
            "same_losses": "yes" if losses[choice] == losses["none"] == losses[choice + MAPPED] else "no",
        }
        return Figure("checkpointing", fields, {kind: found[kind] for kind in (choice, choice + MAPPED)})

    return [figure(choice) for choice in choices(name)]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Memory and time of a step with activation checkpointing.")
    parser.add_argument(
        "--program", type=Path, default=ROOT / "build" / "kindling-steps", help="the kindling-steps to measure"
    )
    parser.add_argument("--nets", default=",".join(NETS), help=f"which nets ({','.join(NETS)})")
    parser.add_argument("--rounds", type=int, default=9, help="rounds (9)")
    given = parser.parse_args(arguments)
    if not given.program.is_file():
        parser.error(f"{given.program} is not there: make bench-checkpointing builds it")
    if given.rounds < 1:
        parser.error(f"--rounds must be at least 1, not {given.rounds}")
    nets = given.nets.split(",")
    if unknown := [name for name in nets if name not in NETS]:
        parser.error(f"there is no net {unknown[0]!r}, but {', '.join(NETS)}")
    for name in nets:
        with tempfile.TemporaryDirectory() as folder:
            try:
                for figure in bench(name, given.program.resolve(), given.rounds, Path(folder)):
                    print(figure.line(), flush=True)
            except RankError as error:
                print(f"bench: {name}: {error}", file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
