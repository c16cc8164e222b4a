"""Train nets in lower precision in Python PyTorch and write down what a program runner must reproduce.

The files are those of `make_golden.py`, whose description holds here too. Cases:

    amp_bf16, amp_f16    a convolution with batch norm and attention, float32 parameters, under torch.autocast; in
                         float16 with torch.amp.GradScaler
    half_bf16, half_f16  a net whose own parameters are bfloat16 or float16, trained through float32 masters: the
                         optimizer steps those with widened gradients, and the net gets them rounded; float16 under
                         autocast and with the scaler too. `master.<name>` holds the masters at the end

In step 3 an outlier makes gradients overflow in float16: the step is skipped. `scale` is the scaler's at the end.
`settings` in the metadata are further settings of the training, in Kindling's terms.

    python make_precision.py            write the files beside this script
    python make_precision.py --check    train again and compare with the files instead (no writing)
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from make_golden import ADAMW, HERE, ConvTransformer, difference, export, optimizer, pixels_and_ids
from safetensors.torch import save_file
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

    from make_golden import Batch

# Kernels for half precision differ between processors (AMX, AVX-512, none) by its rounding, 2^-8 of a value in bfloat16
# and 2^-11 in float16: what the layers of ten steps may add up to. Where the files were
# written, all is equal to the last bit.
TOLERANCE = {"bf16": 2**-6, "f16": 2**-8}
KINDS = {"bf16": torch.bfloat16, "f16": torch.float16}
STEPS, ROWS, OUTLIER = 10, 8, 3

SGD = {"name": "sgd", "learningRate": 0.02, "weightDecay": 0.01, "momentum": 0.9}


class Half(nn.Module):
    """Takes float32 rows and computes in the type of its weights; a batch norm, a tied weight, one that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm, self.attention = (
            nn.Linear(12, 16),
            nn.BatchNorm1d(4),
            nn.MultiheadAttention(16, 2, batch_first=True),
        )
        self.out = nn.Linear(16, 16)
        self.again = self.out
        self.classes = nn.Linear(16, 5)
        self.shift = nn.Parameter(torch.randn(16), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.norm(self.enter(x.to(self.shift.dtype).view(-1, 4, 12)))) + self.shift
        h = h + self.attention(h, h, h, need_weights=False)[0]
        h = h.mean(1) * x.abs().amax(1, keepdim=True).to(h.dtype)
        out: Tensor = self.classes(torch.relu(self.again(torch.relu(self.out(h)))))
        return out


def rows(count: int, _: torch.dtype) -> Batch:
    return (torch.randn(count, 48),), torch.randint(0, 5, (count,))


@dataclass(frozen=True)
class Case:
    """One net in one precision."""

    name: str
    net: Callable[[], nn.Module]
    batch: Callable[[int, torch.dtype], Batch]
    optimizer: dict[str, Any]
    program: str = ""  # that this one shares; its own when empty


CASES = [
    Case("amp", ConvTransformer, pixels_and_ids, SGD, program="convtransformer_f32.pt2"),
    Case("half", Half, rows, ADAMW),
]


def build(case: Case, kind: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return case.net().to(torch.float32 if case.program else kind).train()


def train(case: Case, tag: str) -> dict[str, Tensor]:
    kind = KINDS[tag]
    net = build(case, kind)
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    # In float32 this copies nothing: the parameters are their own masters.
    masters = [parameter.detach().float() for parameter in trained]
    holder = nn.ParameterList(masters)
    steps = optimizer(holder, case.optimizer, fused=True)
    scaler = torch.amp.GradScaler("cpu", enabled=tag == "f16")
    autocast = torch.autocast("cpu", kind, enabled=bool(case.program) or tag == "f16", cache_enabled=False)
    record: dict[str, Tensor] = {}
    losses: list[float] = []
    torch.manual_seed(1)
    for step in range(STEPS):
        inputs, label = case.batch(ROWS, torch.float32)
        if step == OUTLIER:
            inputs[0].zero_()
            inputs[0][0, 0] = 60.0
        record |= {f"x{i}.{step}": x for i, x in enumerate(inputs)} | {f"y.{step}": label}
        net.zero_grad()
        with autocast:
            loss = nn.functional.cross_entropy(net(*inputs).float(), label)
        losses.append(loss.item())
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        for master, parameter in zip(holder, trained, strict=True):
            master.grad = None if parameter.grad is None else parameter.grad.float()
        scaler.step(steps)
        scaler.update()
        with torch.no_grad():
            for master, parameter in zip(holder, trained, strict=True):
                parameter.copy_(master)
    record["loss"] = torch.tensor(losses, dtype=torch.float64)
    if tag == "f16":
        record["scale"] = torch.tensor([scaler.get_scale()], dtype=torch.float64)
    if not case.program:
        names = {parameter: name for name, parameter in net.named_parameters()}
        record |= {f"master.{names[p]}": m.detach().clone() for p, m in zip(trained, holder, strict=True)}
    inputs, _ = case.batch(ROWS, torch.float32)
    with torch.no_grad():
        record |= {f"x{i}.eval": x for i, x in enumerate(inputs)} | {"eval": net.eval()(*inputs)}
    # Cloned, as a file may not hold one memory under two names.
    return record | {f"final.{name}": value.detach().clone() for name, value in net.state_dict().items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the files instead of writing them")
    check = parser.parse_args().check
    torch.set_num_threads(1)
    failed = 0
    for case in CASES:
        for tag, kind in KINDS.items():
            path = HERE / f"{case.name}_{tag}.safetensors"
            record = train(case, tag)
            if check:
                worst = difference(record, path)
                failed += worst > TOLERANCE[tag]
                print(f"{path.name}: differs by {worst:.1e}")
                continue
            program = case.program or f"{case.name}_{tag}.pt2"
            if not case.program:
                torch.manual_seed(2)
                export(build(case, kind), case.batch(4, torch.float32)[0], HERE / program)
            autocast = {"bf16": "bf16" if case.program else "fp32", "f16": "fp16"}[tag]
            metadata = {
                "program": program,
                "loss": "crossEntropy",
                "optimizer": json.dumps(case.optimizer),
                "settings": json.dumps({"precision": autocast}),
                "tolerance": str(TOLERANCE[tag]),
                "torch": torch.__version__.partition("+")[0],
            }
            save_file({name: value.contiguous() for name, value in record.items()}, path, metadata)
            print(f"{path.name}: {record['loss'].tolist()} scale {record.get('scale')}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
