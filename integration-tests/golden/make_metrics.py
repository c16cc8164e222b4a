"""Write down what scikit-learn makes of each metric: `metrics.safetensors`.

For every case `<name>` there are `<name>.o` (the output that is judged, float64), `<name>.y` (the labels) and
`<name>.w` (weights of rows, some of them 0). The metadata holds the loss in Kindling's terms with the expected values,
`plain` and `weighted`.

    python make_metrics.py            write the file beside this script
    python make_metrics.py --check    compute again and compare instead (no writing)
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from sklearn import metrics as sk
from torch import Tensor

PATH = Path(__file__).resolve().parent / "metrics.safetensors"
ROWS, TOP_K = 60, 2

Values = dict[str, float]


def answered(truth: Tensor, answer: Tensor, weights: Tensor, classes: int) -> Values:
    """Class 1 is the positive one of two; of more, the mean over those that occur."""
    average = "binary" if classes == 2 else "macro"
    y, found, w = truth.numpy(), answer.numpy(), weights.numpy()
    more = {"sample_weight": w, "average": average, "zero_division": 0}
    return {
        "accuracy": float(sk.accuracy_score(y, found, sample_weight=w)),
        "precision": float(sk.precision_score(y, found, **more)),
        "recall": float(sk.recall_score(y, found, **more)),
        "f1": float(sk.f1_score(y, found, **more)),
    }


def of_classes(output: Tensor, labels: Tensor, weights: Tensor, ignored: int | None) -> Values:
    classes = output.shape[1]
    logits = output.reshape(ROWS, classes, -1).movedim(1, 2).reshape(-1, classes)
    truth, w = labels.reshape(-1), weights.repeat_interleave(len(logits) // ROWS)
    if ignored is not None:
        kept = truth != ignored
        logits, truth, w = logits[kept], truth[kept], w[kept]
    values = answered(truth, logits.argmax(1), w, classes)
    if classes > TOP_K:
        names = list(range(classes))
        values["topK"] = float(
            sk.top_k_accuracy_score(truth.numpy(), logits.numpy(), k=TOP_K, sample_weight=w.numpy(), labels=names)
        )
    if classes == 2:
        score = (logits[:, 1] - logits[:, 0]).numpy()
        values["auc"] = float(sk.roc_auc_score(truth.numpy(), score, sample_weight=w.numpy()))
    return values


def of_yes_no(output: Tensor, labels: Tensor, weights: Tensor, boundary: float) -> Values:
    w = weights.repeat_interleave(output.shape[1])
    truth, score = (labels.reshape(-1) > 0).long(), output.reshape(-1)
    auc = float(sk.roc_auc_score(truth.numpy(), score.numpy(), sample_weight=w.numpy()))
    return answered(truth, (score > boundary).long(), w, 2) | {"auc": auc}


def of_numbers(output: Tensor, labels: Tensor, weights: Tensor) -> Values:
    y, found, w = labels.numpy(), output.numpy(), weights.numpy()
    return {
        "mae": float(sk.mean_absolute_error(y, found, sample_weight=w)),
        "rmse": float(sk.mean_squared_error(y, found, sample_weight=w)) ** 0.5,
        "r2": float(sk.r2_score(y, found, sample_weight=w)),
    }


def cases() -> dict[str, tuple[dict[str, Any], Tensor, Tensor, Any]]:
    """By name: the loss, the output, the labels, and what scikit-learn says of them with the given weights."""
    torch.manual_seed(3)

    def outputs(*shape: int) -> Tensor:
        return torch.randn(ROWS, *shape, dtype=torch.float64)

    def tied(*shape: int) -> Tensor:
        return (outputs(*shape) * 4).round() / 4  # many equal scores

    def classes(count: int, *shape: int) -> Tensor:
        return torch.randint(count, (ROWS, *shape))

    some = classes(3)
    some[::7] = -1
    rare = classes(4)  # of five classes, of which the last is neither there nor answered
    never = outputs(5)
    never[:, 4] = -9
    large = 1e6 + outputs(3)
    cross, yes = {"name": "crossEntropy"}, {"name": "binaryCrossEntropyWithLogits"}
    three, two, positions, one, four, margin, rate = (
        *(outputs(3), tied(2), outputs(3, 4), tied(1)),
        *(tied(4).sigmoid(), tied(1), 0.5 * outputs(1)),
    )
    return {
        "classes": (cross, three, (y := classes(3)), lambda w: of_classes(three, y, w, None)),
        "ignored": (cross | {"ignoreIndex": -1}, three, some, lambda w: of_classes(three, some, w, -1)),
        "two": (cross, two, (y2 := classes(2)), lambda w: of_classes(two, y2, w, None)),
        "positions": (cross, positions, (y3 := classes(3, 4)), lambda w: of_classes(positions, y3, w, None)),
        "absent": ({"name": "categoricalHinge"}, never, rare, lambda w: of_classes(never, rare, w, None)),
        "yes": (yes, one, (y4 := classes(2, 1).double()), lambda w: of_yes_no(one, y4, w, 0.0)),
        "several": (
            {"name": "binaryCrossEntropy"},
            four,
            (y5 := classes(2, 4).double()),
            lambda w: of_yes_no(four, y5, w, 0.5),
        ),
        "signs": (
            {"name": "hinge"},
            margin,
            (y6 := 2 * classes(2, 1).double() - 1),
            lambda w: of_yes_no(margin, y6, w, 0.0),
        ),
        # Large and close together: sums of squares would have no digit left.
        "numbers": ({"name": "mse"}, (o7 := large + 0.5 * outputs(3)), large, lambda w: of_numbers(o7, large, w)),
        "rates": (
            {"name": "poisson"},
            rate,
            (y8 := classes(4, 1).double()),
            lambda w: of_numbers(rate.exp(), y8, w),
        ),
    }


def record() -> tuple[dict[str, Tensor], dict[str, str]]:
    tensors: dict[str, Tensor] = {}
    settings = {}
    for name, (loss, output, labels, expected) in cases().items():
        weights = torch.randint(4, (ROWS,)).double()
        tensors |= {f"{name}.o": output, f"{name}.y": labels, f"{name}.w": weights}
        plain, weighted = expected(torch.ones(ROWS, dtype=torch.float64)), expected(weights)
        settings[name] = json.dumps({"loss": loss, "plain": plain, "weighted": weighted})
    # Cloned: a file may not hold one memory under two names.
    return {name: tensor.contiguous().clone() for name, tensor in tensors.items()}, settings


def differences(found: dict[str, str], stored: dict[str, str]) -> float:
    worst = 0.0
    for name, text in found.items():
        ours, theirs = json.loads(text), json.loads(stored[name])
        for kind in ("plain", "weighted"):
            worst = max([worst, *(abs(value - theirs[kind][metric]) for metric, value in ours[kind].items())])
    return worst


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the file instead of writing it")
    torch.set_num_threads(1)
    tensors, settings = record()
    if not parser.parse_args().check:
        save_file(tensors, PATH, settings | {"topK": str(TOP_K), "torch": torch.__version__.partition("+")[0]})
        return 0
    from safetensors import safe_open

    stored = load_file(PATH)
    with safe_open(PATH, "pt") as file:
        worst = differences(settings, file.metadata())
    worst = max(
        [worst, *((stored[name].double() - value.double()).abs().max().item() for name, value in tensors.items())]
    )
    print(f"{PATH.name}: differs by {worst:.1e}")
    return int(worst > 1e-12)


if __name__ == "__main__":
    sys.exit(main())
