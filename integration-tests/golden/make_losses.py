"""Write down what PyTorch and Keras make of each loss, as values and gradients: `losses.safetensors`.

For every case `<name>` there are `<name>.o<i>` (the program's outputs, float64), `<name>.y` (the labels, if the loss
takes any), `<name>.value` and `<name>.g<i>` (the gradients). The metadata holds the settings in Kindling's terms.

`<name>.w`, `<name>.wvalue` and `<name>.wg<i>` are the same with sample weights. The weights are whole numbers, and
what they mean is taken literally: a row of weight 3 is there three times, one of weight 0 not at all, and PyTorch's
mean over those rows is the expected value. Nothing here multiplies a loss by a weight.

    python make_losses.py            write the file beside this script
    python make_losses.py --check    compute again and compare instead (no writing)
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import torch
import torch.nn.functional as F  # noqa: N812 - what everybody calls it
from safetensors.torch import load_file, save_file
from torch import Tensor

PATH = Path(__file__).resolve().parent / "losses.safetensors"
ROWS, CLASSES, TIME, WIDTH = 7, 5, 6, 3
WEIGHTS = torch.tensor([2, 0, 1, 3, 1, 0, 2])
CLASS_WEIGHTS = [0.5, 1.0, 2.0, 0.0, 1.5]
BLANK, PADDING = 0, -1

Judge = Callable[[list[Tensor], Any], Tensor]


@dataclass(frozen=True)
class Case:
    """A loss with its settings, what it is fed, and PyTorch's mean over a batch."""

    name: str
    loss: dict[str, Any]
    outputs: list[Tensor]
    labels: Tensor | None
    mean: Judge = field(repr=False)


def logits(*shape: int) -> Tensor:
    return torch.randn(ROWS, *shape, dtype=torch.float64)


def ctc(time: int, zero_infinity: bool) -> Judge:
    def mean(outputs: list[Tensor], y: Tensor) -> Tensor:
        lengths = ((y != BLANK) & (y != PADDING)).sum(1)
        times = torch.full((len(y),), time)
        steps = outputs[0].log_softmax(2).transpose(0, 1)
        labels = y.clamp_min(0)
        loss: Tensor = F.ctc_loss(steps, labels, times, lengths, blank=BLANK, zero_infinity=zero_infinity)
        return loss

    return mean


def beside(keras_loss: Any, formula: Judge) -> Judge:
    """A formula that gives what Keras does, which rounds to float32 on the way whatever it is given."""

    def mean(outputs: list[Tensor], y: Tensor) -> Tensor:
        value = formula(outputs, y)
        rounded = float(keras_loss(y, outputs[0].detach()).mean())
        assert abs(value.item() - rounded) < 1e-6, f"Keras says {rounded}"
        return value

    return mean


def hinge(power: int) -> Judge:
    return lambda o, y: (1 - torch.where(y > 0, 1.0, -1.0) * o[0]).clamp_min(0).pow(power).mean()


def categorical_hinge(o: list[Tensor], y: Tensor) -> Tensor:
    hot = F.one_hot(y, CLASSES).double()
    return (1 + ((1 - hot) * o[0]).amax(1) - (hot * o[0]).sum(1)).clamp_min(0).mean()


