"""What goes wrong, in one sentence.

A failure on the JVM side arrives as a page of Java. Here it becomes one Python exception that carries the sentence
Kindling wrote, and keeps the page in its `java` attribute for whoever needs it. Errors that Spark itself explains well
(`AnalysisException`, a failing Python UDF) pass through untouched, and so does Ctrl-C.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_LONGEST_CHAIN = 32  # a chain of causes may loop: Java does not forbid it


class KindlingError(RuntimeError):
    """A run that failed. `java` holds the Java stack trace when the failure came from the JVM."""

    def __init__(self, message: str, java: str | None = None) -> None:
        super().__init__(message)
        self.java = java


class InvalidArgumentError(KindlingError, ValueError):
    """A setting, column or program that cannot work, found before or while training. Also a `ValueError`."""


@contextmanager
def spark_errors() -> Iterator[None]:
    """Turn what the JVM throws inside this block into the exceptions above."""
    from py4j.protocol import Py4JJavaError
    from pyspark.errors.exceptions.captured import CapturedException
    from pyspark.errors.exceptions.captured import IllegalArgumentException as CapturedArgument

    try:
        yield
    except Py4JJavaError as error:
        raise translate(error.java_exception, str(error)) from None
    except CapturedArgument as error:
        # Spark has already taken the Java exception apart; only its own kinds of errors are better left as they are.
        raise InvalidArgumentError(_first_sentence(error._desc or ""), error._stackTrace) from None
    except CapturedException:
        raise


def translate(java_exception: Any, trace: str) -> KindlingError:
    """The exception for a Java one: the first of Kindling's own in its chain of causes speaks, else the outermost."""
    chain = list(_causes(java_exception))
    named = [(cause, str(cause.getClass().getName())) for cause in chain]
    ours = next((entry for entry in named if entry[1].startswith("kindling.")), None)
    argument = next((entry for entry in named if entry[1] == "java.lang.IllegalArgumentException"), None)
    speaker, kind = ours or argument or named[0]
    message = speaker.getMessage()
    if message is None:
        message = f"{kind} without a message; the exception's `java` attribute holds its stack trace"
    error = InvalidArgumentError if argument is not None and speaker is argument[0] else KindlingError
    return error(_first_sentence(str(message)), trace)


def _causes(java_exception: Any) -> Iterator[Any]:
    for _ in range(_LONGEST_CHAIN):
        if java_exception is None:
            return
        yield java_exception
        java_exception = java_exception.getCause()


def _first_sentence(message: str) -> str:
    """The message without the stack traces that Spark appends to it."""
    kept: list[str] = []
    for line in message.splitlines():
        if line.startswith(("\tat ", "Driver stacktrace", "Caused by:")):
            break
        kept.append(line)
    return "\n".join(kept).strip() or message.strip()
