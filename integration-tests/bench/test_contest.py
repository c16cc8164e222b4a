"""The benchmarks of whole applications: their arguments, their contestants' data, and what happens when one fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

import contest
import fit
import pytest
import transform
import workload

if TYPE_CHECKING:
    from pathlib import Path


def test_an_unknown_system_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fit.parse(["--systems", "kindling,horovod"])
    assert "'horovod'" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--rows", "--batch", "--rounds"])
def test_a_number_below_one_is_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        transform.main([option, "0"])
    assert option in capsys.readouterr().err


def test_the_rows_are_the_same_for_every_contestant(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    first, again = (workload.read(workload.write(folder, 500)) for folder in (tmp_path, tmp_path / "again"))
    assert first[0].shape == (500, workload.WIDTH)
    assert (first[0] == again[0]).all()
    assert (first[1] == again[1]).all()
    assert set(first[1]) <= set(range(workload.CLASSES))


def test_a_line_counts_the_rows_of_all_epochs() -> None:
    line = fit.figure("ddp", 2, {"wall_s": 2.0, "loss": 0.25, "rows": 1000}, 1.5).line()
    assert line == f"fit system=ddp workers=2 wall_s=2.00 rows_per_s={workload.EPOCHS * 1000 / 1.5:.0f} loss=0.2500"


@pytest.mark.parametrize(
    ("program", "said"),
    [("import sys; sys.exit('no such luck')", "no such luck"), ("print('RESULT-less')", "ended with 0")],
)
def test_a_contestant_without_a_result_is_quoted(
    program: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.py").write_text(program)
    monkeypatch.setattr(contest, "CONTESTANTS", tmp_path)
    with pytest.raises(contest.ContestError, match=said):
        contest.run("broken.py", timeout=60)


def test_a_contestant_that_hangs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hanging.py").write_text("import time; time.sleep(60)")
    monkeypatch.setattr(contest, "CONTESTANTS", tmp_path)
    with pytest.raises(contest.ContestError, match=r"hanging\.py was still running"):
        contest.run("hanging.py", timeout=1)
