"""Fitted models go back to PyTorch and to another fit; the assertions are in test_export.py."""

import tempfile
from pathlib import Path

import torch
from common import digits, failure, report, session
from kindling import BatchNormalization, Conv2D, Dense, Dropout, Flatten, Sequential, TorchEstimator, TorchModel
from torch import Tensor, nn

spark = session()
folder = Path(tempfile.mkdtemp())
data = digits(spark, 200).cache()
rows = data.orderBy("id").limit(40).collect()
features = torch.tensor([row.features for row in rows])


class Net(nn.Module):
    """Weights in every layout: plain, tied, transposed, and a slice of a larger storage; and modes to switch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(64, 10), nn.BatchNorm1d(10), nn.Dropout(0.5)
        self.mix = nn.Linear(10, 10, bias=False)
        self.again = self.mix
        self.turned = nn.Parameter(torch.randn(6, 10).t() / 3)
        self.slice = nn.Parameter(torch.randn(8, 12)[1:7, 2:])
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.drop(self.norm(self.first(x)))
        hidden = torch.relu(self.again(torch.tanh(self.mix(hidden))))
        out: Tensor = hidden @ self.turned @ self.slice * self.scale  # type: ignore[operator]
        return out


def outputs(path: Path) -> Tensor:
    """What torch makes of the archive."""
    with torch.no_grad():
        out: Tensor = torch.export.load(path).module()(features)
        return out.double()


def predicted(model: TorchModel) -> Tensor:
    found = model.transform(data.orderBy("id").limit(40)).orderBy("id").select("probability").collect()
    return torch.tensor([row.probability.toArray().tolist() for row in found], dtype=torch.float64)


def difference(one: Tensor, other: Tensor) -> float:
    return (one - other).abs().max().item()


torch.manual_seed(0)
net = Net()
# By torch itself: kindling.export works on a copy, in which a slice has a storage of its own.
batch = torch.export.Dim("batch", min=2)
exported = torch.export.export(net.train(), (torch.zeros(4, 64),), dynamic_shapes=({0: batch},), strict=False)
torch.export.save(exported, folder / "net.pt2")
# Batches of 50 of 200 rows: wherever the partitions land, no rank has a single row for batch norm.
estimator = TorchEstimator(model=folder / "net.pt2", learningRate=1e-2, batchSize=50, maxEpochs=2, numWorkers=2)
model = estimator.fit(data)
model.exportProgram(folder / "training.pt2")
model.exportProgram(f"file://{folder}/evaluation.pt2", mode="evaluation")
model.exportWeights(folder / "net.safetensors")

# The same random numbers are dropped, and the same statistics taken, as by the module with the trained weights.
net.load_state_dict(model.state_dict())
program = torch.export.load(folder / "training.pt2")
torch.manual_seed(1)
with torch.no_grad():
    expected = net.train()(features)
torch.manual_seed(1)
with torch.no_grad():
    found = program.module()(features)
state = program.state_dict
report(
    "archive",
    training=difference(found, expected),
    evaluation=difference(outputs(folder / "evaluation.pt2").softmax(1), predicted(model)),
    layouts={name: [list(state[name].stride()), state[name].storage_offset()] for name in ("turned", "slice")},
    tied=state["mix.weight"].data_ptr() == state["again.weight"].data_ptr(),
    names=sorted(state) == sorted(net.state_dict()),
)

# On in another run: from where it stopped, not from the start.
further = TorchEstimator(model=folder / "training.pt2", learningRate=1e-2, batchSize=50, maxEpochs=1, numWorkers=2).fit(
    data
)
report(
    "further",
    first=model.summary.history[0]["loss"],
    last=model.summary.history[-1]["loss"],
    on=further.summary.history[0]["loss"],
)

layers = Sequential(
    [
        Conv2D(4, 3, padding="same", activation="relu"),
        BatchNormalization(),
        Dropout(0.3),
        Flatten(),
        Dense(10),
    ],
    inputShape=(1, 8, 8),
)
listed = TorchEstimator(model=layers, learningRate=1e-2, batchSize=50, maxEpochs=2, numWorkers=2).fit(data)
listed.exportProgram(folder / "layers.pt2", mode="evaluation")
features = features.view(-1, 1, 8, 8)
exported = torch.export.load(folder / "layers.pt2")
report(
    "layers",
    evaluation=difference(outputs(folder / "layers.pt2").softmax(1), predicted(listed)),
    names=sorted(exported.state_dict) == sorted(listed.state_dict()),
    one=list(exported.module()(features[:1]).shape),
)

failure("taken", lambda: model.exportWeights(folder / "net.safetensors"))
failure("mode", lambda: model.exportProgram(folder / "other.pt2", mode="inference"))
spark.stop()
