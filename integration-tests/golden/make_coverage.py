"""Train small nets that use what an exported graph can hold beside plain operators; write down what PyTorch computed.

Regions without gradients and with autocast, `torch.cond`, checkpoints, arithmetic on sizes, outputs in dicts and
dataclasses, and weights of every type and layout: one net each. The files are those of `make_golden.py`, whose
description holds here too; `tolerance` in the metadata replaces the common one where a net computes in bfloat16.

    python make_coverage.py            write the files beside this script
    python make_coverage.py --check    train again and compare with the files instead (no writing)
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from make_golden import DTYPES, HERE, TOLERANCE, Case, build, dense, difference, noise, train
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from make_golden import Batch

BATCH = torch.export.Dim("batch", min=2)
STEPS = torch.export.Dim("steps", min=3, max=64)


class Regions(nn.Module):
    """Gradients off, on again within, and off by a switch; a dict comes out, with a tuple, a None and a size in it."""

    def __init__(self) -> None:
        super().__init__()
        self.main, self.side, self.gate = nn.Linear(8, 4), nn.Linear(8, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Any:
        with torch.no_grad():
            weight = torch.softmax(self.side(x), -1)
            with torch.enable_grad():
                inner = torch.tanh(self.gate(self.main(x)))
            offset = inner * 0.5
        with torch.set_grad_enabled(False):
            offset = offset + weight.mean()
        logits = self.main(x) * weight + inner + offset
        return {"logits": logits, "extra": (weight, None, x.shape[0])}


class Autocast(nn.Module):
    """A bfloat16 region with a float32 one in it, and one of a device that the program does not run on."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.exact, self.last, self.other = (
            nn.Linear(8, 16),
            nn.Linear(16, 16),
            nn.Linear(16, 4),
            nn.Linear(4, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = torch.relu(self.first(x))
            with torch.autocast("cpu", enabled=False):
                hidden = torch.tanh(self.exact(hidden.float()))
            out = self.last(hidden)
        with torch.autocast("cuda", enabled=False):
            return out.float() + self.other(out.float())


class Branches(nn.Module):
    """Either branch has weights of its own, and one writes nothing the other would; branches stand within branches."""

    def __init__(self) -> None:
        super().__init__()
        self.yes, self.no, self.deep = nn.Linear(8, 4), nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        def yes(x: Tensor) -> tuple[Tensor, Tensor]:
            return torch.relu(self.yes(x)), x.mean(1)

        def shallow(x: Tensor) -> Tensor:
            return torch.tanh(self.no(x)) * x.shape[0]

        def deep(x: Tensor) -> Tensor:
            with torch.no_grad():
                scale = x.std()
            return self.deep(x) * scale

        def no(x: Tensor) -> tuple[Tensor, Tensor]:
            return branch(x[0, 0] > 0, shallow, deep, x), x.amax(1)

        def branch(predicate: Tensor, one: Any, other: Any, x: Tensor) -> Any:
            # Eager torch.cond would compile; it means this.
            if torch.compiler.is_exporting():
                return torch.cond(predicate, one, other, (x,))
            return one(x) if predicate else other(x)

        out, summary = branch(x.sum() > 0, yes, no, x)
        return out, summary


class Checkpointed(nn.Module):
    """Two checkpointed parts, one of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = checkpoint(lambda x: torch.relu(self.first(x)), x, use_reentrant=False)
        for _ in range(2):
            hidden = checkpoint(lambda x: torch.tanh(self.again(x)), hidden, use_reentrant=False)
        out: Tensor = self.out(hidden)
        return out


class Sizes(nn.Module):
    """Numbers made of sizes: floats, truth values, choices; the second input is twice as long as the first."""

    def __init__(self) -> None:
        super().__init__()
        self.near, self.far = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        steps = x.shape[1]
        mean = self.near(x).sum(1) * (1 / steps)
        root = self.far(y).sum(1) / y.shape[1] ** 0.5
        long = torch.scalar_tensor(steps > 5, dtype=torch.bool)  # type: ignore[arg-type]
        choice = (
            torch.sym_ite(steps > 4, steps - 1, steps + 1)
            if torch.compiler.is_exporting()
            else (steps - 1 if steps > 4 else steps + 1)
        )
        part = torch.sym_int(steps * 0.4) if torch.compiler.is_exporting() else int(steps * 0.4)
        clipped = torch.sym_min(steps, 6) if torch.compiler.is_exporting() else min(steps, 6)
        return torch.where(long, mean, mean * 2) + root * (choice * 0.1) + (steps // 2) * 0.01 + part * 0.5 / clipped


@dataclass
class Result:
    """What `Kept` returns; fields that are None are left out of its tree."""

    logits: Tensor
    state: Tensor
    loss: Tensor | None = None


torch.export.register_dataclass(Result, serialized_type_name="kindling.Result")


class Kept(nn.Module):
    """Weights and buffers of every type and layout, one of them shared, one without elements, some not saved."""

    scale: Tensor
    shift: Tensor
    count: Tensor
    mask: Tensor
    expanded: Tensor
    empty: Tensor
    offset: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Linear(8, 8), nn.Linear(8, 8)
        self.again.weight = self.first.weight
        self.out = nn.Linear(8, 4)
        self.out.weight = nn.Parameter(self.out.weight.detach().t().contiguous().t())
        self.tail = nn.Parameter(torch.randn(10)[4:8].detach())
        self.register_buffer("scale", torch.rand(8).half())
        self.register_buffer("shift", torch.rand(8).bfloat16(), persistent=False)
        self.register_buffer("count", torch.tensor(3, dtype=torch.int32))
        self.register_buffer("mask", torch.tensor([True, False] * 4), persistent=False)
        self.register_buffer("expanded", torch.rand(1).expand(8))
        self.register_buffer("empty", torch.zeros(0, 4))
        self.register_buffer("offset", torch.arange(12)[4:8])
        self.plain = torch.tensor([0.5, -0.5, 1.0, 2.0])

    def _apply(self, *args: Any, **kwargs: Any) -> nn.Module:
        # `to(dtype)` converts whatever is a float; these two are not what the net computes in.
        scale, shift = self.scale, self.shift
        super()._apply(*args, **kwargs)
        self.scale, self.shift = scale, shift
        return self

    def forward(self, x: Tensor) -> Result:
        hidden = self.first(x) * self.scale.to(x.dtype) + self.shift.to(x.dtype)
        hidden = torch.where(self.mask, torch.tanh(self.again(hidden)), hidden * self.expanded.to(x.dtype))
        out = self.out(hidden) + self.tail * self.offset + self.plain.to(x.dtype) + torch.tensor(0.25, dtype=x.dtype)
        if self.training:
            self.count.add_(1)
        return Result(out + self.empty.to(x.dtype).sum(0), self.count.detach().clone())


@dataclass(frozen=True)
class Net(Case):
    """A case that says itself which dimensions vary and how close one must come."""

    shapes: tuple[dict[int, Any], ...] = ({0: BATCH},)
    tolerance: float | None = None
    dtypes: tuple[str, ...] = ("f32", "f64")
    rows: dict[str, int] = field(default_factory=lambda: {"f32": 6, "f64": 6})
    steps: int = 10


def sequences(rows: int, dtype: torch.dtype) -> Batch:
    steps = int(torch.randint(3, 9, ()))
    x, y = torch.randn(rows, steps, 4, dtype=dtype), torch.randn(rows, 2 * steps, 4, dtype=dtype)
    return (x, y), torch.randint(0, 4, (rows,))


NETS = [
    Net("regions", Regions, dense(8, 4)),
    # Kernels for bfloat16 differ between processors (AMX, AVX-512, none) by its rounding, 2^-8 of a value: what four
    # layers may add up to.
    Net("autocast", Autocast, dense(8, 4), dtypes=("f32",), tolerance=2**-6),
    Net("branches", Branches, dense(8, 4), steps=24),
    Net("checkpointed", Checkpointed, dense(8, 4), dtypes=("f64",)),
    Net("sizes", Sizes, sequences, shapes=({0: BATCH, 1: STEPS}, {0: BATCH, 1: 2 * STEPS})),
    Net("kept", Kept, dense(8, 4)),
]


class First(nn.Module):
    """The first tensor of what a net returns, which is what training judges."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *inputs: Tensor) -> Tensor:
        out = self.net(*inputs)
        tensor: Tensor = torch.utils._pytree.tree_leaves(out)[0]
        return tensor

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Any]:  # type: ignore[override]
        return self.net.state_dict()


