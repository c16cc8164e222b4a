"""An executor is killed while it trains; the fit ends by name, and once Spark has replaced it the next fit trains."""

import os
import signal
import threading
import time
from pathlib import Path

from common import digits, failure, report, session
from kindling import TorchEstimator
from torch import nn
from waiting import training

spark = session()
data = digits(spark).cache()
net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
data.count()
killed_at = 0.0


def executor_processes() -> list[int]:
    """The executors of a local cluster are children of the JVM that this application started."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    app = spark.sparkContext.applicationId
    found = []
    for pid in pids:
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if "org.apache.spark.executor.CoarseGrainedExecutorBackend" in line and app in line:
            found.append(pid)
    return found


def kill() -> None:
    global killed_at  # noqa: PLW0603
    training(spark, workers=2)
    killed_at = time.monotonic()
    os.kill(executor_processes()[0], signal.SIGKILL)


thread = threading.Thread(target=kill)
thread.start()
failure("lost", lambda: TorchEstimator(model=net, maxEpochs=1_000_000, numWorkers=2).fit(data))
report("lost took", seconds=time.monotonic() - killed_at)
thread.join()

model = TorchEstimator(model=net, numWorkers=2, slotTimeout=60.0).fit(data)
report("next fit", rows=model.summary.rows)
spark.stop()
