"""Attempts at counting trials, run in the test's own process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from farm.attempt import End, Request, StopFlag, run_attempt
from farm.ledger import scan
from farm.ledger.durable import OWN_DIGEST
from farm.ledger.store import trial_path
from trials.spec import Spec, parameter_defaults


def request(ledger: Path, commit_seconds: float = 0.0, **parameters: Any) -> Request:
    values = parameter_defaults("counting") | parameters
    spec = Spec("counting", values, 0, 1, "none", "none", 1, False, None)
    return Request(str(ledger), spec.as_dict(), "cpu", None, str(ledger / "cache"), commit_seconds)


def attempt(wanted: Request, stop_at: int | None = None) -> End:
    """Run an attempt; `stop_at` asks for a drain when that epoch is reported."""
    stop = StopFlag()

    def report(row: dict[str, Any]) -> None:
        if row["epoch"] == stop_at:
            stop.set()

    return run_attempt(wanted, stop, report, lambda attempt: "")


def directory(wanted: Request) -> Path:
    return trial_path(Path(wanted.ledger), Spec(**wanted.spec))


def lose(wanted: Request, number: int, seconds: float, *without: str) -> Path:
    """Have nobody know of an attempt's end, and its newest commit be of so many seconds; the attempt's directory.

    `without` names what a commit of an older farm did not say.
    """
    path = directory(wanted) / "attempts" / str(number)
    (path / "end.json").unlink()
    for commit in scan.commits(path):
        manifest = commit / "manifest.json"
        content = json.loads(manifest.read_text()) | {"seconds": seconds}
        manifest.write_text(json.dumps({k: v for k, v in content.items() if k not in (OWN_DIGEST, *without)}))
    return path
