"""The same rows in other partitions, on other executors, for other numbers of workers; test_balance.py compares."""

from common import GOLDEN, digits, digits_of, report, session
from kindling import TorchEstimator

spark = session()

# The rows have the same numbers in all of them, for partitions are counted in order.
frames = {
    "even": digits(spark, 1000, 4),
    "one giant partition": digits_of(spark.range(0, 900, 1, 1).union(spark.range(900, 1000, 1, 5))),
    "many, and empty ones": digits_of(spark.range(0, 1000, 1, 12)).where("id >= 0").union(digits_of(spark.range(0))),
}
for name, frame in frames.items():
    for workers in (1, 2):
        summary = (
            TorchEstimator(model=GOLDEN / "mlp_f32.pt2", numWorkers=workers, maxEpochs=2, batchSize=48)
            .fit(frame)
            .summary
        )
        report(
            f"{name}, {workers}",
            losses=[epoch["loss"] for epoch in summary.history],
            rows=summary.rows,
            executors=summary.executors,
        )

few = TorchEstimator(model=GOLDEN / "mlp_f32.pt2", numWorkers=2).fit(digits(spark, 1, 3))
report("fewer rows than workers", rows=few.summary.rows, steps=few.summary.steps)
spark.stop()
