"""Export and train one small net in the PyTorch that runs this script, for each version whose archives Kindling reads.

    python versions.py            write versions/torch_<version>_<dtype>.*, laid out as make_golden.py says
    python versions.py --check    train again and compare with every version's files

Every version gets a virtual environment of its own, which is thrown away: see README.md. The net holds what has moved
in the archive's schema from version to version, or might: a convolution and batch norm with its buffers, dropout, an
embedding whose weight is the output layer's too, a batch of any size, a buffer that is not saved, and a constant that
export lifts out of `forward`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from make_golden import DTYPES, TOLERANCE, Batch, Case, build, difference, export, noise, train
from safetensors.torch import save_file
from torch import Tensor, nn

FOLDER = Path(__file__).resolve().parent / "versions"


class Everything(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.mix = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(64, 8)
        self.emb, self.drop, self.out = nn.Embedding(12, 8), nn.Dropout(0.0), nn.Linear(8, 12, bias=False)
        self.out.weight = self.emb.weight
        self.register_buffer("scale", torch.linspace(0.5, 1.5, 8), persistent=False)

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        seen = self.mix(torch.relu(self.bn(self.conv(x.view(-1, 1, 6, 6)))).reshape(x.shape[0], -1))
        weights = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=x.dtype)
        read = (self.emb(ids) * weights.unsqueeze(-1)).sum(1)
        out: Tensor = self.out(self.drop(torch.tanh(seen + read)) * self.scale)
        return out


def batch(rows: int, dtype: torch.dtype) -> Batch:
    return (torch.randn(rows, 36, dtype=dtype), torch.randint(0, 12, (rows, 4))), torch.randint(0, 12, (rows,))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the files instead of writing them")
    check = parser.parse_args().check
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    version = torch.__version__.partition("+")[0]
    failed = 0
    for tag, dtype in DTYPES.items():
        case = Case("torch_" + "_".join(version.split(".")[:2]), Everything, batch, steps=8)
        name, rows = f"{case.name}_{tag}", 8
        record = train(case, dtype, rows)
        if check:
            for path in sorted(FOLDER.glob(f"torch_*_{tag}.safetensors")):
                worst = difference(record, path)
                failed += worst > TOLERANCE[tag]
                print(f"{path.name}: {version} differs by {worst:.1e}")
            continue
        torch.manual_seed(2)
        export(build(case, dtype), batch(4, dtype)[0], FOLDER / f"{name}.pt2")
        record |= noise(record, train(case, dtype, rows, fused=True))
        metadata = {"program": f"{name}.pt2", "loss": case.loss, "optimizer": json.dumps(case.optimizer)}
        save_file(record, FOLDER / f"{name}.safetensors", metadata | {"torch": version})
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
