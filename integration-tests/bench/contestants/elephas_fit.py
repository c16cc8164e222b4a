"""Elephas, synchronous, on the same rows and net in Keras; in an environment of its own. Argument: the data."""

from __future__ import annotations

import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["PYSPARK_PYTHON"] = sys.executable

import numpy as np
import tensorflow as tf
import workload
from elephas.spark_model import SparkModel

if __name__ == "__main__":
    spark = workload.session()
    frame = spark.read.parquet(sys.argv[1])
    count = frame.count()
    dense = tf.keras.layers.Dense
    net = tf.keras.Sequential(
        [
            tf.keras.layers.Input((workload.WIDTH,)),
            dense(workload.HIDDEN, activation="relu"),
            dense(workload.HIDDEN, activation="relu"),
            dense(workload.CLASSES, activation="softmax"),
        ]
    )
    optimizer = tf.keras.optimizers.Adam(workload.LEARNING_RATE)
    net.compile(optimizer=optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"])

    def fit() -> None:
        rows = frame.rdd.map(lambda row: (np.array(row.features, dtype="float32"), np.int64(row.label)))
        SparkModel(net, frequency="epoch", mode="synchronous", num_workers=workload.WORKERS).fit(
            rows, epochs=workload.EPOCHS, batch_size=workload.ROWS_PER_WORKER, verbose=0, validation_split=0.0
        )

    seconds, _ = workload.timed(fit)
    features, labels = workload.read(sys.argv[1])
    loss = net.evaluate(features[:100_000], labels[:100_000], batch_size=4096, verbose=0)[0]
    workload.result(name="fit", wall_s=seconds, loss=float(loss), rows=count)
    spark.stop()
