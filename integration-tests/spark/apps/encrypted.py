"""Two workers that were told to encrypt what they send each other, and one that sends nothing: the same steps."""

from common import GOLDEN, digits, report, session
from kindling import TorchEstimator

spark = session(**{"spark.kindling.encryption": "true"})
data = digits(spark).cache()


def losses(frame, workers):
    summary = TorchEstimator(model=GOLDEN / "mlp_f32.pt2", numWorkers=workers, maxEpochs=2).fit(frame).summary
    report(f"workers {workers}", executors=summary.executors, losses=[epoch["loss"] for epoch in summary.history])


losses(data, 2)
losses(data.coalesce(1), 1)
spark.stop()
