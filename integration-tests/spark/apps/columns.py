"""Columns that are no numbers, in a fit, a transform and a stream; the assertions are in test_columns.py."""

import tempfile
from pathlib import Path

import torch
from common import report, session
from kindling import InvalidArgumentError, TorchEstimator, TorchModel
from pyspark.ml import Pipeline, PipelineModel
from torch import nn

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
