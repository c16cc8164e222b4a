"""Contestants that are whole applications: each runs in a process of its own and reports lines `RESULT {...}`."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
CONTESTANTS = Path(__file__).resolve().parent / "contestants"


class ContestError(RuntimeError):
    """A contestant that gave no result, with the end of what it said."""


def run(
    script: str, *arguments: object, python: Path | str = sys.executable, timeout: float = 1800
) -> list[dict[str, Any]]:
    """The results of one contestant, in the order it reported them."""
    command = [str(python), str(CONTESTANTS / script), *map(str, arguments)]
    environment = {**os.environ, "SPARK_LOCAL_IP": "127.0.0.1"}
    if str(python) != sys.executable:
        # Another environment has its own Spark and must not see the packages of this one.
        environment = {key: value for key, value in environment.items() if key not in ("PYTHONPATH", "SPARK_HOME")}
    environment["PYSPARK_PYTHON"] = str(python)
    try:
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise ContestError(f"{script} was still running after {timeout:.0f} s") from None
    found = [
        json.loads(line.removeprefix("RESULT ")) for line in ended.stdout.splitlines() if line.startswith("RESULT ")
    ]
    if ended.returncode != 0 or not found:
        said = (ended.stderr or ended.stdout).strip().splitlines()[-15:]
        raise ContestError(f"{script} ended with {ended.returncode}:\n" + "\n".join(said))
    return found


def environment(requirements: Path) -> Path:
    """The Python of an environment with those pinned packages, made in the cache on first use."""
    cache = subprocess.run([ROOT / "scripts" / "cache"], capture_output=True, text=True, check=True).stdout.strip()
    key = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:16]
    folder = Path(cache) / f"contestant-{key}"
    python = folder / "bin" / "python"
    if not (folder / ".complete").is_file():
        print(f"bench: creating the environment of {requirements.name}, once", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        install: list[str | Path] = [
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-input",
            "--disable-pip-version-check",
            "-r",
            requirements,
        ]
        subprocess.run([python, *install], check=True)
        (folder / ".complete").touch()
    return python
