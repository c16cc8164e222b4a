"""Keyword arguments checked by name: camelCase as in pyspark.ml, and a wrong name is answered with the right one."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# What the same setting is called elsewhere.
_ELSEWHERE = {
    "lr": "learningRate",
    "epochs": "maxEpochs",
    "num_epochs": "maxEpochs",
    "criterion": "loss",
    "sample_weight": "weightCol",
    "sample_weight_col": "weightCol",
    "class_weight": "classWeights",
    "num_proc": "numWorkers",
    "feature_cols": "inputCols",
    "label_cols": "labelCol",
    "validation": "validationFraction",
    "early_stopping": "earlyStoppingPatience",
    "patience": "earlyStoppingPatience",
    "monitor": "earlyStoppingMetric",
    "min_delta": "earlyStoppingMinDelta",
    "k": "topK",
    "eps": "epsilon",
    "out_features": "units",
    "p": "rate",
}


def camel_case(name: str) -> str:
    """`learning_rate` -> `learningRate`."""
    return re.sub(r"_+([a-zA-Z0-9])", lambda match: match.group(1).upper(), name.strip("_"))


def check(owner: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise a TypeError for the first name that `owner` does not know, with the name that was probably meant."""
    names = list(known)
    for name in given:
        if name in names:
            continue
        spelled = camel_case(name)
        meant = spelled if spelled in names else _ELSEWHERE.get(name, "")
        if meant not in names:
            meant = next(iter(get_close_matches(spelled, names, n=1)), "")
        hint = f"did you mean {meant!r}?" if meant else f"it takes {', '.join(sorted(names))}"
        raise TypeError(f"{owner} has no setting {name!r}: {hint}")
