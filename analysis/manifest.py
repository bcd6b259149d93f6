"""What a report was made from, so that one can tell when it is older than its rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.load import digests
from farm.ledger.durable import MANIFEST
from farm.ledger.scan import DONE, trial_directories, trial_id

NAME = "manifest.json"
PLAN = "plan.parquet"


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


def read(study_dir: Path) -> dict[str, Any]:
    """The manifest; empty where there is none, or none that can be read."""
    try:
        found = json.loads((report_directory(study_dir) / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def is_stale(study_dir: Path) -> list[str]:
    """Why the report does not show what has finished, in sentences; empty where it does.

    A plan that holds fewer finished trials than the report shows makes it no older.
    """
    manifest, report = read(study_dir), report_directory(study_dir)
    if not manifest:
        return [f"{report}: no report there yet"]
    then, now = manifest.get("export", {}), _digests(study_dir)
    export = study_dir / "export"
    changed = [name for name in now if name in then and now[name] != then[name]]
    reasons = [f"{export / name} has changed since the report" for name in changed]
    reasons += [f"{export / name} is newer than the report" for name in now if name not in then]
    reasons += [f"{export / name} was there for the report, and is gone" for name in then if name not in now]
    if n := len(_planned(study_dir) - set(manifest.get("shown", []))):
        reasons.append(f"{n} finished trial{'' if n == 1 else 's'} of the plan came after the report")
    if n := len(_unexported(study_dir)):
        reasons.append(f"{n} finished trial{'' if n == 1 else 's'} came after the export; `farm report` has both made")
    files = manifest.get("files", {})
    if not isinstance(files, dict):
        return [*reasons, f"{report}: an older farm wrote it"]
    return reasons + [
        f"{report / name} {'was written anew by a run' if (report / name).is_file() else 'is missing'}"
        for name, digest in files.items()
        if _digest(report / name) != digest
    ]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _digests(study_dir: Path) -> dict[str, str]:
    return {name: digest for name, digest in digests(study_dir).items() if name != PLAN}


def _planned(study_dir: Path) -> set[str]:
    """Ids of the plan's finished trials."""
    plan = _ids(study_dir / "export" / PLAN, "state")
    return set(plan.loc[plan["state"] == "done", "trial_id"])


def _unexported(study_dir: Path) -> set[str]:
    """Ids of trials that have finished since the export."""
    done = {trial_id(path) for path in trial_directories(study_dir) if (path / DONE / MANIFEST).exists()}
    return done - set(_ids(study_dir / "export" / "trials.parquet")["trial_id"]) if done else set()


def _ids(path: Path, *further: str) -> pd.DataFrame:
    """Column `trial_id` of a table of the export, and `further` ones; no row where it cannot be read."""
    columns = ["trial_id", *further]
    try:
        return pd.read_parquet(path, columns=columns)
    except (OSError, ValueError):
        return pd.DataFrame(columns=columns)