def export(case: Net, dtype: torch.dtype) -> torch.export.ExportedProgram:
    torch.manual_seed(2)
    inputs = case.batch(4, dtype)[0]
    program = torch.export.export(build(case, dtype), inputs, dynamic_shapes=case.shapes, strict=False)
    for module in program.graph_module.modules():
        # Without the stack traces: they name files of the machine that exported.
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            for key in ("stack_trace", "nn_module_stack", "torch_fn", "source_fn_stack", "from_node"):
                node.meta.pop(key, None)
    return program


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the files instead of writing them")
    check = parser.parse_args().check
    torch.set_num_threads(1)
    failed = 0
    for case in NETS:
        judged = Case(case.name, lambda net=case.net: First(net()), case.batch, steps=case.steps)  # type: ignore[misc]
        for tag in case.dtypes:
            dtype, program = DTYPES[tag], f"{case.name}_{tag}.pt2"
            path = HERE / f"{case.name}_{tag}.safetensors"
            record = train(judged, dtype, case.rows[tag])
            if check:
                worst = difference(record, path)
                failed += worst > (case.tolerance or TOLERANCE[tag])
                print(f"{path.name}: differs by {worst:.1e}")
                continue
            torch.export.save(export(case, dtype), HERE / program)
            metadata = {"program": program, "loss": case.loss, "optimizer": json.dumps(case.optimizer)}
            if case.tolerance is not None:
                metadata["tolerance"] = str(case.tolerance)
            record |= noise(record, train(judged, dtype, case.rows[tag], fused=True))
            record = {name: value.contiguous() for name, value in record.items()}
            save_file(record, path, metadata | {"torch": torch.__version__.partition("+")[0]})
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
