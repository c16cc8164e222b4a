"""Lesson 2: a network as a list of layers.

No torch is imported here: the layers are named as in Keras, and the driver builds the program from the list. What
validates is chosen row by row inside the executors, without a second pass over the data.

    python 01_digits.py      # once: it writes the data
    python 02_sequential.py
"""

import tempfile
from pathlib import Path

from kindling import (
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    ReLU,
    Reshape,
    Sequential,
    TorchEstimator,
    jar_path,
)
from pyspark.sql import SparkSession

spark = SparkSession.builder.master("local[2]").config("spark.jars", jar_path()).getOrCreate()
data = spark.read.parquet((Path(tempfile.gettempdir()) / "kindling-digits.parquet").as_uri())

net = Sequential(
    [
        Reshape((8, 8, 1)),  # one row of 64 floats is one image: height, width, channels
        Conv2D(16, 3, padding="same"),
        BatchNormalization(),
        ReLU(),
        Flatten(),
        Dense(64, activation="relu"),
        Dropout(0.2),
        Dense(10),  # ten scores: crossEntropy takes no softmax
    ]
)
estimator = TorchEstimator(model=net, maxEpochs=8, learningRate=2e-3, validationIndicatorCol="heldOut", numWorkers=2)
model = estimator.fit(data)
print(model.summary)

model.transform(data.where("heldOut")).select("label", "prediction", "probability").show(5)
spark.stop()
