"""Data at the edge of what there is, and beyond it, one after the other in one application; for test_hostile.py."""

import tempfile
from datetime import date, datetime
from pathlib import Path

from common import GOLDEN, digits, executors, failure, report, session
from kindling import TorchEstimator
from pyspark.ml.linalg import Vectors, VectorUDT
from pyspark.sql import Row
from pyspark.sql import functions as f
from pyspark.sql.types import ArrayType, FloatType, IntegerType, StructField, StructType
from torch import nn

spark = session()
folder = Path(tempfile.mkdtemp())
data = digits(spark).cache()
data.count()  # both executors are up
before = executors(spark)
PROGRAM = GOLDEN / "mlp_f32.pt2"


def estimator(settings):
    return TorchEstimator(**{"model": PROGRAM, "numWorkers": 2, **settings})


def fails(name, frame=data, **settings):
    failure(name, lambda: estimator(settings).fit(frame))


def works(name, frame=data, **settings):
    summary = estimator(settings).fit(frame).summary
    report(name, rows=summary.rows, steps=summary.steps, losses=[epoch["loss"] for epoch in summary.history])


def at_120(column, value):
    """The data with another value in row 20 of partition 2."""
    return data.withColumn(column, f.when(f.col("id") == 120, value).otherwise(data[column]))


def with_element(value):
    return at_120("features", f.transform("features", lambda x, i: f.when(i == 3, value).otherwise(x)))


def weighing(value):
    return data.withColumn("w", f.when(f.col("id") == 120, value).otherwise(1.0))


# Numbers that are none.
hole = f.lit(None).cast("float")
fails("NaN", with_element(f.lit(float("nan"))))
fails("null element", with_element(hole))
works("null element kept", with_element(hole), handleInvalid="keep")
works("null element skipped", with_element(hole), handleInvalid="skip")
fails("nothing left", data.withColumn("features", f.lit(None).cast("array<float>")), handleInvalid="skip")
works("infinite feature", with_element(f.lit(float("inf"))))
fails("infinite label", at_120("label", float("inf")))
fails("negative label", at_120("label", -1))
fails("NaN label", at_120("label", float("nan")))
fails("null label type", data.withColumn("label", f.lit(None)))
for name, value in {"negative": -1.0, "infinite": float("inf"), "NaN": float("nan"), "null": None}.items():
    fails(f"{name} weight", weighing(value), weightCol="w")
fails("text weight", data.withColumn("w", f.lit("1")), weightCol="w")
fails("null indicator", data.withColumn("v", f.when(f.col("id") != 120, True)), validationIndicatorCol="v")
fails("all validate", data.withColumn("v", f.lit(True)), validationIndicatorCol="v")

# Columns.
fails("no columns", spark.range(10).select())
fails("another in capitals", data.select("features", "label", (data.label + 1).alias("Label")))
works("a column twice", data.select("id", "id", "features", "label", "label"))
works(
    "dots and backticks",
    data.withColumnRenamed("features", "a.b`c").withColumnRenamed("label", "`l."),
    featuresCol="a.b`c",
    labelCol="`l.",
)
fails("map", data.withColumn("features", f.create_map(f.lit(1), f.lit(2.0))))
fails("array of arrays", data.withColumn("features", f.array("features")))
fails("array of strings", data.withColumn("features", f.array(f.lit("1"))))
fails("interval", data.withColumn("features", f.expr("interval 1 day")))
fails("bytes for numbers", data.withColumn("features", f.lit(bytearray(64))))
pixels = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
fails("bytes for a picture", data.withColumn("features", f.lit(bytearray(64))), model=pixels, inputShapes=[[1, 8, 8]])
fails("ragged labels", data.withColumn("label", f.array_repeat(f.lit(1.0), (f.col("id") % 3).cast("int"))), loss="mse")
inner = StructType([StructField("b", ArrayType(FloatType()))])
outer = StructType([StructField("a", inner), StructField("label", IntegerType())])
structs = spark.createDataFrame([Row(a=Row(b=[0.5] * 64), label=1), Row(a=None, label=1)], outer).coalesce(1)
fails("null struct", structs, featuresCol="a.b")
works("null struct skipped", structs, featuresCol="a.b", handleInvalid="skip")
fails("no such field", structs, featuresCol="a.c")
vectors = StructType([StructField("features", VectorUDT()), StructField("label", IntegerType())])
for name, vector in {
    "short vector": Vectors.dense([0.0] * 63),
    "long vector": Vectors.sparse(1000, [999], [1.0]),
    "null vector": None,
    "NaN in a vector": Vectors.sparse(64, [3], [float("nan")]),
}.items():
    fails(name, spark.createDataFrame([(Vectors.dense([0.0] * 64), 1), (vector, 1)], vectors).coalesce(1))

# Types at their ends. The rate is too small to move anything.
line = {"model": nn.Linear(1, 1).double(), "inputShapes": [[1]], "loss": "mse", "learningRate": 1e-300}
old = [(datetime(1900 + i, 1, 1), date(1 + i, 1, 1), 0.0) for i in range(30)]
times = spark.createDataFrame(old, "t timestamp, d date, label double")
works("times before 1970", times, featuresCol="t", **line)
works("dates of the first century", times, featuresCol="d", **line)
fails("times in float32", times, featuresCol="t", **{**line, "model": nn.Linear(1, 1)})
wide = spark.range(40).selectExpr(
    "cast('12345678901234567890.123456789012345678' as decimal(38, 18)) as x", "0D as label"
)
works("wide decimals", wide, featuresCol="x", **line)

# Partitions and batches.
works("more workers than rows", digits(spark, 1, 1))
works("a thousand empty partitions", digits(spark, 3, 1000))
fails("all filtered", data.where("id < 0").repartition(7))
fails("no rows", spark.createDataFrame([], data.schema))
works("batch of one", digits(spark, 20, 2), batchSize=1)
works("batch beyond all rows", batchSize=2**31 - 1)
fails("batch beyond the JVM", batchSize=2**31)

# Plans that fail.
fails("failing function", data.withColumn("label", f.udf(lambda i: 0 * (1 // (i - 120)), "int")("id")))
fails("failing cast", data.withColumn("label", f.expr("cast(concat('x', id) as int)")))
stream = spark.readStream.format("rate").load().selectExpr("value as label", "array_repeat(1f, 64) as features")
fails("stream", stream)
data.write.parquet(f"file://{folder}/gone")
gone = spark.read.parquet(f"file://{folder}/gone")
for path in (folder / "gone").glob("part-*"):
    path.unlink()
fails("files that are gone", gone)

works("afterwards")
report("executors", before=before, after=executors(spark))
spark.stop()