def cases() -> list[Case]:
    torch.manual_seed(11)
    classes = torch.randint(0, CLASSES, (ROWS,))
    ignored = classes.clone()
    ignored[[1, 4]] = -100
    tokens = torch.randint(0, CLASSES, (ROWS, TIME))
    tokens[0, 3:] = 2
    soft = logits(CLASSES).softmax(1)
    weights = torch.tensor(CLASS_WEIGHTS, dtype=torch.float64)
    ce: Any = F.cross_entropy
    numbers, yes = logits(WIDTH), (logits(WIDTH) > 0).double()
    certain = logits(WIDTH).sigmoid()
    certain[0, 0], certain[1, 1] = 0.0, 1.0  # where PyTorch holds the logarithm at -100
    signs = (logits(1) > 0).double() * 2 - 1
    pairs, triplets = [logits(4), logits(4)], [logits(4), logits(4), logits(4)]
    sequences = torch.tensor([[1, 2, 3], [1, 1, 2], [4, 0, 0], [3, -1, -1], [0, 0, 0], [2, 2, 0], [1, 2, 1]])
    k: Any = keras.losses

    return [
        Case("ce", {"name": "crossEntropy"}, [logits(CLASSES)], classes, lambda o, y: ce(o[0], y)),
        Case(
            "ce_weights",
            {"name": "crossEntropy", "classWeights": CLASS_WEIGHTS},
            [logits(CLASSES)],
            classes,
            lambda o, y: ce(o[0], y, weights),
        ),
        Case(
            "ce_smooth",
            {"name": "crossEntropy", "labelSmoothing": 0.2},
            [logits(CLASSES)],
            classes,
            lambda o, y: ce(o[0], y, label_smoothing=0.2),
        ),
        Case(
            "ce_ignore",
            {"name": "crossEntropy", "ignoreIndex": -100},
            [logits(CLASSES)],
            ignored,
            lambda o, y: ce(o[0], y, ignore_index=-100),
        ),
        Case(
            "ce_all",
            {"name": "crossEntropy", "ignoreIndex": -100, "labelSmoothing": 0.1, "classWeights": CLASS_WEIGHTS},
            [logits(CLASSES)],
            ignored,
            lambda o, y: ce(o[0], y, weights, ignore_index=-100, label_smoothing=0.1),
        ),
        Case("ce_tokens", {"name": "crossEntropy"}, [logits(CLASSES, TIME)], tokens, lambda o, y: ce(o[0], y)),
        Case(
            "ce_tokens_all",
            {"name": "crossEntropy", "ignoreIndex": 2, "labelSmoothing": 0.1, "classWeights": CLASS_WEIGHTS},
            [logits(CLASSES, TIME)],
            tokens,
            lambda o, y: ce(o[0], y, weights, ignore_index=2, label_smoothing=0.1),
        ),
        Case("ce_soft", {"name": "crossEntropy"}, [logits(CLASSES)], soft, lambda o, y: ce(o[0], y)),
        Case(
            "ce_soft_all",
            {"name": "crossEntropy", "labelSmoothing": 0.1, "classWeights": CLASS_WEIGHTS},
            [logits(CLASSES)],
            soft,
            lambda o, y: ce(o[0], y, weights, label_smoothing=0.1),
        ),
        Case(
            "ce_soft_tokens",
            {"name": "crossEntropy"},
            [logits(CLASSES, 2)],
            logits(CLASSES, 2).softmax(1),
            lambda o, y: ce(o[0], y),
        ),
        Case("bce", {"name": "binaryCrossEntropy"}, [certain], yes, lambda o, y: F.binary_cross_entropy(o[0], y)),
        Case(
            "bce_logits",
            {"name": "binaryCrossEntropyWithLogits"},
            [logits(WIDTH)],
            yes * 0.9,
            lambda o, y: F.binary_cross_entropy_with_logits(o[0], y),
        ),
        Case(
            "bce_positive",
            {"name": "binaryCrossEntropyWithLogits", "posWeight": [2.5]},
            [logits(WIDTH)],
            yes,
            lambda o, y: F.binary_cross_entropy_with_logits(o[0], y, pos_weight=torch.tensor(2.5).double()),
        ),
        Case(
            "bce_positives",
            {"name": "binaryCrossEntropyWithLogits", "posWeight": [0.5, 1.0, 3.0]},
            [logits(WIDTH)],
            yes,
            lambda o, y: F.binary_cross_entropy_with_logits(o[0], y, pos_weight=torch.tensor([0.5, 1.0, 3.0]).double()),
        ),
        Case("mse", {"name": "mse"}, [logits(WIDTH)], numbers, lambda o, y: F.mse_loss(o[0], y)),
        Case("mae", {"name": "mae"}, [logits(WIDTH)], numbers, lambda o, y: F.l1_loss(o[0], y)),
        Case("huber", {"name": "huber"}, [logits(WIDTH)], numbers, lambda o, y: F.huber_loss(o[0], y)),
        Case(
            "huber_delta",
            {"name": "huber", "delta": 0.3},
            [logits(WIDTH)],
            numbers,
            lambda o, y: F.huber_loss(o[0], y, delta=0.3),
        ),
        Case("smooth", {"name": "smoothL1"}, [logits(WIDTH)], numbers, lambda o, y: F.smooth_l1_loss(o[0], y)),
        Case(
            "smooth_beta",
            {"name": "smoothL1", "beta": 0.3},
            [logits(WIDTH)],
            numbers,
            lambda o, y: F.smooth_l1_loss(o[0], y, beta=0.3),
        ),
        Case(
            "smooth_zero",
            {"name": "smoothL1", "beta": 0.0},
            [logits(WIDTH)],
            numbers,
            lambda o, y: F.smooth_l1_loss(o[0], y, beta=0.0),
        ),
        Case("poisson", {"name": "poisson"}, [logits(2)], logits(2).exp(), lambda o, y: F.poisson_nll_loss(o[0], y)),
        Case(
            "poisson_rate",
            {"name": "poisson", "logInput": False, "full": True},
            [logits(2).exp()],
            logits(2).exp() * 3,
            lambda o, y: F.poisson_nll_loss(o[0], y, log_input=False, full=True),
        ),
        Case(
            "kl",
            {"name": "kl"},
            [logits(CLASSES).log_softmax(1)],
            soft,
            lambda o, y: F.kl_div(o[0], y, reduction="batchmean"),
        ),
        Case(
            "kl_log",
            {"name": "kl", "logTarget": True},
            [logits(CLASSES).log_softmax(1)],
            soft.log(),
            lambda o, y: F.kl_div(o[0], y, reduction="batchmean", log_target=True),
        ),
        Case(
            "cosine",
            {"name": "cosine", "margin": 0.2},
            pairs,
            signs,
            lambda o, y: F.cosine_embedding_loss(o[0], o[1], y.flatten(), margin=0.2),
        ),
        Case(
            "cosine_keras",
            {"name": "cosineSimilarity"},
            [logits(4)],
            logits(4),
            beside(
                k.cosine_similarity,
                lambda o, y: -(F.normalize(o[0], eps=1e-7) * F.normalize(y, eps=1e-7)).sum(1).mean(),
            ),
        ),
        Case("hinge", {"name": "hinge"}, [logits(WIDTH)], yes, beside(k.hinge, hinge(1))),
        Case(
            "hinge_squared",
            {"name": "squaredHinge"},
            [logits(WIDTH)],
            yes * 2 - 1,
            beside(k.squared_hinge, hinge(2)),
        ),
        Case(
            "hinge_classes",
            {"name": "categoricalHinge"},
            [logits(CLASSES)],
            classes,
            beside(lambda y, o: k.categorical_hinge(F.one_hot(y, CLASSES).double(), o), categorical_hinge),
        ),
        Case(
            "ranking",
            {"name": "marginRanking", "margin": 0.4},
            [logits(1), logits(1)],
            signs,
            lambda o, y: F.margin_ranking_loss(o[0], o[1], y, margin=0.4),
        ),
        Case("triplet", {"name": "triplet"}, triplets, None, lambda o, _: F.triplet_margin_loss(*o)),
        Case(
            "triplet_swap",
            {"name": "triplet", "margin": 0.5, "normDegree": 1.0, "swap": True},
            triplets,
            None,
            lambda o, _: F.triplet_margin_loss(*o, margin=0.5, p=1, swap=True),
        ),
        Case("ctc", {"name": "ctc", "ignoreIndex": -1}, [logits(TIME, CLASSES)], sequences, ctc(TIME, False)),
        Case(
            "ctc_short",
            {"name": "ctc", "ignoreIndex": -1, "zeroInfinity": True},
            [logits(3, CLASSES)],
            sequences,
            ctc(3, True),
        ),
    ]


