"""What a fit tells about itself afterwards."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

_ALWAYS = ("accuracy", "validationLoss", "validationAccuracy")
_ASKED = tuple(f"validation{name}" for name in ("TopK", "Precision", "Recall", "F1", "Auc", "Mae", "Rmse", "R2"))


@dataclass(frozen=True)
class TrainingSummary:
    """One finished run.

    `history` holds a dict per epoch: epoch (from 0), loss, accuracy, validationLoss, validationAccuracy, learningRate
    (of the epoch's last step, before a parameter group's own), skippedSteps (not taken, as gradients overflowed in
    fp16), rows, seconds, rowsPerSecond, and what else was asked for (validationAuc, ...); a metric that was not
    measured, or that the validation rows do not define, is None. `rows`, `validationRows` and `skippedRows` count the
    data once, however many epochs there were. `seconds` is all of `fit`; `communicationSeconds` is what the first
    worker waited for others, and `dataWaitSeconds` what it waited for its rows. `movedRows` rows (`movedBytes` bytes)
    were fetched from other executors before the first step. `bestEpoch` (from 0) validated best, if the run looked for
    it; `stoppedEarly` says that it ended before `maxEpochs`.
    """

    history: list[dict[str, Any]]
    rows: int
    validationRows: int
    skippedRows: int
    steps: int
    skippedSteps: int
    seconds: float
    trainingSeconds: float
    communicationSeconds: float
    dataWaitSeconds: float
    executors: int
    workers: int
    movedRows: int = 0
    movedBytes: int = 0
    stoppedEarly: bool = False
    bestEpoch: int | None = None

    @property
    def waitShare(self) -> float:
        """Share of the training in which the first worker waited for its rows."""
        return self.dataWaitSeconds / self.trainingSeconds if self.trainingSeconds > 0 else 0.0

    @classmethod
    def from_json(cls, text: str) -> TrainingSummary:
        """The summary that the model on the JVM side keeps."""
        run: dict[str, Any] = json.loads(text)
        # What was not measured is absent there; a loss that left the finite numbers has no JSON either.
        epochs = run.pop("epochs")
        names = [*_ALWAYS, *(name for name in _ASKED if any(name in epoch for epoch in epochs))]
        epochs = [{"loss": float("nan")} | dict.fromkeys(names) | epoch for epoch in epochs]
        return cls(history=epochs, rows=run.pop("totalRows"), **run)

    def __str__(self) -> str:
        metrics = [name for name in (*_ALWAYS, *_ASKED) if any(name in epoch for epoch in self.history)]
        head = ["epoch", "loss", *metrics, "learningRate", "rows/s"]
        body = [
            [
                str(epoch["epoch"] + 1),
                *(_number(epoch[name]) for name in ("loss", *metrics)),
                f"{epoch['learningRate']:.3g}",
                f"{epoch['rowsPerSecond']:,.0f}",
            ]
            for epoch in self.history
        ]
        # A metric that nobody measured has no column.
        shown = [i for i in range(len(head)) if any(row[i] for row in body)]
        widths = [max(len(row[i]) for row in [head, *body]) for i in range(len(head))]
        table = ["  ".join(row[i].rjust(widths[i]) for i in shown) for row in [head, *body]]
        skipped = f" ({self.skippedSteps} skipped)" if self.skippedSteps else ""
        total = (
            f"{self.rows} rows, {self.steps} steps{skipped}, {self.seconds:.1f} s"
            f" ({self.trainingSeconds:.1f} s training), {self.workers} workers on {self.executors} executors"
        )
        return "\n".join([*table, total])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
