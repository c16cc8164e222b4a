"""`make bench-spill`: an epoch over more rows than `shardMemory` holds, beside one over rows that fit.

    spill rows_mb=1536 budget_mb=2048 rows_per_s=… wait_share=… peak_mb=… of_budget=…
    spill rows_mb=20480 budget_mb=2048 rows_per_s=… wait_share=… peak_mb=… of_budget=…
    spill ratio_rate=…

Rows are generated, 520 bytes each, and trained by two workers of one process, an application each. `peak_mb` is what
the process had of anonymous and shared memory above what it had once a first, small fit was over, reading included, and
`of_budget` that in `shardMemory`. `ratio_rate` is the larger run's rows/s in training over the smaller's. The larger
run needs its rows' size in Spark's local directories; rows that are not in memory are read from there.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from contest import ContestError, run
from figures import Figure
from kindling import export
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH, HIDDEN, CLASSES = 128, 64, 10


def bench(small: int, large: int, budget: int) -> None:
    rates = []
    with tempfile.TemporaryDirectory() as name:
        program = Path(name) / "net.pt2"
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))
        export(net, (torch.zeros(4, WIDTH),), program)
        for megabytes in (small, large):
            found = run("spill_fit.py", program, megabytes, budget, timeout=7200)[-1]
            rates.append(found["rows_per_s"])
            fields: dict[str, str | float] = {"rows_mb": str(megabytes), "budget_mb": str(budget)}
            fields |= {name: found[name] for name in ("wall_s", "wait_share", "peak_mb", "of_budget")}
            print(Figure("spill", {**fields, "rows_per_s": f"{found['rows_per_s']:.0f}"}).line(), flush=True)
    print(Figure("spill", {"ratio_rate": rates[1] / rates[0]}).line(), flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Training on rows that do not fit into memory.")
    parser.add_argument("--small", type=int, default=1536, metavar="MB", help="rows that fit (1536)")
    parser.add_argument("--large", type=int, default=20 << 10, metavar="MB", help="rows that do not (20480)")
    parser.add_argument("--budget", type=int, default=2048, metavar="MB", help="shardMemory (2048)")
    given = parser.parse_args(arguments)
    try:
        bench(given.small, given.large, given.budget)
    except ContestError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
