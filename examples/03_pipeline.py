"""Lesson 3: the network is one stage of a Spark ML pipeline, and its weights go back to PyTorch.

The pipeline assembles and scales thirteen columns and classifies them. It is saved and loaded like any other, and the
weights fit the module they came from.

    python 03_pipeline.py
"""

import tempfile

import torch
from kindling import TorchEstimator, jar_path
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.feature import StandardScaler, VectorAssembler
from pyspark.sql import SparkSession
from sklearn.datasets import load_wine
from torch import nn

spark = SparkSession.builder.master("local[2]").config("spark.jars", jar_path()).getOrCreate()

wine = load_wine(as_frame=True).frame
columns = [name for name in wine.columns if name != "target"]
data = spark.createDataFrame([tuple(map(float, row)) for row in wine.itertuples(index=False)], [*columns, "label"])

net = nn.Sequential(nn.Linear(13, 32), nn.Tanh(), nn.Linear(32, 3))
pipeline = Pipeline(
    stages=[
        VectorAssembler(inputCols=columns, outputCol="raw"),
        StandardScaler(inputCol="raw", outputCol="features", withMean=True),
        TorchEstimator(model=net, learningRate=1e-2, batchSize=16, maxEpochs=20, numWorkers=2, seed=1),
    ]
)
fitted = pipeline.fit(data)

with tempfile.TemporaryDirectory() as folder:
    fitted.save(f"file://{folder}/wine")
    loaded = PipelineModel.load(f"file://{folder}/wine")
predictions = loaded.transform(data)
print(f"right: {predictions.where('prediction = label').count()} of {data.count()}")

# The same weights in PyTorch give the same answers.
net.load_state_dict(fitted.stages[-1].state_dict())
first = predictions.select("features", "probability").head()
with torch.no_grad():
    probability = net.eval()(torch.tensor(first.features.toArray(), dtype=torch.float32)).softmax(0)
torch.testing.assert_close(probability, torch.tensor(first.probability.toArray(), dtype=torch.float32))
print("PyTorch agrees")
spark.stop()
