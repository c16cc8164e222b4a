"""`make bench-collective`: the all-reduce between processes of this machine, against gloo's.

All groups of a world live at the same time, and those that are not asked sleep. A round measures every one of them,
briefly, the order turned round from one round to the next; what is compared was measured in the same round. So whatever
else happens on the machine meets all alike.

    all_reduce transport=tcp world=2 size=25MB ours_us=… gloo_us=… ratio=…

`ratio` is gloo's time over ours. Beside it stand the bounds of the same rounds: `memcpy` (one thread, each byte counted
once) and `loopback_duplex` (a bare pair of TCP sockets, each way while both are busy); shared memory is given as a part
of memcpy's speed. TLS is compared with plain TCP at the largest size, bf16 on the wire with f32 over a shaped link.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import link
from figures import Figure, bus_bandwidth, median_ratio, size_in_bytes, size_name
from ranks import Group, RankError, join, start_gloo, start_ours

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

ROOT = Path(__file__).resolve().parent.parent.parent
TRANSPORTS = ("tcp", "shm", "local", "tls")
MEGABYTE = size_in_bytes("1MB")

# A message of this size or less says nothing about bandwidth, nor does copying it in the first-level cache.
BANDWIDTH_FROM = MEGABYTE
# A 1 Gbit/s link takes a fifth of a second for 25 MB; more would show the same.
LINK_UP_TO = 25 * MEGABYTE


@dataclass(frozen=True)
class Plan:
    """What is measured, checked."""

    program: Path
    rounds: int
    sizes: tuple[int, ...]
    worlds: tuple[int, ...]
    transports: tuple[str, ...]
    sockets: int
    report: Path | None


@dataclass
class Results:
    """Prints as it collects: the whole takes minutes."""

    figures: list[Figure] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def add(self, figure: Figure) -> None:
        self.figures.append(figure)
        print(figure.line(), flush=True)

    def skip(self, what: str, reason: str) -> None:
        self.skipped.append(f"{what}: {reason}")
        print(f"skipped: {what}: {reason}", flush=True)


def repetitions(size: int) -> int:
    """How often within a round: long enough to have a median, short enough that a round is a moment."""
    if size < MEGABYTE:
        return 50
    return 20 if size < 10 * MEGABYTE else 3


def measure(contestants: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each contestant measured in each round. Who is first in one round is last in the next."""
    found: dict[str, list[float]] = {name: [] for name in contestants}
    order = list(contestants)
    for _ in range(rounds):
        for name in order:
            found[name].append(contestants[name]())
        order.reverse()
    return found


def all_reduce_figure(transport: str, world: int, size: int, found: Mapping[str, list[float]]) -> Figure:
    """One transport against gloo, and against its bound where it has one."""
    ours, gloo = found[transport], found["gloo"]
    fields: dict[str, str | float] = {
        "transport": transport,
        "world": world,
        "size": size_name(size),
        "ours_us": median(ours),
        "gloo_us": median(gloo),
        "ratio": median_ratio(gloo, ours),
    }
    rounds = {"ours_us": ours, "gloo_us": gloo}
    if transport == "shm" and "memcpy" in found:
        bandwidth = [bus_bandwidth(size, microseconds, world) for microseconds in ours]
        fields["busbw_GBs"] = median(bandwidth)
        fields["of_memcpy"] = median_ratio(bandwidth, found["memcpy"])
        rounds["memcpy_GBs"] = found["memcpy"]
    if transport == "tls":
        fields["tcp_us"] = median(found["tcp"])
        fields["ratio_to_tcp"] = median_ratio(found["tcp"], ours)
        rounds["tcp_us"] = found["tcp"]
    return Figure("all_reduce", fields, rounds)


def measure_world(plan: Plan, world: int, results: Results) -> None:
    with ExitStack() as stack:
        # gloo starts first and meets last: importing torch is what takes the time.
        gloo = stack.enter_context(start_gloo(world))
        groups = {"gloo": gloo, "loopback": stack.enter_context(start_ours(plan.program, "loopback", 2))}
        join(groups["loopback"], "loopback")
        for transport in plan.transports:
            groups[transport] = stack.enter_context(start_ours(plan.program, transport, world, plan.sockets))
            join(groups[transport], transport)
        gloo.meet()
        for size in plan.sizes:
            measure_size(plan, world, size, groups, results)


def contest(plan: Plan, size: int, groups: Mapping[str, Group]) -> dict[str, Callable[[], float]]:
    """Who is measured in the rounds of a size: microseconds of an all-reduce, GB/s of the two bounds."""
    count = repetitions(size)

    def all_reduce(group: Group) -> Callable[[], float]:
        return lambda: group.all_reduce(size, count)

    chosen = [name for name in ("gloo", *plan.transports) if name != "tls" or size == max(plan.sizes)]
    contestants = {name: all_reduce(groups[name]) for name in chosen}
    if size >= BANDWIDTH_FROM:
        bare = groups["loopback"]
        contestants["memcpy"] = lambda: float(bare.ask_first(f"memcpy {size} {count}")["median_GBs"])
        contestants["loopback"] = lambda: float(bare.ask_all(f"loopback {size} {count}")[0]["median_GBs"])
    return contestants


def measure_size(plan: Plan, world: int, size: int, groups: Mapping[str, Group], results: Results) -> None:
    found = measure(contest(plan, size, groups), plan.rounds)
    for transport in plan.transports:
        if transport in found:
            results.add(all_reduce_figure(transport, world, size, found))
    for name, kind, what in (("memcpy", "memcpy", "GBs"), ("loopback", "loopback_duplex", "GBs_each_way")):
        if name in found:
            fields: dict[str, str | float] = {what: median(found[name]), "world": world, "size": size_name(size)}
            results.add(Figure(kind, fields, {what: found[name]}))


