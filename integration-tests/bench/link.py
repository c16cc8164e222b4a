"""A link as slow as a data centre's cheapest: two network namespaces, joined by a pair of virtual interfaces, shaped.

Nothing of it is seen outside: the pair is made inside the first namespace, and the addresses exist in the two alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Self

RATE = "1gbit"
NAME = "1Gbit"
INTERFACE = "kindling"
COMMAND_SECONDS = 10.0


class NoLink(Exception):  # noqa: N818 - a reason to skip, not a failure
    """Making one is not possible here. The text says why."""


def run(*command: str) -> None:
    try:
        # In a session of its own: a Ctrl-C must not stop the removal of a namespace.
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False, start_new_session=True
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoLink(str(error)) from error
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise NoLink(f"{' '.join(command)}: {said[0] if said else f'ended with {done.returncode}'}")


class Link:
    """The two namespaces, while the block lasts. `places` are for `start_ours`."""

    def __init__(self) -> None:
        # The process id makes the names this run's own.
        self._names = [f"kindling-{os.getpid()}-{end}" for end in range(2)]
        self._addresses = ["10.91.0.1", "10.91.0.2"]
        self._made: list[str] = []

    @property
    def places(self) -> list[tuple[Sequence[str], str]]:
        return [
            (("ip", "netns", "exec", name), address) for name, address in zip(self._names, self._addresses, strict=True)
        ]

    def __enter__(self) -> Self:
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _make(self) -> None:
        for name in self._names:
            # Noted before it is there: an interrupt in between must not leave it behind.
            self._made.append(name)
            run("ip", "netns", "add", name)
        first, second = self._names
        run(*f"ip -n {first} link add {INTERFACE} type veth peer name {INTERFACE} netns {second}".split())
        for name, address in zip(self._names, self._addresses, strict=True):
            run(*f"ip -n {name} address add {address}/30 dev {INTERFACE}".split())
            run(*f"ip -n {name} link set lo up".split())
            run(*f"ip -n {name} link set {INTERFACE} up".split())
            # Each end shapes what it sends: the link is as fast in both directions. The burst is what the shaper may
            # let pass at once between two ticks, the latency how long its queue may grow before it drops.
            run(*f"tc -n {name} qdisc add dev {INTERFACE} root tbf rate {RATE} burst 256kb latency 50ms".split())

    def __exit__(self, *_: object) -> None:
        """A namespace takes its interfaces with it. One that was not made after all cannot be deleted, and need not."""
        while self._made:
            name = self._made.pop()
            try:
                run("ip", "netns", "delete", name)
            except NoLink as error:
                if "No such file" not in str(error):
                    print(f"bench: the network namespace {name} is left behind: {error}", file=sys.stderr)
