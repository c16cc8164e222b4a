"""Ctrl-C while the JVM trains.

A Python thread that waits for the JVM cannot be interrupted well: PySpark's handler of SIGINT asks the JVM to cancel
on the very connection that is waiting, which py4j refuses as a "reentrant call", and the training goes on for nobody.
So the call waits in a thread of its own, and the main thread is free to hear the signal, cancel, and see the end.

Cancelling ends Spark jobs. While `fit` has none, as it waits for task slots or loads libtorch, only its thread in the
JVM can be told: it is interrupted when cancelling has not ended the call.
"""

from __future__ import annotations

import threading
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from py4j.clientserver import ClientServer
from pyspark.util import InheritableThread

if TYPE_CHECKING:
    from collections.abc import Callable

    from py4j.java_gateway import JavaObject
    from pyspark import SparkContext

T = TypeVar("T")

# What cancelling gets before the thread is interrupted: an interrupt would also cut short how a cancelled run frees its
# rows in the executors.
_GRACE_S = 2

# How long a cancelled run may take to leave its slots; training notices within a second.
_PATIENCE_S = 30


def interruptible(context: SparkContext, call: Callable[[], T]) -> T:
    """Return what `call` returns, and on Ctrl-C end it in the JVM before raising KeyboardInterrupt.

    The call sees the local properties of the calling thread, its job group among them. Python delivers signals to the
    main thread alone, so a call from another thread is made right there.
    """
    if threading.current_thread() is not threading.main_thread():
        return call()
    tag = f"kindling-fit-{uuid.uuid4().hex}"
    results: list[T] = []
    failures: list[BaseException] = []
    jvm_threads: list[JavaObject] = []
    cancelled, ended = threading.Event(), threading.Event()

    def work() -> None:
        try:
            context.addJobTag(tag)
            jvm_threads.extend(_jvm_thread(context))
            # The signal may have come while there was no thread to interrupt yet.
            if not cancelled.is_set():
                results.append(call())
        except BaseException as error:  # noqa: BLE001 - raised again where the caller waits
            failures.append(error)
        finally:
            ended.set()

    try:
        # The signal may come as early as here: `ended`, unlike join, can be waited for in any state of the thread.
        InheritableThread(target=work, name="kindling fit", daemon=True).start()
        ended.wait()
    except KeyboardInterrupt:
        cancelled.set()
        # PySpark's handler has cancelled everything by now, a notebook's nothing yet.
        with suppress(Exception):
            context.cancelJobsWithTag(tag)
        try:
            ended.wait(_GRACE_S)
        finally:  # who presses Ctrl-C twice wants it no less
            if not ended.is_set():
                for thread in jvm_threads:
                    with suppress(Exception):
                        thread.interrupt()
        ended.wait(_PATIENCE_S)
        raise
    if failures:
        raise failures[0]
    return results[0]


def _jvm_thread(context: SparkContext) -> list[JavaObject]:
    """The JVM's thread that does what this thread asks for; none without pinned threads, where it may be any."""
    gateway = context._gateway
    return [gateway.jvm.java.lang.Thread.currentThread()] if isinstance(gateway, ClientServer) else []
