"""One rank of torch.distributed over gloo, driven as `collective_rank` is: the rival in `collective.py`.

    gloo_rank.py RANK WORLD

Prints its endpoint, reads the roster, says when it has joined, then answers `all_reduce BYTES REPS full` with the
median. A rank that is not asked sleeps in a read of its standard input.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from datetime import timedelta
from typing import Any

TIMEOUT = timedelta(seconds=60)

# gloo writes about its connections to the standard output, which here belongs to the answers.
ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402

TCPStore = dist.TCPStore  # type: ignore[attr-defined]  # public, but not in the module's __all__


def say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), file=ANSWERS, flush=True)


def join(rank: int, world: int) -> None:
    """Rank 0 holds the store at which the others meet, on a port of the system's choice."""
    if rank == 0:
        store = TCPStore("127.0.0.1", 0, world, is_master=True, timeout=TIMEOUT, wait_for_workers=False)
        say({"host": "127.0.0.1", "port": store.port})
        sys.stdin.readline()
    else:
        say({"host": "127.0.0.1", "port": 0})
        first = json.loads(sys.stdin.readline())[0]
        store = TCPStore(first["host"], first["port"], world, timeout=TIMEOUT, wait_for_workers=False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=TIMEOUT)
    dist.barrier()
    say({"joined": world})


def all_reduce(size: int, repetitions: int) -> float:
    """Median microseconds of one all-reduce of f32 zeros; ranks begin together."""
    buffer = torch.zeros(size // 4)
    times = []
    # As many unmeasured ones as in collective_rank.
    unmeasured = 1 + repetitions // 10
    for _ in range(unmeasured + repetitions):
        dist.barrier()
        began = time.perf_counter()
        dist.all_reduce(buffer)
        times.append(time.perf_counter() - began)
    return statistics.median(times[unmeasured:]) * 1e6


def main() -> None:
    rank, world = int(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    join(rank, world)
    for line in iter(sys.stdin.readline, ""):
        match line.split():
            case ["all_reduce", size, repetitions, "full"]:
                say({"median_us": all_reduce(int(size), int(repetitions))})
            case _:
                raise ValueError(f"gloo has no answer to {line!r}")
    # The others may be gone already, and taking leave of them would wait for them.
    os._exit(0)


if __name__ == "__main__":
    main()
