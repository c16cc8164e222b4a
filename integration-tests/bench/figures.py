"""What the benchmark makes of its measurements: ratios within one round, and the lines and records they end up in.

Timings of one machine drift by more than what is compared, so nothing is ever divided that was not measured in the same
round. Every ratio is a reference's time over ours: above 1 we are faster.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

UNITS = {"KB": 1 << 10, "MB": 1 << 20}


def size_in_bytes(name: str) -> int:
    """The bytes of `4KB` or `25MB`: binary units, as the sizes of gradient buckets are given."""
    number, unit = name[:-2], name[-2:].upper()
    if unit not in UNITS or not number.isdecimal() or int(number) == 0:
        raise ValueError(f"a size is a whole number of KB or MB, such as 25MB, not {name!r}")
    return int(number) * UNITS[unit]


def size_name(size: int) -> str:
    """The reverse of `size_in_bytes`."""
    unit = "MB" if size % UNITS["MB"] == 0 else "KB"
    return f"{size // UNITS[unit]}{unit}"


def median_ratio(reference: Sequence[float], ours: Sequence[float]) -> float:
    """The median over rounds of reference / ours, each of one round."""
    return median(theirs / own for theirs, own in zip(reference, ours, strict=True))


def bus_bandwidth(size: int, microseconds: float, world: int) -> float:
    """GB/s that every rank must move in each direction, whatever the world: S / t * 2(n - 1) / n."""
    return size / microseconds / 1e3 * 2 * (world - 1) / world


def rounded(name: str, value: str | float) -> str:
    """A field's value as lines show it: tenths of a microsecond, hundredths of all else that is no whole number."""
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value):
        raise ValueError(f"{name} came out as {value}")
    return f"{value:.1f}" if name.endswith("_us") else f"{value:.2f}"


@dataclass(frozen=True)
class Figure:
    """A result: one line to read, one record to keep, with what every round measured."""

    kind: str
    fields: dict[str, str | float]
    rounds: dict[str, list[float]] = field(default_factory=dict)

    def line(self) -> str:
        return " ".join([self.kind, *(f"{name}={rounded(name, value)}" for name, value in self.fields.items())])

    def record(self) -> dict[str, Any]:
        return {"kind": self.kind, **self.fields, "rounds": self.rounds}
