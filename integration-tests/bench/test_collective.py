"""The benchmark's arithmetic, and its dealings with ranks that answer, fail, or stay silent."""

from __future__ import annotations

import re
import sys
import time
from typing import TYPE_CHECKING

import collective
import link
import pytest
import ranks
from figures import Figure, bus_bandwidth, median_ratio, size_in_bytes, size_name

if TYPE_CHECKING:
    from pathlib import Path

MEETS = "print('{}', flush=True); sys.stdin.readline(); print('{}', flush=True); sys.stdin.readline(); "


def group(*programs: str) -> ranks.Group:
    return ranks.start("fake", [[sys.executable, "-c", f"import sys, time; {program}"] for program in programs])


@pytest.mark.parametrize(("name", "size"), [("4KB", 4096), ("64kb", 65536), ("25MB", 25 << 20)])
def test_a_size_is_read_in_binary_units_and_written_back(name: str, size: int) -> None:
    assert size_in_bytes(name) == size
    assert size_name(size) == name.upper()


@pytest.mark.parametrize("name", ["", "4", "MB", "4GB", "0MB", "-1KB", "1.5MB"])
def test_anything_else_is_no_size(name: str) -> None:
    with pytest.raises(ValueError, match="a size is a whole number of KB or MB"):
        size_in_bytes(name)


def test_a_ratio_is_taken_within_each_round() -> None:
    """The machine slowed down tenfold after the first round: the medians' ratio would be 0.3."""
    assert median_ratio([30.0, 300.0, 300.0], [10.0, 100.0, 1000.0]) == 3.0


def test_rounds_without_a_counterpart_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        median_ratio([1.0, 2.0], [1.0])


def test_bus_bandwidth_is_the_same_for_all_worlds_at_the_bound() -> None:
    # 100 MB between 2 ranks: each sends and receives 100 MB. Between 4: 150 MB.
    assert bus_bandwidth(100_000_000, 10_000, 2) == pytest.approx(10.0)
    assert bus_bandwidth(100_000_000, 15_000, 4) == pytest.approx(10.0)


def test_the_order_turns_round_from_round_to_round() -> None:
    asked: list[str] = []

    def contestant(name: str) -> float:
        asked.append(name)
        return float(len(asked))

    found = collective.measure({name: lambda name=name: contestant(name) for name in "abc"}, 3)  # type: ignore[misc]
    assert "".join(asked) == "abccbaabc"
    assert found == {"a": [1, 6, 7], "b": [2, 5, 8], "c": [3, 4, 9]}


def test_lines_are_as_documented() -> None:
    found = {
        "gloo": [2000.0, 2200.0, 2100.0],
        "tcp": [1000.0, 1000.0, 1000.0],
        "shm": [500.0, 500.0, 500.0],
        "tls": [4000.0, 4000.0, 4000.0],
        "memcpy": [10.0, 10.0, 10.0],
    }
    lines = {name: collective.all_reduce_figure(name, 2, 1 << 20, found).line() for name in ("tcp", "shm", "tls")}
    assert lines == {
        "tcp": "all_reduce transport=tcp world=2 size=1MB ours_us=1000.0 gloo_us=2100.0 ratio=2.10",
        "shm": "all_reduce transport=shm world=2 size=1MB ours_us=500.0 gloo_us=2100.0 ratio=4.20 "
        "busbw_GBs=2.10 of_memcpy=0.21",
        "tls": "all_reduce transport=tls world=2 size=1MB ours_us=4000.0 gloo_us=2100.0 ratio=0.53 "
        "tcp_us=1000.0 ratio_to_tcp=0.25",
    }


def test_a_figure_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="ratio came out as nan"):
        Figure("all_reduce", {"ratio": float("nan")}).line()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--sizes", "4"], "a size is a whole number of KB or MB"),
        (["--worlds", "1"], "a world has 2 ranks or more"),
        (["--rounds", "0"], "must be a whole number from 1"),
        (["--transports", "pigeon"], "there is no transport 'pigeon'"),
        (["--transports", "tls"], "tls is compared with tcp"),
        (["--program", "nowhere"], "nowhere is not there"),
    ],
)
def test_wrong_options_are_refused_with_a_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        collective.parse(["--program", sys.executable, *arguments])
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err


def test_options_given_by_hand_win_over_quick(tmp_path: Path) -> None:
    plan = collective.parse(["--program", sys.executable, "--quick", "--rounds", "5", "--report", str(tmp_path / "r")])
    assert (plan.rounds, plan.sizes, plan.worlds) == (5, (4096, 1 << 20), (2,))


def test_a_rank_that_fails_is_quoted() -> None:
    with group(f"{MEETS} time.sleep(60)", f"{MEETS} sys.exit('out of luck')") as fake:
        fake.meet()
        with pytest.raises(ranks.RankError, match=re.compile("fake rank 1 ended with 1:.*out of luck", re.DOTALL)):
            fake.ask_all("all_reduce 4 1 full")


def test_a_rank_that_stays_silent_is_named_at_the_deadline() -> None:
    with group(f"{MEETS} print('{{}}', flush=True); time.sleep(60)", f"{MEETS} time.sleep(60)") as fake:
        fake.meet()
        with pytest.raises(ranks.RankError, match=r"no answer within 0 s from fake rank 1$"):
            fake.ask_all("all_reduce 4 1 full", timeout=0.4)


def test_no_rank_outlives_its_group() -> None:
    began = time.monotonic()
    with group("time.sleep(60)", "time.sleep(60)") as fake:
        pass
    assert all(rank.process.returncode is not None for rank in fake.ranks)
    assert time.monotonic() - began < 30


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(ranks.RankError, match="fake rank 0 cannot be started"):
        ranks.start("fake", [["/nowhere/collective_rank"]])


def test_a_link_that_cannot_be_made_is_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(link.NoLink, match="ip"), link.Link():
        pass


def test_gloo_answers_with_microseconds() -> None:
    with ranks.start_gloo(2) as gloo:
        gloo.meet()
        assert 1 < gloo.all_reduce(4096, 3) < 1e7
