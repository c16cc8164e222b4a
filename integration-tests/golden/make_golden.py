"""Train small nets in Python PyTorch and write down what a program runner must reproduce.

Each case becomes `<program>_<dtype>.pt2`, the exported program with its first weights, and
`<case>_<dtype>.safetensors`:

    x0.<step>, x1.<step>, y.<step>   one fresh batch per step: inputs in the program's order, and the label
    loss                             float64 [steps]: the mean loss of each step, before its update
    x0.eval, x1.eval, eval           after the last step: inputs, and the module's output in evaluation
    final.<name>                     parameters and buffers after the last step, by their names in the module
    noise.<name>                     the largest difference of that tensor if PyTorch's fused optimizer trains instead

A parameter whose true gradient is zero (a bias before batch norm, a key bias of attention) has noise: Adam turns what
rounding leaves of the gradient into whole steps, so PyTorch itself does not agree on its float32 value.

The file's metadata says how it was trained: `program` (the archive), `loss` and `optimizer` (JSON in Kindling's own
terms). Everything runs in train mode, on one thread, from fixed seeds, through eager modules, and without Kindling.

    python make_golden.py            write the files beside this script
    python make_golden.py --check    train again and compare with the files instead (no writing)
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).resolve().parent
DTYPES = {"f32": torch.float32, "f64": torch.float64}
# float32 kernels may sum in another order on another processor; float64 leaves room to tell a bug from rounding.
TOLERANCE = {"f32": 1e-5, "f64": 1e-12}

# What a tensor's noise is called; it is measured, not compared.
NOISE = re.compile(r"(^|\.)noise\.")

ADAMW = {"name": "adamw", "learningRate": 1e-3, "weightDecay": 0.01, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}
SGD = {"name": "sgd", "learningRate": 0.05, "weightDecay": 0.01, "momentum": 0.9}


class ConvTransformer(nn.Module):
    """Two inputs, a convolution with batch norm, and a transformer over token ids: most of what a graph can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.emb = nn.Embedding(10, 16)
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, dropout=0.0)
        self.enc = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(8 * 64 + 16, 10)

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        h = torch.relu(self.bn(self.conv(x.view(-1, 1, 8, 8)))).flatten(1)
        out: Tensor = self.out(torch.cat([h, self.enc(self.emb(ids)).mean(1)], 1))
        return out


class Unused(nn.Module):
    """`idle` never meets the output: it has no gradient, so no optimizer may move it, not even by weight decay."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.used(x)
        return out


class Tied(nn.Module):
    """A token classifier whose output weight is its embedding: one tensor with two names."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.mix, self.out = nn.Embedding(12, 8), nn.Linear(8, 8), nn.Linear(8, 12, bias=False)
        self.out.weight = self.emb.weight

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.out(torch.tanh(self.mix(self.emb(ids).mean(1))))
        return out


class Lstm(nn.Module):
    """A recurrent net over six steps of four features, fed as one flat row of twenty-four."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.out = nn.LSTM(4, 8, num_layers=2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden, _ = self.lstm(x.view(-1, 6, 4))
        out: Tensor = self.out(hidden[:, -1])
        return out


class Modes(nn.Module):
    """Behaves differently in evaluation: dropout, and one batch norm used under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.drop, self.out = (
            nn.Linear(8, 6),
            nn.BatchNorm1d(6),
            nn.Dropout(0.5),
            nn.Linear(6, 3),
        )
        self.again = self.norm
        nn.init.uniform_(self.norm.running_mean, -1, 1)  # type: ignore[arg-type]
        nn.init.uniform_(self.norm.running_var, 1, 2)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.drop(self.again(torch.relu(self.norm(self.first(x))))))
        return out


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def regression() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2))


Batch = tuple[tuple[Tensor, ...], Tensor]


@dataclass(frozen=True)
class Case:
    """One training run: the net, what its batches look like, and how it learns."""

    name: str
    net: Callable[[], nn.Module]
    batch: Callable[[int, torch.dtype], Batch]
    optimizer: dict[str, Any] = field(default_factory=lambda: ADAMW)
    loss: str = "crossEntropy"
    program: str = ""  # the case whose archive this one shares; its own when empty
    steps: int = 16
    rows: dict[str, int] = field(default_factory=lambda: {"f32": 16, "f64": 8})  # per batch: the files stay small


def dense(width: int, classes: int) -> Callable[[int, torch.dtype], Batch]:
    return lambda rows, dtype: ((torch.randn(rows, width, dtype=dtype),), torch.randint(0, classes, (rows,)))


def pixels_and_ids(rows: int, dtype: torch.dtype) -> Batch:
    return (torch.randn(rows, 64, dtype=dtype), torch.randint(0, 10, (rows, 5))), torch.randint(0, 10, (rows,))


def ids(rows: int, _: torch.dtype) -> Batch:
    return (torch.randint(0, 12, (rows, 5)),), torch.randint(0, 12, (rows,))


def targets(rows: int, dtype: torch.dtype) -> Batch:
    x = torch.randn(rows, 8, dtype=dtype)
    return (x,), torch.stack([x.sum(1), x.square().mean(1)], 1)


