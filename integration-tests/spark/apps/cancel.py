"""A fit that would take for ever is cancelled, from a thread of the same application; the next one gets its slots."""

import threading
import time

from common import digits, executors, failure, report, session
from kindling import TorchEstimator
from torch import nn
from waiting import training

spark = session()
data = digits(spark).cache()
net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
data.count()
before = executors(spark)
cancelled_at = 0.0


def cancel():
    global cancelled_at  # noqa: PLW0603
    training(spark, workers=2)
    cancelled_at = time.monotonic()
    spark.sparkContext.cancelAllJobs()


thread = threading.Thread(target=cancel)
thread.start()
failure("cancelled", lambda: TorchEstimator(model=net, maxEpochs=1_000_000, numWorkers=2).fit(data))
report("cancelled took", seconds=time.monotonic() - cancelled_at)
thread.join()

# All slots again: a session that still trained would keep the task threads.
model = TorchEstimator(model=net, numWorkers=2, slotTimeout=30.0).fit(data)
report("next fit", rows=model.summary.rows, before=before, after=executors(spark))
spark.stop()
