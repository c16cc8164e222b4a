"""Fits for ever, and says so once it does: the test presses Ctrl-C. As in a notebook, the session then goes on."""

import threading

from common import digits, executors, report, session
from kindling import TorchEstimator
from torch import nn
from waiting import training

spark = session()
data = digits(spark).cache()
data.count()
before = executors(spark)


def tell():
    training(spark, workers=2)
    print("TRAINING", flush=True)


threading.Thread(target=tell, daemon=True).start()
try:
    TorchEstimator(model=nn.Linear(64, 10), maxEpochs=1_000_000, numWorkers=2).fit(data)
except KeyboardInterrupt:
    report("interrupted")

model = TorchEstimator(model=nn.Linear(64, 10), numWorkers=2, slotTimeout=30.0).fit(data)
report("next fit", rows=model.summary.rows, before=before, after=executors(spark))
spark.stop()
