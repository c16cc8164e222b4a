"""Runs the native library in a plain JVM under ``-Xcheck:jni``.

``KINDLING_NATIVE`` names libkindling.so, ``LIBTORCH`` the folder of libtorch (or of an installed torch package).
The checks themselves are Java: ``jni/CheckJni.java``. What this file adds is the JVM's own judgement: the checker
must have nothing to say about any call the library makes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
BINDINGS = HERE.parents[1] / "jvm-bindings" / "src" / "main" / "java" / "kindling" / "internal"
NATIVE_CLASSES = ("Native", "EventSink", "NativeException", "PeerLostException")
# Far beyond the few seconds the checks take; each of them has deadlines of its own.
DEADLINE_SECONDS = 300


def from_environment(variable: str, meaning: str) -> Path:
    """The path in an environment variable, or a failure that says what to set."""
    value = os.environ.get(variable)
    if not value:
        pytest.fail(f"set {variable} to {meaning}")
    path = Path(value)
    if not path.exists():
        pytest.fail(f"{variable} is {value}, which does not exist; it should be {meaning}")
    return path


def java_tool(name: str) -> str:
    """A tool of the JDK: of JAVA_HOME if that is set, else of the path."""
    home = os.environ.get("JAVA_HOME")
    found = str(Path(home, "bin", name)) if home else shutil.which(name)
    if found is None:
        pytest.fail(f"{name} was not found: install a JDK or set JAVA_HOME")
    return found


def test_the_jvm_finds_no_fault_with_any_native_call(tmp_path: Path) -> None:
    library = from_environment("KINDLING_NATIVE", "the path of libkindling.so")
    libtorch = from_environment("LIBTORCH", "the folder of libtorch") / "lib"
    sources = [*sorted((HERE / "jni").glob("*.java")), *(BINDINGS / f"{name}.java" for name in NATIVE_CLASSES)]
    compiled = subprocess.run(
        [java_tool("javac"), "-XDignore.symbol.file", "-d", tmp_path, *sources],
        check=False,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
    )
    assert compiled.returncode == 0, compiled.stderr

    # A library path of the environment could hide that the library finds libtorch by itself.
    environment = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    checked = subprocess.run(
        [java_tool("java"), "-Xcheck:jni", "-cp", tmp_path, "CheckJni", libtorch, library],
        check=False,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        env=environment,
    )
    output = checked.stdout + checked.stderr
    assert checked.returncode == 0, output
    assert re.search(r"^[1-9]\d* passed, 0 failed$", checked.stdout, re.MULTILINE), output
    for complaint in ("WARNING in native method", "WARNING: JNI", "FATAL ERROR"):
        assert complaint not in output, output
