"""An executor stops while it trains, as a machine does that hangs: it closes no connection. The fit ends by name.

The test stops it, and learns from this output when and which, as with `lost.py`.
"""

from common import digits, executor_processes, failure, session
from kindling import TorchEstimator
from torch import nn

spark = session(**{"spark.kindling.progress": "plain"})
data = digits(spark).cache()
data.count()
print("PROCESSES", *executor_processes(spark), flush=True)
estimator = TorchEstimator(
    model=nn.Linear(64, 10), maxEpochs=1_000_000, batchSize=1, numWorkers=2, heartbeatInterval=0.5
)
failure("stopped", lambda: estimator.fit(data))
# No orderly end: Spark would wait for the executor.
