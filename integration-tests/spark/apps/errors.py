"""What goes wrong, one after the other in one application, and a fit that goes right at the end."""

import json
import tempfile
import time
import zipfile
from pathlib import Path

from common import GOLDEN, digits, executors, failure, report, session
from kindling import Dense, Sequential, Softmax, TorchEstimator
from pyspark.sql.functions import col, lit, when
from pyspark.sql.functions import slice as shortened
from torch import nn

spark = session()
folder = Path(tempfile.mkdtemp())
data = digits(spark).cache()
data.count()  # both executors are up
before = executors(spark)
PROGRAM = GOLDEN / "mlp_f32.pt2"


def fails(name, frame=data, **settings):
    failure(name, lambda: TorchEstimator(**{"model": PROGRAM, "numWorkers": 2, **settings}).fit(frame))


# Columns.
fails("no such column", featuresCol="pixels")
fails("no such column, module", model=nn.Linear(64, 10), featuresCol="pixels")
fails("string features", data.withColumn("features", lit("text")))
fails("wrong length", data.withColumn("features", shortened("features", 1, 63)))
fails(
    "ragged",
    data.withColumn("features", when(col("id") == 77, shortened("features", 1, 63)).otherwise(col("features"))),
)
fails("too few columns", data.withColumn("a", lit(1.0)).withColumn("b", lit(1.0)), inputCols=["a", "b"])
fails("empty", data.where("id < 0"))

# Rows.
fails("null label", data.withColumn("label", when(col("id") != 120, col("label"))))
fails("label out of range", data.withColumn("label", when(col("id") == 33, 10).otherwise(col("label"))))
fails("fractional label", data.withColumn("label", when(col("id") == 33, 1.5).otherwise(col("label"))))
fails("null features", data.withColumn("features", when(col("id") != 5, col("features"))))

# Settings.
fails("zero workers", numWorkers=0)
started = time.monotonic()
fails("too many workers", numWorkers=5)
report("too many workers took", seconds=time.monotonic() - started)
fails("unknown optimizer", optimizer="adamant")
fails("cuda", device="cuda")
fails("momentum with adamw", momentum=0.5)
failure("no network", lambda: TorchEstimator().fit(data))
failure("snake case", lambda: TorchEstimator(batch_size=3))
fails("softmax", model=Sequential([Dense(10), Softmax()]))
fails("unexportable", model=nn.Linear(63, 10))

# Archives.
(folder / "truncated.pt2").write_bytes(PROGRAM.read_bytes()[:20_000])
(folder / "text.pt2").write_text("not a zip")
with zipfile.ZipFile(PROGRAM) as good, zipfile.ZipFile(folder / "future.pt2", "w") as bad:
    for name in good.namelist():
        content = good.read(name)
        if name.endswith("models/model.json"):
            document = json.loads(content)
            document["schema_version"]["major"] = 99
            content = json.dumps(document).encode()
        bad.writestr(zipfile.ZipInfo(name), content)
for kind in ("truncated", "text", "future"):
    fails(f"{kind} archive", model=folder / f"{kind}.pt2")
fails("missing archive", model=folder / "nothing.pt2")

# Prediction.
model = TorchEstimator(model=PROGRAM, numWorkers=2).fit(data)
failure("transform without the column", lambda: model.transform(data.drop("features")))
broken = data.withColumn("features", when(col("id") != 5, col("features")))
failure("transform a null", lambda: model.transform(broken).agg({"prediction": "sum"}).collect())

# The executors have seen it all.
report(
    "afterwards",
    before=before,
    after=executors(spark),
    predicted=model.transform(data).where("prediction >= 0").count(),
)
spark.stop()
