"""Tests of the Python side alone: no JVM is started, and Spark's objects are stood in for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark.sql.types import StructType


@dataclass
class Column:
    name: str

    def isNotNull(self) -> Column:
        return self


def unquoted(name: str) -> str:
    """The column that Spark understands by this; a name without quotes would not always be a column's."""
    assert len(name) > 2
    assert name[0] == name[-1] == "`"
    return name[1:-1].replace("``", "`")


@dataclass
class Frame:
    """As much of a DataFrame as reading a schema and a first row takes; it counts the jobs it would have run."""

    schema: StructType
    rows: list[dict[str, Any]] = field(default_factory=list)
    jobs: int = 0
    chosen: str = ""

    @property
    def columns(self) -> list[str]:
        return self.schema.names

    def __getitem__(self, name: str) -> Column:
        return Column(unquoted(name))

    def select(self, name: str) -> Frame:
        self.chosen = unquoted(name)
        return self

    def where(self, _: Column) -> Frame:
        return self

    def first(self) -> tuple[Any] | None:
        self.jobs += 1
        return next(((row[self.chosen],) for row in self.rows if row[self.chosen] is not None), None)


@pytest.fixture
def frame() -> Callable[..., Any]:
    def make(schema: StructType, *rows: dict[str, Any]) -> Any:
        return Frame(schema, list(rows))

    return make
