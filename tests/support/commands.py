"""Commands run as a user runs them, and what they leave behind."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent.parent
COUNTING = ROOT / "tests" / "studies" / "counting.yaml"


@dataclass
class Finished:
    """A command that has ended."""

    code: int
    out: str
    err: str
    seconds: float
    cpu_seconds: float = float("nan")
    """Of the command and what it waited for: unlike `seconds`, the same on a busy machine."""


def environment() -> dict[str, str]:
    """This process's environment without anything that would point a run elsewhere."""
    dropped = ("RAY_ADDRESS", "FARM_RESULTS", "FARM_COMMIT", "PYTHONPATH")
    return {k: v for k, v in os.environ.items() if k not in dropped} | {"OMP_NUM_THREADS": "1"}


def command(*arguments: str, verb: str = "run") -> list[str]:
    """`python farm/run.py …` for verb "run", else `farm VERB …`."""
    if verb == "run":
        return [sys.executable, str(ROOT / "farm" / "run.py"), *arguments]
    code = "import sys; from farm.cli import main; sys.exit(main(sys.argv[1:]))"
    return [sys.executable, "-c", code, verb, *arguments]


def run_farm(
    directory: Path,
    *arguments: str,
    verb: str = "run",
    timeout: float = 120,
    variables: Mapping[str, str] | None = None,
) -> Finished:
    """Run a command from `directory`, with results there unless the arguments say otherwise."""
    where = [] if any(a.startswith("results=") for a in arguments) else [f"results={directory / 'results'}"]
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    extra = {} if verb == "run" else {"PYTHONPATH": os.pathsep.join(path)}
    began, used = time.monotonic(), _cpu_seconds()
    done = subprocess.run(
        command(*arguments, *where, verb=verb),
        capture_output=True,
        text=True,
        cwd=directory,
        env=environment() | extra | dict(variables or {}),
        timeout=timeout,
    )
    seconds = time.monotonic() - began
    return Finished(done.returncode, done.stdout, done.stderr, seconds, _cpu_seconds() - used)


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> None:
    """Return when the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to pass"
        time.sleep(0.05)


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def exported(results: Path, study: str, table: str) -> list[dict[str, Any]]:
    """Rows of one exported table."""
    return pq.read_table(results / study / "export" / f"{table}.parquet").to_pylist()
