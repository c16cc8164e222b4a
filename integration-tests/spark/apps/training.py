"""Fits, transforms, saves and loads in one application; the assertions are in test_training.py."""

import tempfile
from pathlib import Path

import torch
from common import GOLDEN, digits, report, session
from kindling import (
    Concatenate,
    Conv2D,
    Dense,
    Embedding,
    Flatten,
    Input,
    Model,
    Sequential,
    TorchEstimator,
    TorchModel,
)
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.evaluation import MulticlassClassificationEvaluator
from pyspark.ml.feature import VectorAssembler
from pyspark.ml.tuning import CrossValidator, ParamGridBuilder
from torch import nn

spark = session()
folder = Path(tempfile.mkdtemp())
data = digits(spark, 400).cache()

# A module, exported here, trained there.
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
estimator = TorchEstimator(model=net, learningRate=1e-2, maxEpochs=4, numWorkers=2, validationFraction=0.2)
model = estimator.fit(data)
summary = model.summary
predicted = model.transform(data)
accuracy = MulticlassClassificationEvaluator(metricName="accuracy").evaluate(predicted)
report(
    "module",
    history=summary.history,
    rows=summary.rows,
    executors=summary.executors,
    workers=summary.workers,
    text=str(summary),
    accuracy=accuracy,
    columns={field.name: field.dataType.simpleString() for field in predicted.schema},
)

# Rows of a frame of their own validate.
held = digits(spark, 480, 2).where("id >= 400")
watched = TorchEstimator(
    model=net, learningRate=1e-2, maxEpochs=3, numWorkers=2, metrics=["f1", "topK"], topK=3, restoreBestWeights=True
)
validated = watched.fit(data, validation=held).summary
report(
    "validated",
    rows=[validated.rows, validated.validationRows],
    history=validated.history,
    best=validated.bestEpoch,
    stopped=validated.stoppedEarly,
)

# Its weights in PyTorch give its probabilities.
net.load_state_dict(model.state_dict())
rows = predicted.select("features", "probability").limit(50).collect()
with torch.no_grad():
    expected = net.eval()(torch.tensor([row.features for row in rows])).softmax(1)
found = torch.tensor([row.probability.toArray().tolist() for row in rows])
report("state_dict", difference=(found - expected).abs().max().item())

# Saved and loaded, it answers the same, and under the names it is given.
model.save(f"file://{folder}/model")
loaded = TorchModel.load(f"file://{folder}/model")
same = loaded.transform(data).join(predicted.select("id", predicted.prediction.alias("before")), "id")
renamed = loaded.copy().setPredictionCol("guess").setProbabilityCol("").transform(data)
report(
    "loaded",
    kind=type(loaded).__module__ + "." + type(loaded).__name__,
    different=same.where("prediction != before").count(),
    summary=loaded.summary == summary,
    columns=renamed.columns,
    weights=sorted(loaded.state_dict()) == sorted(net.state_dict()),
)

# An estimator that names a file survives saving; one worker and two take the same steps, empty partitions or not.
archive = TorchEstimator(model=GOLDEN / "mlp_f32.pt2", numWorkers=2, seed=3, maxEpochs=2).setBatchSize(50)
archive.save(f"file://{folder}/estimator")
again = TorchEstimator.load(f"file://{folder}/estimator")
sparse = digits(spark, 400, 8).where("id < 130")
report(
    "workers",
    settings=[again.getBatchSize(), again.getNumWorkers(), again.getSeed(), again.getMaxEpochs()],
    two=[epoch["loss"] for epoch in again.fit(sparse).summary.history],
    one=[epoch["loss"] for epoch in again.fit(sparse.coalesce(1), {again.numWorkers: 1}).summary.history],
)

# Several inputs, one column each, integers among them.
tokens = data.selectExpr("features", "array(label, 1, 2, 3, 4) as ids", "label")
several = TorchEstimator(
    model=GOLDEN / "convtransformer_f32.pt2", inputCols=["features", "ids"], maxEpochs=3, numWorkers=2
)
report("several inputs", history=several.fit(tokens).summary.history)

# A list of layers over single columns, squared error.
plane = spark.range(300).selectExpr(
    "sin(id) as a", "cast(id % 7 as int) as b", "2 * sin(id) - (id % 7) / 7.0D as label"
)
layers = Sequential([Dense(16, activation="tanh"), Dense(1)])
line = TorchEstimator(
    model=layers, loss="mse", inputCols=["a", "b"], learningRate=1e-2, maxEpochs=30, numWorkers=2
).fit(plane)
error = line.transform(plane).selectExpr("avg(pow(prediction - label, 2)) as e").head().e
report("regression", error=error, type=line.transform(plane).schema["prediction"].dataType.simpleString())

# A graph of layers: an id and an image, a column for each; predictions need the columns in the same order.
user, pixels = Input((), name="user", dtype="int64"), Input((8, 8, 1), name="pixels")
image = Flatten()(Conv2D(4, 3, activation="relu")(pixels))
graph = Model([user, pixels], Dense(10)(Concatenate()([Embedding(4, 3)(user), Dense(16, activation="relu")(image)])))
visits = data.selectExpr("cast(id % 4 as int) as user", "features", "label")
seen = TorchEstimator(model=graph, inputCols=["user", "features"], learningRate=1e-2, maxEpochs=4, numWorkers=2)
guided = seen.fit(visits)
weights = graph.keras_weights(guided.state_dict())
report(
    "graph",
    history=guided.summary.history,
    predicted=guided.transform(visits).where("prediction = label").count() / visits.count(),
    shapes=[list(weight.shape) for weight in weights],
    same=seen.getModel() == graph,
)

# In a pipeline, saved whole, and searched over a grid.
narrow = data.selectExpr("label", *[f"features[{i}] as f{i}" for i in range(10)])
stage = TorchEstimator(model=nn.Linear(10, 10), learningRate=5e-2, numWorkers=2)
pipeline = Pipeline(stages=[VectorAssembler(inputCols=[f"f{i}" for i in range(10)], outputCol="features"), stage])
fitted = pipeline.fit(narrow)
fitted.save(f"file://{folder}/pipeline")
restored = PipelineModel.load(f"file://{folder}/pipeline")
one, other = (p.transform(narrow).agg({"prediction": "sum"}).head()[0] for p in (fitted, restored))
grid = ParamGridBuilder().addGrid(stage.maxIter, [1, 12]).build()
judge = MulticlassClassificationEvaluator(metricName="accuracy")
search = CrossValidator(estimator=pipeline, estimatorParamMaps=grid, evaluator=judge, numFolds=2, parallelism=2).fit(
    narrow
)
report("pipeline", sums=[one, other], stage=type(restored.stages[-1]).__name__, grid=search.avgMetrics)
spark.stop()
