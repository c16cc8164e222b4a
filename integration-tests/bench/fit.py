"""`make bench-fit`: a whole `fit` from a DataFrame, against what Spark teams use today.

The same rows, net, optimizer, epochs and rows per worker and step for all, one after the other, on `local[2]`:

    fit system=kindling-warm workers=2 wall_s=… rows_per_s=… loss=…
    fit ratio_torchdistributor=… ratio_elephas=… ratio_ddp=…

`kindling-cold` is the first fit of a process, `kindling-warm` the second; `wall_s` is all of `fit`, reading included,
and `rows_per_s` is what training alone does. `torchdistributor` and `elephas` are timed likewise; `ddp` and `floor`
(two processes that compute and never talk) have their data in memory and are timed in training alone. Ratios are a
system's wall time over that of the warm fit; `ratio_workers` is what two workers train per second over what one does,
`of_floor` the time of the floor over that of Kindling's training.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "contestants"))

import workload
from contest import ContestError, environment, run
from figures import Figure
from kindling import export

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HERE = Path(__file__).resolve().parent
SYSTEMS = ("kindling", "torchdistributor", "elephas", "ddp", "floor")


def figure(system: str, workers: int, found: dict[str, Any], seconds: float) -> Figure:
    """One line; `seconds` is the time in which `EPOCHS` passes were made."""
    fields: dict[str, str | float] = {
        "system": system,
        "workers": workers,
        "wall_s": float(found["wall_s"]),
        "rows_per_s": f"{workload.EPOCHS * found['rows'] / seconds:.0f}",
        "loss": f"{found['loss']:.4f}",
    }
    return Figure("fit", fields)


def kindling(data: Path, program: Path, workers: int) -> dict[str, dict[str, Any]]:
    fits = {entry["name"]: entry for entry in run("kindling_fit.py", data, program, workers)}
    for name, entry in fits.items():
        print(figure(f"kindling-{name}", workers, entry, entry["training_s"]).line(), flush=True)
    return fits


def rival(system: str, script: str, arguments: Sequence[object], **options: Any) -> dict[str, Any]:
    found = run(script, *arguments, **options)[-1]
    print(figure(system, workload.WORKERS, found, found["wall_s"]).line(), flush=True)
    return found


def bench(rows: int, systems: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data, program = workload.write(folder, rows), folder / "net.pt2"
        import torch

        export(workload.net(), (torch.zeros(4, workload.WIDTH),), program)
        rivals: dict[str, Callable[[], dict[str, Any]]] = {
            "torchdistributor": lambda: rival("torchdistributor", "torch_distributor_fit.py", [data]),
            "elephas": lambda: rival(
                "elephas", "elephas_fit.py", [data], python=environment(HERE / "elephas-requirements.txt")
            ),
            "ddp": lambda: rival("ddp", "pytorch_fit.py", [data, "ddp"]),
            "floor": lambda: rival("floor", "pytorch_fit.py", [data, "floor"]),
        }
        ours = {workers: kindling(data, program, workers)["warm"] for workers in (1, workload.WORKERS)}
        found = {system: rivals[system]() for system in systems if system in rivals}
        warm = ours[workload.WORKERS]
        ratios = {
            f"ratio_{system}": entry["wall_s"] / warm["wall_s"] for system, entry in found.items() if system != "floor"
        }
        ratios["ratio_workers"] = ours[1]["training_s"] / warm["training_s"]
        if "floor" in found:
            ratios["of_floor"] = found["floor"]["wall_s"] / warm["training_s"]
        print(Figure("fit", dict(ratios)).line(), flush=True)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A fit in Kindling against TorchDistributor, Elephas and DDP.")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the data (1,000,000)")
    parser.add_argument("--systems", default=",".join(SYSTEMS), help="which of " + ",".join(SYSTEMS))
    given = parser.parse_args(arguments)
    if given.rows < 1:
        parser.error(f"--rows must be at least 1, not {given.rows}")
    given.systems = given.systems.split(",")
    unknown = [system for system in given.systems if system not in SYSTEMS]
    if unknown:
        parser.error(f"there is no system {unknown[0]!r}, but {', '.join(SYSTEMS)}")
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    given = parse(arguments)
    try:
        bench(given.rows, given.systems)
    except ContestError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
