"""What a report was made from, so that one can tell when it is older than its rows; and which files are the farm's."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.load import digests
from analysis.words import counted
from farm.ledger import gather
from farm.ledger.durable import file_digest, read_json
from farm.ledger.scan import TRIALS, has_finished, trial_directories, trial_id

NAME = "manifest.json"
MADE = "made.json"
"""Digests of what a run, or a report that was cut off, wrote into the report's directory: what the next whole report
does not make again, it removes. Gone after that, for the manifest lists its files."""
PLAN = "plan.parquet"
SHAPE = {"export": dict, "shown": list, "files": dict, "states": dict, "figures": list, "origins": dict}
"""Kinds of what a manifest has to hold."""


def report_directory(study_dir: Path) -> Path:
    """Where a study's report lies."""
    return study_dir / "report"


def write(study_dir: Path, content: Mapping[str, Any], files: Iterable[str]) -> Path:
    """Record the digests of the export and of the report's `files`, beside what `content` says.

    It is written last, so half a report is stale.
    """
    path = report_directory(study_dir) / NAME
    content = {**content, "files": {name: _digest(path.parent / name) for name in files}}
    whole = {"export": _digests(study_dir), "shown": sorted(_planned(study_dir)), **content}
    path.write_text(json.dumps(whole, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return path


def note(study_dir: Path, files: Iterable[str]) -> None:
    """Remember `files` of the report's directory as made by the farm, beside those that are known, as they are now."""
    report = report_directory(study_dir)
    _write_made(report, _made(report) | {name: _digest(report / name) for name in files})


def withdraw(study_dir: Path) -> None:
    """Have the report be none until it is written anew; what it made stays known."""
    report = report_directory(study_dir)
    _write_made(report, read(study_dir).get("files", {}) | _made(report))
    (report / NAME).unlink(missing_ok=True)


def remove_left_over(study_dir: Path) -> None:
    """Remove the figures and tables of before that the report does not make: a file that somebody changed is theirs."""
    report = report_directory(study_dir)
    made, listed = _made(report), read(study_dir).get("files", {})
    for path in sorted(report.glob("*/*")):
        name = path.relative_to(report).as_posix()
        if name in made and name not in listed and _digest(path) == made[name]:
            path.unlink()
    (report / MADE).unlink(missing_ok=True)


def _made(report: Path) -> dict[str, str]:
    return read_json(report / MADE) or {}


def _write_made(report: Path, digests: Mapping[str, str]) -> None:
    (report / MADE).write_text(json.dumps(digests, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read(study_dir: Path) -> dict[str, Any]:
    """The manifest; empty where there is none, or none of the shape that `write_report` gives it."""
    found = read_json(report_directory(study_dir) / NAME) or {}
    return found if all(isinstance(found.get(key), kind) for key, kind in SHAPE.items()) else {}


def is_stale(study_dir: Path, ledger: Path | None = None) -> list[str]:
    """Why the report does not show what has finished, in sentences; empty where it does.

    `ledger` has the trials, where they are not beside the report, or the tables alone that a report was made from
    copies of. A plan that holds fewer finished trials than the report shows makes it no older.
    """
    manifest, report = read(study_dir), report_directory(study_dir)
    if not manifest:
        return [f"{report}: no report there yet, or none that is whole"]
    then, now = manifest["export"], _digests(study_dir)
    export = study_dir / "export"
    changed = [name for name in now if name in then and now[name] != then[name]]
    reasons = [f"{export / name} has changed since the report" for name in changed]
    reasons += [f"{export / name} is newer than the report" for name in now if name not in then]
    reasons += [f"{export / name} was there for the report, and is gone" for name in then if name not in now]
    try:
        if n := len(_planned(study_dir).difference(manifest["shown"])):
            reasons.append(f"{counted(n, 'finished trial')} of the plan came after the report")
    except (OSError, ValueError):
        reasons.append(f"{export / PLAN} is gone or damaged; `farm report` has it made")
    if ledger and ledger != study_dir and not (ledger / TRIALS).is_dir():
        copies = digests(study_dir)
        anew = [name for name, digest in digests(ledger).items() if copies.get(name) != digest]
        reasons += [f"{ledger / 'export' / name} has changed since it was copied for the report" for name in anew]
    if n := len(_unexported(study_dir, ledger or study_dir)):
        reasons.append(f"{counted(n, 'finished trial')} came after the export; `farm report` has both made")
    return reasons + [
        f"{report / name} {'was written anew by a run' if (report / name).is_file() else 'is missing'}"
        for name, digest in manifest["files"].items()
        if _digest(report / name) != digest
    ]


def _digest(path: Path) -> str:
    return file_digest(path) if path.is_file() else ""


def _digests(study_dir: Path) -> dict[str, str]:
    return {name: digest for name, digest in digests(study_dir).items() if name != PLAN}


def _planned(study_dir: Path) -> set[str]:
    """Ids of the plan's finished trials. Raises where it cannot be read."""
    plan = pd.read_parquet(study_dir / "export" / PLAN, columns=["trial_id", "state"])
    return set(plan.loc[plan["state"] == "done", "trial_id"])


def _unexported(study_dir: Path, ledger: Path) -> set[str]:
    """Ids of trials that have finished since the export; those with damaged results cannot be exported."""
    done = {trial_id(path): path for path in trial_directories(ledger) if has_finished(path)}
    try:
        exported = set(pd.read_parquet(study_dir / "export" / "trials.parquet", columns=["trial_id"])["trial_id"])
    except (OSError, ValueError):
        exported = set()
    return {i for i, path in done.items() if i not in exported and gather.read(path) is not None}
