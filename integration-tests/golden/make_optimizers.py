"""Train one small net with every optimizer and setting in Python PyTorch, and write down where each run ends.

`optimizers_<dtype>.pt2` is the net with its first weights. `optimizers_<dtype>.safetensors` holds 50 batches that every
case trains on, and per case what it did with them:

    x.<step>, y.<step>       the batches
    <case>.loss              float64 [steps]: the mean loss of each step, before its update
    <case>.rate              float64 [steps]: the learning rate of each step
    <case>.final.<name>      parameters after the last step; with `emaDecay`, the averaged ones
    <case>.noise.<name>      float32 only: how far that ends from the float64 run, at most

The metadata names the cases: a JSON object from case to its training configuration in Kindling's terms. The float64
run starts at the float32 run's values, so that the distance between the two is what float32 rounding does.

LAMB, LARS and Lion are not in `torch.optim`; they are written out here from their papers.

    python make_optimizers.py            write the files beside this script
    python make_optimizers.py --check    train again and compare with the files instead (no writing)
"""

from __future__ import annotations

import argparse
import copy
import fnmatch
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from make_golden import DTYPES, TOLERANCE, difference, export
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import lr_scheduler as lr
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).resolve().parent
STEPS, ROWS = 50, 8
# Of the plateau: the loss after every fifth step, as if that were an epoch.
EPOCH = 5


