"""Lesson 1: train a PyTorch network where the data is.

Handwritten digits lie in a Parquet folder. An ordinary `torch.nn.Module` learns them inside Spark's executors, two
replicas in step, and comes back as an ordinary Spark ML model that labels a DataFrame.

    python 01_digits.py --master 'local-cluster[2,1,2048]' --workers 2 --epochs 20
"""

import argparse
import tempfile
import time
from pathlib import Path

from kindling import TorchEstimator, jar_path
from pyspark.ml.evaluation import MulticlassClassificationEvaluator
from pyspark.sql import SparkSession
from sklearn.datasets import load_digits
from torch import nn

# The other lessons read it too.
DATA = Path(tempfile.gettempdir()) / "kindling-digits.parquet"

parser = argparse.ArgumentParser()
parser.add_argument("--master", default="local-cluster[2,1,2048]", help="two executors of one core on this machine")
parser.add_argument("--workers", type=int, default=2)
parser.add_argument("--epochs", type=int, default=20)
args = parser.parse_args()

started = time.monotonic()
spark = (
    SparkSession.builder.appName("digits")
    .master(args.master)
    .config("spark.jars", jar_path())
    .config("spark.executor.memory", "1g")
    .getOrCreate()
)

# 1797 images of 8 x 8 pixels as rows of 64 floats in 0..1, in four files: one fifth is held out.
digits = load_digits()
rows = [(i % 5 == 0, x.tolist(), int(y)) for i, (x, y) in enumerate(zip(digits.data / 16, digits.target, strict=True))]
frame = spark.createDataFrame(rows, "heldOut boolean, features array<float>, label int")
frame.repartition(4).write.mode("overwrite").parquet(DATA.as_uri())

data = spark.read.parquet(DATA.as_uri())
train, test = data.where("not heldOut"), data.where("heldOut")

net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.1), nn.Linear(128, 10))
estimator = TorchEstimator(model=net, learningRate=3e-3, batchSize=32, maxEpochs=args.epochs, numWorkers=args.workers)
model = estimator.fit(train)
print(model.summary)

accuracy = MulticlassClassificationEvaluator(metricName="accuracy").evaluate(model.transform(test))
run = model.summary
print(
    f"demo: accuracy={accuracy:.3f} rows={run.rows} workers={run.workers} executors={run.executors}"
    f" wall_s={time.monotonic() - started:.1f}"
)
spark.stop()
