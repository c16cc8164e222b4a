"""The benchmark of training steps: its arithmetic, its nets, and one short run of the whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import programs
import pytest
import torch
from nets import NETS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STEPS = programs.ROOT / "build" / "kindling-steps"


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_differences_are_relative_and_the_largest_counts() -> None:
    assert programs.difference([1.0, 2.2, 3.0], [1.0, 2.0, 3.0]) == pytest.approx(0.1)


def test_unequal_numbers_of_losses_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        programs.difference([1.0], [1.0, 2.0])


@pytest.mark.parametrize("name", NETS)
def test_batches_are_fresh_in_every_step_and_the_same_in_every_process(name: str) -> None:
    first, again = NETS[name].batches(3), NETS[name].batches(3)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["x0"][0], first["x0"][1])
    assert first["y"].shape == (3, NETS[name].rows)


def test_an_unknown_net_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        programs.parse(["--nets", "mlp,vgg", "--program", __file__])
    assert "'vgg'" in capsys.readouterr().err


@pytest.mark.skipif(not STEPS.is_file(), reason="make native builds kindling-steps")
def test_a_short_run_gives_a_line_with_equal_losses(capsys: pytest.CaptureFixture[str]) -> None:
    assert programs.main(["--quick", "--nets", "mlp", "--program", str(STEPS)]) == 0
    line = capsys.readouterr().out.split()
    assert line[:2] == ["program", "name=mlp"]
    fields = dict(field.split("=") for field in line[1:])
    # The same operators on the same numbers, and an optimizer that rounds every element as PyTorch's fused one does.
    assert float(fields["max_loss_diff"]) == 0
    assert all(float(fields[key]) > 0 for key in ("ours_us", "python_fused_us", "python_default_us", "ratio"))


def test_a_process_that_fails_is_quoted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho no such luck >&2\nexit 3\n")
    broken.chmod(0o755)
    assert programs.main(["--quick", "--nets", "mlp", "--program", str(broken)]) == 1
    assert "no such luck" in capsys.readouterr().err
