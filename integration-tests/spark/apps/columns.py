"""Columns that are no numbers, in a fit, a transform and a stream; the assertions are in test_columns.py."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from common import report, session
from kindling import InvalidArgumentError, TorchEstimator, TorchModel, export
from PIL import Image
from pyspark.ml import Pipeline, PipelineModel
from pyspark.sql import functions
from torch import nn
from torchvision.transforms.functional import resize

spark = session()
folder = Path(tempfile.mkdtemp())


class Ages(nn.Module):
    """An id of an animal, which is a string in the data, and its age."""

    def __init__(self) -> None:
        super().__init__()
        self.animal = nn.Embedding(3, 4)
        self.out = nn.Linear(5, 2)

    def forward(self, animal: torch.Tensor, age: torch.Tensor) -> torch.Tensor:
        return self.out(torch.cat([self.animal(animal), age], 1))


# Strings are indexed in fit, the label among them, and the model tells strings.
zoo = spark.range(240).selectExpr(
    "case when id % 6 < 3 then 'emu' when id % 6 < 5 then 'cat' else 'dog' end as animal",
    "cast(id % 3 as float) as age",
    "case when id % 6 < 3 then 'egg' else 'live' end as birth",
)
torch.manual_seed(0)
estimator = TorchEstimator(
    model=Ages(),
    inputCols=["animal", "age"],
    inputShapes=[[], [1]],
    labelCol="birth",
    indexCols=["animal", "birth"],
    predictedLabelCol="told",
    learningRate=5e-2,
    maxEpochs=20,
    numWorkers=2,
)
Pipeline(stages=[estimator]).fit(zoo).save(f"file://{folder}/zoo")
fitted = PipelineModel.load(f"file://{folder}/zoo")
model = fitted.stages[0]
assert isinstance(model, TorchModel)
told = fitted.transform(zoo)
unseen = zoo.limit(1).selectExpr("'gnu' as animal", "age", "birth")
try:
    fitted.transform(unseen).collect()
    refusal = ""
except InvalidArgumentError as error:
    refusal = str(error)
except Exception as error:  # noqa: BLE001 - what a job of the user's raises is Spark's
    refusal = str(error)
report(
    "strings",
    animals=model.vocabulary("animal"),
    births=model.vocabulary("birth"),
    right=told.where("told = birth").count(),
    type=told.schema["told"].dataType.simpleString(),
    refusal=refusal,
)


class Twofold(nn.Module):
    """Logits, and beside them what they are made of and one number of it."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        hidden = torch.tanh(self.hidden(x))
        return self.out(hidden), hidden, hidden.sum(1)


# Other outputs beside the prediction: of a loaded model, and on a stream.
points = spark.range(80).selectExpr(
    "id", "transform(sequence(0, 3), i -> cast(sin(id * 3 + i * i) as float)) as features", "id % 2 as label"
)
points.write.parquet(f"file://{folder}/points")
twofold = Twofold()
TorchEstimator(model=twofold, outputCols=["", "hidden", "sum"], numWorkers=2).fit(points).save(
    f"file://{folder}/twofold"
)
outputs = TorchModel.load(f"file://{folder}/twofold")
twofold.load_state_dict(outputs.state_dict())
stream = spark.readStream.schema(points.schema).parquet(f"file://{folder}/points")
query = outputs.transform(stream).writeStream.format("memory").queryName("streamed").trigger(availableNow=True).start()
query.awaitTermination(300)
differences = {}
for how, frame in {"loaded": outputs.transform(points), "stream": spark.table("streamed")}.items():
    rows = frame.orderBy("id").collect()
    with torch.no_grad():
        logits, hidden, total = twofold.eval()(torch.tensor([row.features for row in rows]))
    differences[how] = [
        (torch.tensor([row.hidden.toArray().tolist() for row in rows]) - hidden).abs().max().item(),
        (torch.tensor([row["sum"] for row in rows]) - total).abs().max().item(),
        float(sum(row.prediction != choice for row, choice in zip(rows, logits.argmax(1).tolist(), strict=True))),
    ]
report(
    "outputs",
    differences=differences,
    types={field.name: field.dataType.simpleString() for field in outputs.transform(points).schema},
    columns=outputs.copy({outputs.outputCols: ["raw", "", ""]}).transform(points).columns,
)


