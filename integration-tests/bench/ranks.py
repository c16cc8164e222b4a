"""Processes that are driven by lines: a command in, a JSON object out.

Whoever waits for an answer has a deadline and says for whom it waited. A process that fails is quoted: its standard
error goes to a file, where it blocks nobody, and comes back with the error. Nothing outlives the block of its group.
"""

from __future__ import annotations

import json
import os
import secrets
import selectors
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Self

Answer = dict[str, Any]

GLOO_RANK = Path(__file__).resolve().parent / "gloo_rank.py"

# Importing torch in four processes at once takes a while on two cores.
START_SECONDS = 120.0
ANSWER_SECONDS = 300.0
# How long the other ranks have to notice that one is gone, so that the error can quote them too.
AFTERMATH_SECONDS = 3.0


class RankError(Exception):
    """A rank ended, or did not answer in time."""


class Rank:
    """One process."""

    def __init__(self, name: str, command: Sequence[str | Path], environment: dict[str, str] | None = None) -> None:
        self.name = name
        self._read = b""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in stop
        try:
            # In a session of its own: Ctrl-C is for the driver, which then ends the ranks.
            self.process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        except OSError as error:
            self._errors.close()
            raise RankError(f"{name} cannot be started: {error}") from error
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._input, self._output = self.process.stdin, self.process.stdout

    def fileno(self) -> int:
        """What to select on when waiting for an answer."""
        return self._output.fileno()

    def say(self, line: str) -> None:
        # A rank that is gone shows in the answer that does not come.
        with suppress(BrokenPipeError):
            self._input.write(f"{line}\n".encode())
            self._input.flush()

    def hear(self) -> str | None:
        """The next line, if it is complete with what can be read now."""
        come = os.read(self.fileno(), 1 << 16)
        if not come:
            raise EOFError
        self._read += come
        line, newline, rest = self._read.partition(b"\n")
        if not newline:
            return None
        self._read = rest
        return line.decode()

    def obituary(self, deadline: float) -> str | None:
        """How it ended and what it said last, if it has ended with an error before the deadline."""
        try:
            code = self.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return None
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()[-30:]
        return "\n  ".join([f"{self.name} ended with {code}:", *said])

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        for file in (self._input, self._output, self._errors):
            with suppress(BrokenPipeError):  # what was said last and never read
                file.close()


class Group:
    """The ranks of one process group, which have met."""

    def __init__(self, name: str, ranks: Sequence[Rank]) -> None:
        self.name = name
        self.ranks = list(ranks)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for rank in self.ranks:
            rank.stop()

    def meet(self) -> list[Answer]:
        """Collects the endpoints, hands the roster round, and returns what the ranks say when they have joined."""
        endpoints = self._answers(self.ranks, START_SECONDS)
        for rank in self.ranks:
            rank.say(json.dumps(endpoints))
        return self.joined()

    def joined(self) -> list[Answer]:
        """What the ranks say when they have joined; ranks that are all one process know their roster."""
        return self._answers(self.ranks, START_SECONDS)

    def ask_all(self, command: str, timeout: float = ANSWER_SECONDS) -> list[Answer]:
        """The same command to every rank; their answers in rank order."""
        for rank in self.ranks:
            rank.say(command)
        return self._answers(self.ranks, timeout)

    def ask_first(self, command: str, timeout: float = ANSWER_SECONDS) -> Answer:
        """A command to rank 0 alone."""
        self.ranks[0].say(command)
        return self._answers(self.ranks[:1], timeout)[0]

    def all_reduce(self, size: int, repetitions: int, wire: str = "full") -> float:
        """Median microseconds of rank 0."""
        return float(self.ask_all(f"all_reduce {size} {repetitions} {wire}")[0]["median_us"])

    def _answers(self, ranks: Sequence[Rank], timeout: float) -> list[Answer]:
        deadline = time.monotonic() + timeout
        answers: dict[str, Answer] = {}
        with selectors.DefaultSelector() as selector:
            for rank in ranks:
                selector.register(rank, selectors.EVENT_READ, rank)
            while len(answers) < len(ranks):
                ready: list[Rank] = [key.data for key, _ in selector.select(deadline - time.monotonic())]
                if not ready and time.monotonic() >= deadline:
                    silent = ", ".join(rank.name for rank in ranks if rank.name not in answers)
                    raise RankError(f"no answer within {timeout:.0f} s from {silent}{self._obituaries(0.0)}")
                for rank in ready:
                    try:
                        line = rank.hear()
                    except EOFError:
                        raise RankError(f"{self.name} failed{self._obituaries(AFTERMATH_SECONDS)}") from None
                    if line is not None:
                        answers[rank.name] = json.loads(line)
                        selector.unregister(rank)
        return [answers[rank.name] for rank in ranks]

    def _obituaries(self, timeout: float) -> str:
        deadline = time.monotonic() + timeout
        ended = filter(None, [rank.obituary(deadline) for rank in self.ranks])
        return "".join(f"\n{text}" for text in ended)


def start(name: str, commands: Sequence[Sequence[str | Path]], environment: dict[str, str] | None = None) -> Group:
    """Starts a process per command. They have yet to meet."""
    group = Group(name, [])
    try:
        for number, command in enumerate(commands):
            group.ranks.append(Rank(f"{name} rank {number}", command, environment))
    except BaseException:
        group.__exit__()
        raise
    return group


def start_gloo(world: int) -> Group:
    """A gloo group of torch.distributed, one thread each, on the loopback interface."""
    commands: list[list[str | Path]] = [[sys.executable, GLOO_RANK, str(rank), str(world)] for rank in range(world)]
    # gloo would listen at the address that the machine's name resolves to, whatever that is.
    return start("gloo", commands, {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"})


def start_ours(
    program: Path, transport: str, world: int, sockets: int = 1, places: Sequence[tuple[Sequence[str], str]] = ()
) -> Group:
    """A group of ours. `places` has, for each rank, what stands before its command, and its host's address."""
    secret = secrets.token_hex(32)
    encrypted = transport == "tls"
    flags = ["--transport", "tcp" if encrypted else transport, "--sockets", str(sockets)]
    if encrypted:
        flags.append("--encrypted")
    processes = 1 if transport == "local" else world
    commands: list[list[str | Path]] = []
    for rank in range(processes):
        before, host = places[rank] if places else ([], "127.0.0.1")
        commands.append([*before, program, str(rank), str(world), secret, *flags, "--host", host])
    return start(transport, commands)


def join(group: Group, transport: str) -> None:
    """Lets the ranks of a group of ours meet, by the transport that was asked for and no other."""
    answers = group.joined() if transport == "local" else group.meet()
    if any(answer["shared_memory"] != (transport == "shm") for answer in answers):
        raise RankError(f"{transport}: not what would be measured, by what the ranks say of shared memory: {answers}")
