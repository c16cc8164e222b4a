"""An executor is killed while it trains; the fit ends by name, and once Spark has replaced it the next fit trains.

The test kills, and looks at the records in the folder that is the argument. It learns the executors' process numbers
from the line PROCESSES, and that both train from Kindling's line about an epoch: before, there is nothing to record.
"""

import sys

from common import digits, executor_processes, failure, report, session
from kindling import TorchEstimator
from torch import nn

spark = session(**{"spark.kindling.recordFolder": sys.argv[1], "spark.kindling.progress": "plain"})
data = digits(spark).cache()
net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
data.count()
print("PROCESSES", *executor_processes(spark), flush=True)

# Batches of one row: each epoch, which prints a line, takes a while.
failure("lost", lambda: TorchEstimator(model=net, maxEpochs=1_000_000, batchSize=1, numWorkers=2).fit(data))

model = TorchEstimator(model=net, numWorkers=2, slotTimeout=60.0).fit(data)
report("next fit", rows=model.summary.rows)
spark.stop()