def judged(case: Case, rows: Tensor) -> tuple[Tensor, list[Tensor]]:
    """PyTorch's mean over `rows`, some perhaps more than once, and its gradients."""
    leaves = [output.clone().requires_grad_() for output in case.outputs]
    value = case.mean([leaf[rows] for leaf in leaves], None if case.labels is None else case.labels[rows])
    value.backward()  # type: ignore[no-untyped-call]
    return value.detach(), [leaf.grad if leaf.grad is not None else torch.zeros_like(leaf) for leaf in leaves]


def record() -> tuple[dict[str, Tensor], dict[str, str]]:
    tensors: dict[str, Tensor] = {}
    settings = {}
    for case in cases():
        name = case.name
        settings[name] = json.dumps(case.loss)
        tensors |= {f"{name}.o{i}": output for i, output in enumerate(case.outputs)}
        if case.labels is not None:
            tensors[f"{name}.y"] = case.labels
        value, gradients = judged(case, torch.arange(ROWS))
        tensors |= {f"{name}.value": value} | {f"{name}.g{i}": g for i, g in enumerate(gradients)}
        value, gradients = judged(case, torch.repeat_interleave(WEIGHTS))
        tensors[f"{name}.w"] = WEIGHTS.double()
        tensors |= {f"{name}.wvalue": value} | {f"{name}.wg{i}": g for i, g in enumerate(gradients)}
    # Cloned: a file may not hold one memory under two names.
    return {name: tensor.contiguous().clone() for name, tensor in tensors.items()}, settings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the file instead of writing it")
    torch.set_num_threads(1)
    tensors, settings = record()
    if not parser.parse_args().check:
        save_file(tensors, PATH, settings | {"torch": torch.__version__.partition("+")[0]})
        return 0
    stored = load_file(PATH)
    if stored.keys() != tensors.keys():
        print(f"{PATH.name}: other tensors: {sorted(stored.keys() ^ tensors.keys())}")
        return 1
    worst = max((stored[name].double() - value.double()).abs().max().item() for name, value in tensors.items())
    print(f"{PATH.name}: differs by {worst:.1e}")
    return int(worst > 1e-12)


if __name__ == "__main__":
    sys.exit(main())
