"""Java's exceptions become one Python exception with one sentence."""

from __future__ import annotations

from typing import Any

import pytest

from kindling import InvalidArgumentError, KindlingError
from kindling.errors import translate


class JavaException:
    """A Java exception as Py4J shows one."""

    def __init__(self, kind: str, message: str | None, cause: JavaException | None = None) -> None:
        self.kind, self.message, self.cause = kind, message, cause

    def getClass(self) -> JavaException:
        return self

    def getName(self) -> str:
        return self.kind

    def getMessage(self) -> str | None:
        return self.message

    def getCause(self) -> Any:
        return self.cause


ARGUMENT = "java.lang.IllegalArgumentException"


def test_kindlings_own_exception_speaks_from_below_sparks() -> None:
    ours = JavaException("kindling.TrainingException", "rank 1 (host b) was lost at step 12")
    error = translate(JavaException("org.apache.spark.SparkException", "Job aborted", ours), "the page")
    assert type(error) is KindlingError
    assert (str(error), error.java) == ("rank 1 (host b) was lost at step 12", "the page")


def test_an_illegal_argument_is_a_value_error() -> None:
    error = translate(JavaException(ARGUMENT, "numWorkers is 0: it should be at least 1"), "")
    assert isinstance(error, InvalidArgumentError)
    assert isinstance(error, ValueError)
    assert isinstance(error, KindlingError)


def test_an_exception_of_another_kind_keeps_its_message_and_loses_its_trace() -> None:
    message = "Job aborted due to stage failure: Task 0 failed 4 times\nDriver stacktrace:\n\tat a.b.c(D.scala:1)"
    error = translate(JavaException("org.apache.spark.SparkException", message), "")
    assert str(error) == "Job aborted due to stage failure: Task 0 failed 4 times"


def test_an_exception_without_a_message_is_named() -> None:
    assert "java.lang.NullPointerException" in str(translate(JavaException("java.lang.NullPointerException", None), ""))


def test_a_chain_of_causes_that_loops_ends() -> None:
    one = JavaException("java.lang.RuntimeException", "one")
    one.cause = one
    assert str(translate(one, "")) == "one"


def test_a_kindling_error_can_be_raised_without_java() -> None:
    with pytest.raises(RuntimeError, match="no jar"):
        raise KindlingError("no jar")