FEW = {"f32": 8, "f64": 8}
CASES = [
    Case("mlp", mlp, dense(64, 10), rows={"f32": 32, "f64": 8}),
    Case("mlp_sgd", mlp, dense(64, 10), SGD, program="mlp", steps=6, rows=FEW),
    Case("convtransformer", ConvTransformer, pixels_and_ids),
    Case("regression", regression, targets, loss="mse"),
    Case("unused", Unused, dense(8, 4), rows=FEW),
    Case("tied", Tied, ids, rows=FEW),
    Case("lstm", Lstm, dense(24, 3), rows=FEW),
    Case("modes", Modes, dense(8, 3), rows=FEW, steps=0),
]


def build(case: Case, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return case.net().to(dtype).train()


def export(net: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> None:
    """Exported like a user would, without the stack traces: they name files of the machine that exported."""
    batch = torch.export.Dim("batch", min=2)
    shapes = tuple({0: batch} for _ in inputs)
    program = torch.export.export(copy.deepcopy(net), inputs, dynamic_shapes=shapes, strict=False)
    for node in program.graph.nodes:
        for key in ("stack_trace", "nn_module_stack", "torch_fn", "source_fn_stack", "from_node"):
            node.meta.pop(key, None)
    torch.export.save(program, path)


def optimizer(net: nn.Module, settings: dict[str, Any], fused: bool) -> torch.optim.Optimizer:
    rate, decay = settings["learningRate"], settings["weightDecay"]
    if settings["name"] == "sgd":
        return torch.optim.SGD(net.parameters(), rate, momentum=settings["momentum"], weight_decay=decay, fused=fused)
    betas = settings["beta1"], settings["beta2"]
    return torch.optim.AdamW(
        net.parameters(), rate, betas=betas, eps=settings["epsilon"], weight_decay=decay, fused=fused
    )


def train(case: Case, dtype: torch.dtype, rows: int, fused: bool = False) -> dict[str, Tensor]:
    net = build(case, dtype)
    criterion = nn.functional.cross_entropy if case.loss == "crossEntropy" else nn.functional.mse_loss
    steps = optimizer(net, case.optimizer, fused)
    record: dict[str, Tensor] = {}
    losses: list[float] = []
    torch.manual_seed(1)
    for step in range(case.steps):
        inputs, label = case.batch(rows, dtype)
        record |= {f"x{i}.{step}": x for i, x in enumerate(inputs)} | {f"y.{step}": label}
        steps.zero_grad()
        loss = criterion(net(*inputs), label)
        losses.append(loss.item())
        loss.backward()  # type: ignore[no-untyped-call]
        steps.step()
    record["loss"] = torch.tensor(losses, dtype=torch.float64)
    inputs, _ = case.batch(rows, dtype)
    with torch.no_grad():
        record |= {f"x{i}.eval": x for i, x in enumerate(inputs)} | {"eval": net.eval()(*inputs)}
    # Cloned, as a file may not hold one memory under two names.
    return record | {f"final.{name}": value.detach().clone() for name, value in net.state_dict().items()}


def noise(record: dict[str, Tensor], fused: dict[str, Tensor]) -> dict[str, Tensor]:
    finals = [name for name in record if name.startswith("final.")]
    zero = torch.zeros(1, dtype=torch.float64)  # of a tensor without elements
    worst = {n: torch.cat([zero, (record[n].double() - fused[n].double()).abs().flatten()]).max() for n in finals}
    return {n.replace("final.", "noise."): value for n, value in worst.items()}


def difference(record: dict[str, Tensor], path: Path) -> float:
    """The largest absolute difference to the file; infinite when names, shapes or types differ."""
    with safe_open(path, "pt") as file:
        names = [name for name in file.keys() if not NOISE.search(name)]  # noqa: SIM118 - not a mapping
        stored = {name: file.get_tensor(name) for name in names}
    same = stored.keys() == record.keys() and all(
        stored[k].shape == v.shape and stored[k].dtype == v.dtype for k, v in record.items()
    )
    return (
        max((stored[k].double() - v.double()).abs().max().item() for k, v in record.items() if v.numel())
        if same
        else float("inf")
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the files instead of writing them")
    check = parser.parse_args().check
    torch.set_num_threads(1)
    failed = 0
    for case in CASES:
        for tag, dtype in DTYPES.items():
            program = f"{case.program or case.name}_{tag}.pt2"
            path = HERE / f"{case.name}_{tag}.safetensors"
            if not check and not case.program:
                torch.manual_seed(2)
                export(build(case, dtype), case.batch(4, dtype)[0], HERE / program)
            record = train(case, dtype, case.rows[tag])
            if check:
                worst = difference(record, path)
                failed += worst > TOLERANCE[tag]
                print(f"{path.name}: differs by {worst:.1e}")
            else:
                metadata = {"program": program, "loss": case.loss, "optimizer": json.dumps(case.optimizer)}
                record |= noise(record, train(case, dtype, case.rows[tag], fused=True))
                save_file(record, path, metadata | {"torch": torch.__version__.partition("+")[0]})
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
