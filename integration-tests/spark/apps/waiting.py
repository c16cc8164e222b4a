"""Knowing from the outside that the workers of a fit are at work."""

import time

DEADLINE_S = 60


def training(spark, workers):
    """Return once a stage of `workers` barrier tasks has them all running; give up after a minute."""
    tracker, until = spark.sparkContext.statusTracker(), time.monotonic() + DEADLINE_S
    while time.monotonic() < until:
        for stage in tracker.getActiveStageIds():
            info = tracker.getStageInfo(stage)
            if info is not None and info.numTasks == info.numActiveTasks == workers:
                return
        time.sleep(0.05)
    raise TimeoutError(f"no stage of {workers} tasks was running within {DEADLINE_S} s")
