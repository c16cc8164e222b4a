"""Write the programs that the rewrites are tested on, and what PyTorch makes of one of them in evaluation.

What it writes: `segments_f32.pt2`, a deep net with all that a checkpointed segment must repeat, whose nodes name their
modules; `checkpoints_f32.pt2`, regions that the model checkpoints; `norms_<dtype>.pt2`, batch norms over rows and over
positions, to be synchronised between ranks; `evaluation_f32.pt2`, one output for each layer that behaves differently
in evaluation, exported in train mode; and `evaluation_f32.safetensors` with `x`, `<output>` for what module.eval()
returns, and `varies`, 1 for each output that differs in training, in the order of the names in the metadata's
`outputs`.

    python make_rewrites.py            write the files beside this script
    python make_rewrites.py --check    compute again and compare with the file instead (no writing)
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from contextlib import nullcontext
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

HERE = Path(__file__).resolve().parent
TOLERANCE = 1e-6  # another processor's kernels may sum in another order


class Block(nn.Module):
    """Draws, counts batches, changes a value in place, and reads a tensor of the whole net."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(16, 32), nn.BatchNorm1d(32), nn.Linear(32, 16)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        h = functional.dropout(self.norm(self.up(x)).relu_(), 0.3, self.training)
        down = self.down(h)
        down[:, 8:].mul_(0.5)  # changes `down` through a view of it
        return x + torch.cat([down[:, :8] * scale, down[:, 8:]], 1)


class Segments(nn.Module):
    """Eight blocks, of which two share their weights, over a tied embedding-like projection used at both ends."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.out = nn.Linear(8, 16), nn.Linear(16, 3)
        self.scale = nn.Parameter(torch.ones(8))
        blocks = [Block() for _ in range(7)]
        self.blocks = nn.ModuleList([*blocks, blocks[2]])

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        for block in self.blocks:
            h = block(h, self.scale)
        h = h + functional.linear(x, self.enter.weight)
        out: Tensor = self.out(h)
        return out


def unchanged() -> tuple[nullcontext[None], nullcontext[None]]:
    """The contexts of a checkpoint's first run and of its second: torch 2.11 cannot export a mark without any."""
    return nullcontext(), nullcontext()


class Checkpoints(nn.Module):
    """Two regions that the model itself checkpoints; exported with `strict=True`, which keeps the mark."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.out = nn.Linear(8, 16), nn.Linear(16, 3)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 16))
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.enter(x))
        for block in self.blocks:
            h = h + checkpoint(block, h, use_reentrant=False, context_fn=unchanged)
        out: Tensor = self.out(h)
        return out


class Norms(nn.Module):
    """A batch norm over rows, one over positions, and one without weights whose momentum is its own."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.out = nn.Linear(8, 6), nn.Linear(6, 3)
        self.rows, self.positions = nn.BatchNorm1d(6), nn.BatchNorm1d(2)
        self.plain = nn.BatchNorm1d(6, affine=False, momentum=0.3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.rows(self.enter(x))) + 0.1 * self.enter(x)
        h = self.positions(h.view(-1, 2, 3)).flatten(1)
        out: Tensor = self.out(self.plain(h.sigmoid()))
        return out


