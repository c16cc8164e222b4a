"""Where the jar is, and where libtorch is: the two paths a session needs from a Python installation."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from kindling.errors import KindlingError


def jar_path() -> str:
    """The Kindling jar for `spark.jars`: the one inside this package, or the file that `KINDLING_JAR` names.

    >>> SparkSession.builder.config("spark.jars", kindling.jar_path())  # doctest: +SKIP
    """
    named = os.environ.get("KINDLING_JAR")
    path = Path(named) if named else Path(__file__).parent / "jars" / "kindling.jar"
    if not path.is_file():
        where = "KINDLING_JAR names" if named else "this installation of kindling should hold"
        raise KindlingError(f"there is no jar at {path}, which {where}; build it with Maven in jvm-bindings")
    return str(path.resolve())


def installed_libtorch() -> str:
    """The folder of the torch package beside this one, or "" without one. torch itself is not imported."""
    spec = importlib.util.find_spec("torch")
    return str(Path(spec.origin).parent) if spec is not None and spec.origin else ""