def measure_link(plan: Plan, results: Results) -> None:
    """bf16 on the wire against f32, where the wire is what takes the time."""
    sizes = [size for size in plan.sizes if BANDWIDTH_FROM <= size <= LINK_UP_TO]
    if not sizes:
        results.skip(f"link={link.NAME}", "no size is between 1MB and 25MB")
        return
    with ExitStack() as stack:
        try:
            places = stack.enter_context(link.Link()).places
        except link.NoLink as reason:
            results.skip(f"link={link.NAME}", str(reason))
            return
        group = stack.enter_context(start_ours(plan.program, "tcp", len(places), plan.sockets, places))
        join(group, "tcp")
        for size in sizes:
            measure_wires(plan, size, group, results)


def measure_wires(plan: Plan, size: int, group: Group, results: Results) -> None:
    def all_reduce(wire: str) -> Callable[[], float]:
        return lambda: group.all_reduce(size, 3, wire)

    found = measure({wire: all_reduce(wire) for wire in ("full", "bf16")}, plan.rounds)
    fields: dict[str, str | float] = {
        "transport": "tcp",
        "link": link.NAME,
        "wire": "bf16",
        "world": len(group.ranks),
        "size": size_name(size),
        "ours_us": median(found["bf16"]),
        "full_us": median(found["full"]),
        "ratio_to_full": median_ratio(found["full"], found["bf16"]),
    }
    results.add(Figure("all_reduce", fields, {"ours_us": found["bf16"], "full_us": found["full"]}))


def machine() -> dict[str, Any]:
    """What a figure must be read with."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "torch": version("torch"),
        "load": os.getloadavg(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def write_report(path: Path, plan: Plan, before: dict[str, Any], results: Results) -> None:
    report = {
        "machine": before,
        "plan": {
            "rounds": plan.rounds,
            "sizes": [size_name(size) for size in plan.sizes],
            "worlds": plan.worlds,
            "transports": plan.transports,
            "sockets": plan.sockets,
        },
        "figures": [figure.record() for figure in results.figures],
        "skipped": results.skipped,
    }
    path.write_text(json.dumps(report, indent=1) + "\n")


def parse(arguments: Sequence[str] | None = None) -> Plan:
    parser = argparse.ArgumentParser(description="The all-reduce between processes of this machine, against gloo's.")

    def listed(convert: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
        def parse_list(text: str) -> tuple[Any, ...]:
            try:
                return tuple(convert(part) for part in text.split(","))
            except ValueError as error:
                raise argparse.ArgumentTypeError(str(error)) from error

        return parse_list

    def at_least(least: int) -> Callable[[str], int]:
        def parse_number(text: str) -> int:
            if not text.isdecimal() or int(text) < least:
                raise argparse.ArgumentTypeError(f"must be a whole number from {least}, not {text!r}")
            return int(text)

        return parse_number

    def transport(name: str) -> str:
        if name not in TRANSPORTS:
            raise ValueError(f"there is no transport {name!r}, but {', '.join(TRANSPORTS)}")
        return name

    def world(text: str) -> int:
        if not text.isdecimal() or int(text) < 2:
            raise ValueError(f"a world has 2 ranks or more, not {text!r}")
        return int(text)

    parser.add_argument(
        "--program", type=Path, default=ROOT / "build" / "collective_rank", help="the collective_rank to measure"
    )
    parser.add_argument("--rounds", type=at_least(1), help="rounds per size (9)")
    parser.add_argument("--sizes", type=listed(size_in_bytes), help="message sizes (4KB,64KB,1MB,25MB,100MB)")
    parser.add_argument("--worlds", type=listed(world), help="numbers of ranks (2,4)")
    parser.add_argument("--transports", type=listed(transport), default=TRANSPORTS, help=",".join(TRANSPORTS))
    parser.add_argument("--sockets", type=at_least(1), default=1, help="TCP connections per link (1)")
    parser.add_argument("--quick", action="store_true", help="3 rounds of 4KB and 1MB between 2 ranks: does it run?")
    parser.add_argument("--report", type=Path, help="write all figures to this file, as JSON")
    given = parser.parse_args(arguments)
    if "tls" in given.transports and "tcp" not in given.transports:
        parser.error("tls is compared with tcp, which is not among the transports")
    if not given.program.is_file():
        parser.error(f"{given.program} is not there: make bench-collective builds it")
    sizes = ("4KB", "1MB") if given.quick else ("4KB", "64KB", "1MB", "25MB", "100MB")
    return Plan(
        program=given.program.resolve(),
        rounds=given.rounds or (3 if given.quick else 9),
        sizes=given.sizes or tuple(map(size_in_bytes, sizes)),
        worlds=given.worlds or ((2,) if given.quick else (2, 4)),
        transports=given.transports,
        sockets=given.sockets,
        report=given.report,
    )


def end_in_order() -> None:
    """Makes signals end us through the blocks that stop the ranks and remove the namespaces, and lets those finish."""
    ending = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def end(number: int, _: object) -> None:
        for other in ending:
            signal.signal(other, signal.SIG_IGN)
        sys.exit(128 + number)

    for number in ending:
        signal.signal(number, end)


def main() -> int:
    plan, before, results = parse(), machine(), Results()
    end_in_order()
    try:
        for world in plan.worlds:
            measure_world(plan, world, results)
        if "tcp" in plan.transports:
            measure_link(plan, results)
    except RankError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    if plan.report is not None:
        write_report(plan.report, plan, before, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
