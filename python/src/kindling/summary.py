"""What a fit tells about itself afterwards."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

_METRICS = ("accuracy", "validationLoss", "validationAccuracy")


@dataclass(frozen=True)
class TrainingSummary:
    """One finished run.

    `history` holds a dict per epoch: epoch (from 0), loss, accuracy, validationLoss, validationAccuracy, rows, seconds,
    rowsPerSecond; a metric that was not measured is None. `rows`, `validationRows` and `skippedRows` count the data
    once, however many epochs there were. `seconds` is all of `fit`; `communicationSeconds` is what the first worker
    waited for others.
    """

    history: list[dict[str, Any]]
    rows: int
    validationRows: int
    skippedRows: int
    steps: int
    seconds: float
    trainingSeconds: float
    communicationSeconds: float
    executors: int
    workers: int

    @classmethod
    def from_json(cls, text: str) -> TrainingSummary:
        """The summary that the model on the JVM side keeps."""
        run: dict[str, Any] = json.loads(text)
        # What was not measured is absent there; a loss that left the finite numbers has no JSON either.
        epochs = [{"loss": float("nan")} | dict.fromkeys(_METRICS) | epoch for epoch in run.pop("epochs")]
        return cls(history=epochs, rows=run.pop("totalRows"), **run)

    def __str__(self) -> str:
        head = ["epoch", "loss", *_METRICS, "rows/s"]
        body = [
            [
                str(epoch["epoch"] + 1),
                *(_number(epoch[name]) for name in ("loss", *_METRICS)),
                f"{epoch['rowsPerSecond']:,.0f}",
            ]
            for epoch in self.history
        ]
        # A metric that nobody measured has no column.
        shown = [i for i in range(len(head)) if any(row[i] for row in body)]
        widths = [max(len(row[i]) for row in [head, *body]) for i in range(len(head))]
        table = ["  ".join(row[i].rjust(widths[i]) for i in shown) for row in [head, *body]]
        total = (
            f"{self.rows} rows, {self.steps} steps, {self.seconds:.1f} s ({self.trainingSeconds:.1f} s training),"
            f" {self.workers} workers on {self.executors} executors"
        )
        return "\n".join([*table, total])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