class Shown(nn.Module):
    """Predicts the pixels that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.scale).flatten(1)


# Pictures: files and Spark's image structs, decoded and resized as Pillow and torchvision do it.
SIZE, CHANNELS = (24, 32), 3
pictures = folder / "pictures"
pictures.mkdir()
noise = np.random.default_rng(3)
for number in range(6):
    y, x = np.mgrid[0:61, 0:83]
    waves = [128 + 100 * np.sin(x / (5 + number) + y / (9 - channel) + channel) for channel in range(3)]
    pixels = np.clip(np.stack(waves, -1) + noise.normal(0, 12, (61, 83, 3)), 0, 255).astype(np.uint8)
    kind = "png" if number < 3 else "jpg"
    Image.fromarray(pixels if number else pixels[:, :, 0]).save(pictures / f"{number}.{kind}", quality=90)
expected = {}
for path in sorted(pictures.iterdir()):
    with Image.open(path) as opened:
        small = opened.convert("RGB").resize(SIZE[::-1], Image.Resampling.BILINEAR)
        decoded = torch.from_numpy(np.array(opened.convert("RGB"))).permute(2, 0, 1)
    expected[path.name] = (
        np.asarray(small).transpose(2, 0, 1).ravel() / 255,
        resize(decoded, list(SIZE), antialias=True).numpy().ravel() / 255,
    )

zeros = functions.array_repeat(functions.lit(0.0), CHANNELS * SIZE[0] * SIZE[1]).alias("label")
files = spark.read.format("binaryFile").load(f"file://{pictures}").select("path", "content", zeros)
structs = spark.read.format("image").load(f"file://{pictures}").select("image", zeros)
shower = TorchEstimator(
    model=Shown(),
    featuresCol="content",
    inputShapes=[[CHANNELS, *SIZE]],
    loss="mse",
    learningRate=1e-12,
    weightDecay=0.0,
)
shown = shower.fit(files)
found = {
    "files": shown.transform(files).select("path", "prediction").collect(),
    "structs": shown.copy({shown.featuresCol: "image"})
    .transform(structs)
    .select(structs.image.origin, "prediction")
    .collect(),
}
worst: dict[str, float] = {}
mean: dict[str, float] = {}
for how, rows in found.items():
    for origin, prediction in rows:
        name = origin.rsplit("/", 1)[1]
        for other, reference in zip(("pillow", "torchvision"), expected[name], strict=True):
            difference = np.abs(prediction.toArray() - reference) * 255
            key = f"{how} {name[-3:]} {other}"
            worst[key] = max(worst.get(key, 0.0), float(difference.max()))
            mean[key] = max(mean.get(key, 0.0), float(difference.mean()))
report("pictures", counts=[len(rows) for rows in found.values()], worst=worst, mean=mean)


class Pixels(nn.Module):
    """Two classes of pictures, whose bytes it divides by itself if they come as such."""

    def __init__(self, *, whole: bool) -> None:
        super().__init__()
        self.whole = whole
        torch.manual_seed(5)
        self.out = nn.Linear(CHANNELS * SIZE[0] * SIZE[1], 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out((x.float() / 255 if self.whole else x).flatten(1))


# A program of bytes learns what one of numbers between 0 and 1 does, if no pixel is in between: no picture is resized.
exact = folder / "exact"
exact.mkdir()
for number in range(40):
    pixels = noise.integers(0, 256 - 100 * (number % 2), (*SIZE, CHANNELS), dtype=np.uint8)
    Image.fromarray(pixels).save(exact / f"{number:02}.png")
labelled = (
    spark.read.format("binaryFile")
    .load(f"file://{exact}")
    .selectExpr("content", "cast(substring_index(path, '/', -1) as string) as name")
    .selectExpr("content", "name", "int(substring(name, 1, 2)) % 2 as label")
    .orderBy("name")
)
learned: dict[str, list[float]] = {}
right = {}
for kind, whole in {"uint8": True, "float32": False}.items():
    example = torch.zeros(2, CHANNELS, *SIZE, dtype=torch.uint8 if whole else torch.float32)
    export(Pixels(whole=whole), (example,), folder / f"{kind}.pt2")
    fitted_pixels = TorchEstimator(
        model=folder / f"{kind}.pt2",
        featuresCol="content",
        batchSize=16,
        maxEpochs=3,
        numWorkers=2,
    ).fit(labelled)
    learned[kind] = [epoch["loss"] for epoch in fitted_pixels.summary.history]
    right[kind] = fitted_pixels.transform(labelled).where("prediction = label").count()
report("bytes", losses=learned, right=right)