class Net(nn.Module):
    """Weights of four, two and one dimensions, and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv2d(1, 3, 3), nn.LayerNorm(12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(torch.tanh(self.norm(self.conv(x).flatten(1))))
        return out


class Paper(torch.optim.Optimizer):
    """An optimizer as its paper writes it, one tensor at a time."""

    def __init__(self, groups: Any, defaults: dict[str, Any]) -> None:
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is not None:
                    self.update(w, w.grad, self.state[w], group)

    def update(self, w: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        raise NotImplementedError


class Lamb(Paper):
    """You and others, 2020, algorithm 2."""

    def update(self, w: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        beta1, beta2 = group["beta1"], group["beta2"]
        t = state["t"] = state.get("t", 0) + 1
        m = state["m"] = beta1 * state.get("m", torch.zeros_like(w)) + (1 - beta1) * g
        v = state["v"] = beta2 * state.get("v", torch.zeros_like(w)) + (1 - beta2) * g * g
        r = (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + group["epsilon"])
        u = r + group["weightDecay"] * w
        ratio = w.norm() / u.norm() if w.norm() > 0 and u.norm() > 0 else 1.0
        w -= group["lr"] * ratio * u


class Lars(Paper):
    """You, Gitman and Ginsburg, 2017, algorithm 1."""

    def update(self, w: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        decay = group["weightDecay"]
        ratio: Any = 1.0
        if w.norm() > 0 and g.norm() > 0:
            ratio = group["trustCoefficient"] * w.norm() / (g.norm() + decay * w.norm())
        v = state.get("v", torch.zeros_like(w))
        state["v"] = group["momentum"] * v + group["lr"] * ratio * (g + decay * w)
        w -= state["v"]


class Lion(Paper):
    """Chen and others, 2023, algorithm 2; the decay comes first, as in the authors' code."""

    def update(self, w: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        beta1, beta2 = group["beta1"], group["beta2"]
        m = state.get("m", torch.zeros_like(w))
        w *= 1 - group["lr"] * group["weightDecay"]
        w -= group["lr"] * torch.sign(beta1 * m + (1 - beta1) * g)
        state["m"] = beta2 * m + (1 - beta2) * g


def opt(name: str, rate: float, **settings: Any) -> dict[str, Any]:
    return {"optimizer": {"name": name, "learningRate": rate, **settings}}


ADAMW = opt("adamw", 0.01)
NO_DECAY = {"pattern": "*", "maxDimensions": 1, "weightDecay": 0.0}
NO_BIAS_DECAY = {"pattern": "*.bias", "weightDecay": 0.0}
CASES: dict[str, dict[str, Any]] = {
    "sgd": opt("sgd", 0.1, weightDecay=0.01),
    "sgd_momentum": opt("sgd", 0.05, weightDecay=0.01, momentum=0.9),
    "sgd_dampening": opt("sgd", 0.05, momentum=0.9, dampening=0.3),
    "sgd_nesterov": opt("sgd", 0.05, weightDecay=0.01, momentum=0.9, nesterov=True),
    "adam": opt("adam", 0.01, weightDecay=0.1),
    "adam_amsgrad": opt("adam", 0.02, beta1=0.8, beta2=0.9, epsilon=1e-6, amsgrad=True),
    "adamw": opt("adamw", 0.01, weightDecay=0.1),
    "adamw_amsgrad": opt("adamw", 0.02, beta2=0.9, amsgrad=True),
    "adagrad": opt("adagrad", 0.05),
    "adagrad_decay": opt("adagrad", 0.1, weightDecay=0.01, learningRateDecay=0.1, initialAccumulator=0.1),
    "rmsprop": opt("rmsprop", 0.01, weightDecay=0.01),
    "rmsprop_centered": opt("rmsprop", 0.005, alpha=0.9, epsilon=1e-6, momentum=0.5, centered=True),
    "lamb": opt("lamb", 0.02, weightDecay=0.05),
    "lars": opt("lars", 2.0, weightDecay=0.01, momentum=0.9, trustCoefficient=0.01),
    "lion": opt("lion", 0.003, weightDecay=0.1),
    "adafactor": opt("adafactor", 0.02, weightDecay=0.1),
    "adafactor_settings": opt(
        "adafactor", 0.05, beta2Decay=-0.5, epsilon1=1e-4, epsilon2=0.01, clipThreshold=1.5
    ),
    "groups": {
        **opt("adamw", 0.01, weightDecay=0.3),
        "groups": [{"pattern": "conv.*", "frozen": True}, NO_DECAY, {"pattern": "out*", "learningRate": 0.003}],
        "schedule": {"name": "exponential", "gamma": 0.97},
    },
    "groups_sgd": {
        **opt("sgd", 0.05, weightDecay=0.1, momentum=0.9),
        "groups": [{"pattern": "norm.*", "learningRate": 0.5, "weightDecay": 0.0}, NO_BIAS_DECAY],
    },
    "groups_lamb": {**opt("lamb", 0.02, weightDecay=0.1), "groups": [NO_DECAY]},
    "clip_norm": {**opt("sgd", 0.2), "clipNorm": 0.3},
    "clip_value": {**opt("sgd", 0.2), "clipValue": 0.02},
    "clip_both": {**opt("sgd", 0.2, momentum=0.9), "clipNorm": 0.1, "clipValue": 0.05},
    "constant_warmup": {**ADAMW, "schedule": {"name": "constant", "warmupSteps": 10, "warmupStart": 0.1}},
    "step": {**ADAMW, "schedule": {"name": "step", "steps": 12, "gamma": 0.3}},
    "step_warmup": {**ADAMW, "schedule": {"name": "step", "steps": 12, "warmupSteps": 7, "warmupStart": 0.01}},
    "multistep": {**ADAMW, "schedule": {"name": "multistep", "milestones": [5, 20, 21], "gamma": 0.5}},
    "exponential": {**ADAMW, "schedule": {"name": "exponential", "gamma": 0.9, "warmupSteps": 4, "warmupStart": 0.5}},
    "cosine": {**ADAMW, "schedule": {"name": "cosine", "steps": 50, "minimum": 0.001}},
    "cosine_warmup": {**ADAMW, "schedule": {"name": "cosine", "steps": 40, "warmupSteps": 10, "warmupStart": 0.05}},
    "restarts": {**ADAMW, "schedule": {"name": "cosineRestarts", "steps": 9, "minimum": 0.002}},
    "restarts_longer": {**ADAMW, "schedule": {"name": "cosineRestarts", "steps": 5, "cycleFactor": 2}},
    "linear": {**ADAMW, "schedule": {"name": "linear", "steps": 30, "startFactor": 0.9, "endFactor": 0.1}},
    "polynomial": {**ADAMW, "schedule": {"name": "polynomial", "steps": 40, "power": 2.0}},
    "one_cycle": {**ADAMW, "schedule": {"name": "oneCycle", "steps": 50}},
    "one_cycle_linear": {
        **ADAMW,
        "schedule": {
            "name": "oneCycle", "steps": 60, "peakFraction": 0.45, "divFactor": 10, "finalDivFactor": 100,
            "anneal": "linear",
        },
    },
    "plateau": {
        **opt("sgd", 0.5),
        "schedule": {"name": "reduceOnPlateau", "gamma": 0.5, "patience": 1, "cooldown": 1, "minimum": 0.05},
    },
    "plateau_abs": {
        **opt("sgd", 0.5),
        "schedule": {
            "name": "reduceOnPlateau", "patience": 0, "threshold": 0.05, "thresholdMode": "abs", "minimum": 0.001,
        },
    },
    "ema": {**opt("sgd", 0.1, momentum=0.9), "emaDecay": 0.9},
}  # fmt: skip


def grouped(net: nn.Module, config: dict[str, Any]) -> list[dict[str, Any]]:
    """PyTorch's parameter groups for Kindling's: the first pattern that matches takes a parameter."""
    settings = config["optimizer"]
    groups: list[dict[str, Any]] = [{"params": []}]
    groups += [{"params": [], "own": own} for own in config.get("groups", [])]
    for name, parameter in net.named_parameters():
        for group in groups[1:]:
            own = group["own"]
            if fnmatch.fnmatchcase(name, own["pattern"]) and parameter.dim() <= own.get("maxDimensions", 9):
                parameter.requires_grad_(not own.get("frozen", False))
                group["params"].append(parameter)
                break
        else:
            groups[0]["params"].append(parameter)
    for group in groups:
        own = group.pop("own", {})
        group["lr"] = own.get("learningRate", settings["learningRate"])
        decay = own.get("weightDecay", settings.get("weightDecay"))
        if decay is not None:
            group["weightDecay" if settings["name"] in PAPERS else "weight_decay"] = decay
    return [group for group in groups if group["params"]]


PAPERS: dict[str, tuple[Callable[..., Paper], dict[str, Any]]] = {
    "lamb": (Lamb, {"weightDecay": 0.01, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-6}),
    "lars": (Lars, {"weightDecay": 0.0, "momentum": 0.9, "trustCoefficient": 0.001}),
    "lion": (Lion, {"weightDecay": 0.0, "beta1": 0.9, "beta2": 0.99}),
}
TORCH = {
    "sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop, "adafactor": torch.optim.Adafactor,
}  # fmt: skip
NAMES = {
    "epsilon": "eps", "learningRateDecay": "lr_decay", "initialAccumulator": "initial_accumulator_value",
    "beta2Decay": "beta2_decay", "clipThreshold": "d",
}  # fmt: skip


def optimizer(net: nn.Module, config: dict[str, Any]) -> torch.optim.Optimizer:
    """The plain, unfused optimizer; what is not set has PyTorch's default."""
    settings = {k: v for k, v in config["optimizer"].items() if k not in ("name", "learningRate", "weightDecay")}
    name, groups = config["optimizer"]["name"], grouped(net, config)
    if name in PAPERS:
        paper, defaults = PAPERS[name]
        return paper(groups, {"lr": 0.0, **defaults, **settings})
    if "beta1" in settings or "beta2" in settings:
        settings["betas"] = settings.pop("beta1", 0.9), settings.pop("beta2", 0.999)
    if "epsilon1" in settings:
        settings["eps"] = settings.pop("epsilon1"), settings.pop("epsilon2")
    if name not in {"adafactor", "adagrad"}:
        settings["foreach"] = False
    return TORCH[name](groups, **{NAMES.get(k, k): v for k, v in settings.items()})


def scheduler(steps: torch.optim.Optimizer, config: dict[str, Any]) -> Any:
    """PyTorch's scheduler, behind a warm-up of its own if there is one."""
    s = config.get("schedule", {"name": "constant"})
    makers: dict[str, Callable[[], Any]] = {
        "constant": lambda: lr.ConstantLR(steps, 1.0),
        "step": lambda: lr.StepLR(steps, s["steps"], s.get("gamma", 0.1)),
        "multistep": lambda: lr.MultiStepLR(steps, s["milestones"], s["gamma"]),
        "exponential": lambda: lr.ExponentialLR(steps, s["gamma"]),
        "cosine": lambda: lr.CosineAnnealingLR(steps, s["steps"], s.get("minimum", 0)),
        "cosineRestarts": lambda: lr.CosineAnnealingWarmRestarts(
            steps, s["steps"], s.get("cycleFactor", 1), s.get("minimum", 0)
        ),
        "linear": lambda: lr.LinearLR(steps, s["startFactor"], s["endFactor"], s["steps"]),
        "polynomial": lambda: lr.PolynomialLR(steps, s["steps"], s["power"]),
        "oneCycle": lambda: lr.OneCycleLR(
            steps,
            [group["lr"] for group in steps.param_groups],
            total_steps=s["steps"],
            pct_start=s.get("peakFraction", 0.3),
            anneal_strategy=s.get("anneal", "cos"),
            cycle_momentum=False,
            div_factor=s.get("divFactor", 25),
            final_div_factor=s.get("finalDivFactor", 1e4),
        ),
        "reduceOnPlateau": lambda: lr.ReduceLROnPlateau(
            steps,
            factor=s.get("gamma", 0.1),
            patience=s["patience"],
            threshold=s.get("threshold", 1e-4),
            threshold_mode=s.get("thresholdMode", "rel"),
            cooldown=s.get("cooldown", 0),
            min_lr=s["minimum"],
        ),
    }
    if not s.get("warmupSteps"):
        return makers[s["name"]]()
    warm = lr.LinearLR(steps, s["warmupStart"], total_iters=s["warmupSteps"])
    return lr.SequentialLR(steps, [warm, makers[s["name"]]()], [s["warmupSteps"]])


def build(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return Net().to(dtype).train()


def batches(dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    drawn = [(torch.randn(ROWS, 1, 4, 4), torch.randint(0, 4, (ROWS,))) for _ in range(STEPS)]
    return [(x.to(dtype), y) for x, y in drawn]


def train(config: dict[str, Any], dtype: torch.dtype) -> dict[str, Tensor]:
    net = build(dtype)
    steps = optimizer(net, config)
    schedule = scheduler(steps, config)
    decay = config.get("emaDecay")
    averaged = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(decay)) if decay else None
    losses: list[float] = []
    rates: list[float] = []
    for step, (x, y) in enumerate(batches(dtype)):
        steps.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        losses.append(loss.item())
        rates.append(steps.param_groups[0]["lr"])
        loss.backward()  # type: ignore[no-untyped-call]
        if "clipValue" in config:
            nn.utils.clip_grad_value_(net.parameters(), config["clipValue"])
        if "clipNorm" in config:
            nn.utils.clip_grad_norm_(net.parameters(), config["clipNorm"])
        steps.step()
        if averaged:
            averaged.update_parameters(net)
        if not isinstance(schedule, lr.ReduceLROnPlateau):
            schedule.step()
        elif (step + 1) % EPOCH == 0:
            schedule.step(sum(losses[-EPOCH:]) / EPOCH)
    record = {"loss": torch.tensor(losses, dtype=torch.float64), "rate": torch.tensor(rates, dtype=torch.float64)}
    final = averaged.module if averaged else net
    return record | {f"final.{name}": value.detach().clone() for name, value in final.state_dict().items()}


def record(dtype: torch.dtype) -> dict[str, Tensor]:
    whole = {k: v for i, (x, y) in enumerate(batches(dtype)) for k, v in ((f"x.{i}", x), (f"y.{i}", y))}
    for case, config in CASES.items():
        run = train(copy.deepcopy(config), dtype)
        whole |= {f"{case}.{key}": value for key, value in run.items()}
        if dtype == torch.float32:
            exact = train(copy.deepcopy(config), torch.float64)
            noises = {k: (v - exact[k]).abs().max() for k, v in run.items() if k.startswith("final.")}
            whole |= {f"{case}.{k.replace('final.', 'noise.')}": v for k, v in noises.items()}
    return whole


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the files instead of writing them")
    check = parser.parse_args().check
    torch.set_num_threads(1)
    failed = 0
    for tag, dtype in DTYPES.items():
        path = HERE / f"optimizers_{tag}.safetensors"
        whole = record(dtype)
        if check:
            whole = {k: v for k, v in whole.items() if ".noise." not in k}
            worst = difference(whole, path)
            failed += worst > TOLERANCE[tag]
            print(f"{path.name}: differs by {worst:.1e}")
        else:
            torch.manual_seed(2)
            export(build(dtype), (batches(dtype)[0][0],), HERE / f"optimizers_{tag}.pt2")
            save_file(whole, path, {"cases": json.dumps(CASES), "torch": torch.__version__.partition("+")[0]})
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
