"""`make bench-transform`: rows that `transform` predicts per second, against Spark's `predict_batch_udf` in PyTorch.

    transform system=kindling rows_per_s=…
    transform system=predict_batch_udf rows_per_s=…
    transform ratio=… max_difference=…

Both take turns in one application on `local[2]`; the figures are medians over rounds, `ratio` is ours over the other's
within a round. `max_difference` is the largest difference of a probability between the two.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent / "contestants"))

import workload
from contest import ContestError, run
from figures import Figure, median_ratio
from kindling import export

if TYPE_CHECKING:
    from collections.abc import Sequence

SYSTEMS = ("kindling", "predict_batch_udf")


def bench(rows: int, batch: int, rounds: int) -> None:
    import torch

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data, program = workload.write(folder, rows), folder / "net.pt2"
        export(workload.net(), (torch.zeros(4, workload.WIDTH),), program)
        results = run("transform_in_turns.py", data, program, batch, rounds)
    found = {system: [entry["rows_per_s"] for entry in results if entry["name"] == system] for system in SYSTEMS}
    difference = next(entry["value"] for entry in results if entry["name"] == "difference")
    for system, speeds in found.items():
        print(Figure("transform", {"system": system, "rows_per_s": f"{median(speeds):.0f}"}).line(), flush=True)
    ratio = median_ratio(found["kindling"], found["predict_batch_udf"])
    print(Figure("transform", {"ratio": ratio, "max_difference": f"{difference:.1e}"}).line(), flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="transform against predict_batch_udf.")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the data (1,000,000)")
    parser.add_argument("--batch", type=int, default=1024, help="rows of a batch of both (1024)")
    parser.add_argument("--rounds", type=int, default=9, help="rounds (9)")
    given = parser.parse_args(arguments)
    for name in ("rows", "batch", "rounds"):
        if getattr(given, name) < 1:
            parser.error(f"--{name} must be at least 1, not {getattr(given, name)}")
    try:
        bench(given.rows, given.batch, given.rounds)
    except ContestError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
