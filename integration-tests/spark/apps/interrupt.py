"""Fits for ever, and says so once it does: the test presses Ctrl-C."""

import threading

from common import digits, session
from kindling import TorchEstimator
from torch import nn
from waiting import training

spark = session()
data = digits(spark).cache()
data.count()


def tell():
    training(spark, workers=2)
    print("TRAINING", flush=True)


threading.Thread(target=tell, daemon=True).start()
TorchEstimator(model=nn.Linear(64, 10), maxEpochs=1_000_000, numWorkers=2).fit(data)
