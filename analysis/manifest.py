"""What a report was made from, so that one can tell when it is older than its rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.load import digests

NAME = "manifest.json"


def report_directory(study_dir: Path) -> Path:
    """Where a study's report lies."""
    return study_dir / "report"


def write(study_dir: Path, content: Mapping[str, Any]) -> Path:
    """Record the export's digests beside what `content` says; written last, so half a report is stale."""
    path = report_directory(study_dir) / NAME
    whole = {"export": digests(study_dir), **content}
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
    """Why the report does not show the export as it is now, in sentences; empty where it does."""
    manifest, report = read(study_dir), report_directory(study_dir)
    if not manifest:
        return [f"{report}: no report there yet"]
    then, now = manifest.get("export", {}), digests(study_dir)
    export = study_dir / "export"
    changed = [name for name in now if name in then and now[name] != then[name]]
    reasons = [f"{export / name} has changed since the report" for name in changed]
    reasons += [f"{export / name} is newer than the report" for name in now if name not in then]
    reasons += [f"{export / name} was there for the report, and is gone" for name in then if name not in now]
    files = [str(name) for name in manifest.get("files", [])]
    return reasons + [f"{report / name} is missing" for name in files if not (report / name).is_file()]
