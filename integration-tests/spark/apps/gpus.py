"""Executors with a GPU that only Spark believes in: who asks for it, and what it says."""

import tempfile
from pathlib import Path

from common import GOLDEN, digits, failure, report, session
from kindling import TorchEstimator

discovery = Path(tempfile.mkdtemp()) / "gpus.sh"
# No machine has as many GPUs.
discovery.write_text("""#!/bin/sh\necho '{"name": "gpu", "addresses": ["99"]}'\n""")
discovery.chmod(0o755)

spark = session(
    **{
        "spark.worker.resource.gpu.amount": "1",
        "spark.worker.resource.gpu.discoveryScript": str(discovery),
        "spark.executor.resource.gpu.amount": "1",
        "spark.task.resource.gpu.amount": "1",
    }
)
data = digits(spark).cache()
data.count()


def estimator(**settings: str) -> TorchEstimator:
    return TorchEstimator(model=GOLDEN / "mlp_f32.pt2", numWorkers=2, **settings)


failure("auto", lambda: estimator().fit(data))
failure("cuda", lambda: estimator(device="cuda").fit(data))
model = estimator(device="cpu").fit(data)
report("cpu", rows=model.summary.rows)
failure("predictions", lambda: model.setDevice("cuda").transform(data).select("prediction").collect())
spark.stop()