class Evaluation(nn.Module):
    """One output for each layer with a switch. All see the same rows of 6 channels by 8 positions."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(
            {
                "dropout": nn.Dropout(0.5),
                "dropout_in_place": nn.Sequential(nn.Identity(), nn.Tanh(), nn.Dropout(0.5, inplace=True)),
                "dropout1d": nn.Dropout1d(0.5),
                "alpha_dropout": nn.AlphaDropout(0.5),
                "feature_alpha_dropout": nn.FeatureAlphaDropout(0.5),
                "rrelu": nn.RReLU(),
                "batch_norm": nn.BatchNorm1d(6),
                "batch_norm_cumulative": nn.BatchNorm1d(6, momentum=0.9, affine=False),
                "batch_norm_of_the_batch": nn.BatchNorm1d(6, track_running_stats=False),
                "instance_norm": nn.InstanceNorm1d(6, affine=True, track_running_stats=True),
                "instance_norm_of_the_row": nn.InstanceNorm1d(6),
                "transformer": nn.TransformerEncoderLayer(8, 2, 16, dropout=0.4, batch_first=True),
            }
        )
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.4, batch_first=True)
        self.lstm, self.gru, self.rnn = (
            kind(8, 4, num_layers=2, dropout=0.5, batch_first=True) for kind in (nn.LSTM, nn.GRU, nn.RNN)
        )
        self.quiet = nn.BatchNorm1d(6)
        for module in self.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.InstanceNorm1d)) and module.running_mean is not None:
                nn.init.uniform_(module.running_mean, -1, 1)
                nn.init.uniform_(module.running_var, 1, 2)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        out = {name: layer(x) for name, layer in self.layers.items()}
        out["attention"] = self.attention(x, x, x, need_weights=True)[0]
        out["attention_fused"] = functional.scaled_dot_product_attention(x, x, x, dropout_p=0.5 if self.training else 0)
        out |= {name: getattr(self, name)(x)[0] for name in ("lstm", "gru", "rnn")}
        out["native_dropout"] = torch.native_dropout(x, 0.5, self.training)[0]
        out["feature_dropout"] = functional.dropout2d(x.unsqueeze(1), 0.5, self.training).squeeze(1)
        with torch.no_grad():
            out["without_gradients"] = functional.dropout(self.quiet(x), 0.5, self.training)
        return out


def build(kind: type[nn.Module], dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return kind().to(dtype).train()


def export(net: nn.Module, example: Tensor, path: Path, strict: bool = False) -> None:
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(copy.deepcopy(net), (example,), dynamic_shapes=({0: batch},), strict=strict)
    graphs = [module.graph for module in program.graph_module.modules() if isinstance(module, torch.fx.GraphModule)]
    for node in (node for graph in graphs for node in graph.nodes):
        # Stack traces name files of the machine that exported; the modules of a node are what a pattern selects.
        for key in ("stack_trace", "torch_fn", "source_fn_stack", "from_node"):
            node.meta.pop(key, None)
    torch.export.save(program, path)


def evaluate() -> tuple[dict[str, Tensor], dict[str, str]]:
    net = build(Evaluation, torch.float32)
    torch.manual_seed(1)
    x = torch.randn(4, 6, 8)
    with torch.no_grad():
        training = copy.deepcopy(net)(x)
        outputs = net.eval()(x)
    varies = [float(not torch.allclose(training[name], outputs[name])) for name in outputs]
    record = {"x": x, "varies": torch.tensor(varies)} | {
        name: value.clone().contiguous() for name, value in outputs.items()
    }
    return record, {"outputs": json.dumps(list(outputs))}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the file instead of writing")
    check = parser.parse_args().check
    torch.set_num_threads(1)
    record, metadata = evaluate()
    path = HERE / "evaluation_f32.safetensors"
    if check:
        stored = load_file(path)
        worst = max((stored[name] - value).abs().max().item() for name, value in record.items())
        print(f"{path.name}: differs by {worst:.1e}")
        return int(stored.keys() != record.keys() or worst > TOLERANCE)
    save_file(record, path, metadata | {"torch": torch.__version__.partition("+")[0]})
    export(build(Evaluation, torch.float32), torch.randn(4, 6, 8), HERE / "evaluation_f32.pt2")
    export(build(Segments, torch.float32), torch.randn(4, 8), HERE / "segments_f32.pt2")
    export(build(Checkpoints, torch.float32), torch.randn(4, 8), HERE / "checkpoints_f32.pt2", strict=True)
    for tag, dtype in {"f32": torch.float32, "f64": torch.float64}.items():
        export(build(Norms, dtype), torch.randn(4, 8, dtype=dtype), HERE / f"norms_{tag}.pt2")
    return 0


if __name__ == "__main__":
    sys.exit(main())
