"""What the caller sees of a call that waits in another thread."""

from __future__ import annotations

import os
import signal
import threading
from types import SimpleNamespace
from typing import Any

import pytest

import kindling.interrupt
from kindling.interrupt import interruptible


class JvmThread:
    """A java.lang.Thread; interrupting it ends the call that waits in it."""

    def __init__(self) -> None:
        self.owner = threading.current_thread()
        self.interrupted = threading.Event()

    def interrupt(self) -> None:
        self.interrupted.set()


class Gateway:
    """A py4j gateway with pinned threads: to each thread of Python its own of the JVM."""

    def __init__(self) -> None:
        self.jvm = SimpleNamespace(java=SimpleNamespace(lang=SimpleNamespace(Thread=self)))
        self.threads: list[JvmThread] = []

    def currentThread(self) -> JvmThread:
        self.threads.append(JvmThread())
        return self.threads[-1]


class Context:
    """A SparkContext as far as tags go: cancelling a tag ends the jobs that have it."""

    def __init__(self, gateway: Gateway | None) -> None:
        self._gateway = gateway
        self.tags: list[str] = []
        self.cancelled = threading.Event()

    def addJobTag(self, tag: str) -> None:
        self.tags.append(tag)

    def cancelJobsWithTag(self, tag: str) -> None:
        assert tag in self.tags
        self.cancelled.set()


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(kindling.interrupt, "InheritableThread", threading.Thread)
    monkeypatch.setattr(kindling.interrupt, "ClientServer", Gateway)
    # A shell without job control starts what it puts in the background deaf to Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield Context(Gateway())
    signal.signal(signal.SIGINT, before)


def test_a_result_comes_back(context: Any) -> None:
    assert interruptible(context, lambda: 3) == 3
    assert context.tags, "its jobs can be found"


def test_an_error_comes_back_as_itself(context: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        interruptible(context, lambda: 1 // 0)


def test_ctrl_c_cancels_the_jobs_and_waits_for_their_end(context: Any) -> None:
    ended = threading.Event()

    def call() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        assert context.cancelled.wait(10)
        ended.set()

    with pytest.raises(KeyboardInterrupt):
        interruptible(context, call)
    assert ended.is_set()
    assert not context._gateway.threads[0].interrupted.is_set(), "freeing its rows is not cut short"


def test_ctrl_c_interrupts_a_call_that_has_no_job_to_cancel(context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kindling.interrupt, "_GRACE_S", 0)
    ended = threading.Event()

    def call() -> None:
        (thread,) = context._gateway.threads
        assert thread.owner is threading.current_thread()
        os.kill(os.getpid(), signal.SIGINT)
        assert thread.interrupted.wait(10)
        ended.set()

    with pytest.raises(KeyboardInterrupt):
        interruptible(context, call)
    assert ended.is_set()
    assert context.cancelled.is_set()


def test_ctrl_c_before_the_call_has_begun_keeps_it_from_beginning(context: Any) -> None:
    began = threading.Event()

    def addJobTag(tag: str) -> None:
        context.tags.append(tag)
        os.kill(os.getpid(), signal.SIGINT)
        assert context.cancelled.wait(10)

    context.addJobTag = addJobTag
    with pytest.raises(KeyboardInterrupt):
        interruptible(context, began.set)
    assert not began.is_set()


def test_without_pinned_threads_no_thread_is_interrupted(context: Any) -> None:
    context._gateway = None
    assert interruptible(context, lambda: 3) == 3


def test_a_call_from_another_thread_is_made_right_there(context: Any) -> None:
    seen: list[Any] = []
    thread = threading.Thread(target=lambda: seen.append(interruptible(context, threading.current_thread)))
    thread.start()
    thread.join(10)
    assert seen == [thread]
