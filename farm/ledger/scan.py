"""Reading a ledger's states: which trials are done, partial, failed. No Parquet, no lock; safe beside a run."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from farm.ledger.durable import MANIFEST, read_json, read_manifest

STUDY = "study.yaml"
"""Of a ledger: its last command, and what that resolved to."""
TRIALS = "trials"
ATTEMPTS = "attempts"
DONE = "done"
COMMIT = "commit-"
RECORDS = "attempts.json"
"""Of a done trial: the records of attempts whose directories are gone, by their numbers."""
LOST: dict[str, Any] = {"how": "lost", "failure": "lost"}
NUMBERS = ("seconds", "epoch", "from_epoch")


@dataclass(frozen=True)
class Progress:
    """What the ledger holds of a trial: `epoch` of the newest commit, `status` when done.

    `error` and `log` are those of the last attempt, where it failed or was interrupted.
    `source_digest` is that of the code which produced what there is, several with commas between.
    """

    state: Literal["done", "partial", "new", "failed"]
    epoch: int = 0
    status: str = ""
    error: str = ""
    log: str = ""
    source_digest: str = ""
    parameters: Mapping[str, Any] | None = None
    """What the trial's parameters were when that was made; None where there is nothing yet, or nobody knows."""
    ended_at: str = ""
    """When the last attempt failed, in UTC as `store.now` writes it; empty where it did not, or does not say."""


def scan(root: Path) -> dict[str, Progress]:
    """State of every trial in a ledger by id; an absent ledger is an empty one."""
    return {identity: progress(path) for identity, path in directories(root).items()}


def directories(root: Path) -> dict[str, Path]:
    """Directory of every trial by its id.

    There may be several: until 2026-11-30 a trial got another where its module's parameters had changed places.
    Then it is the one that is done, else the one furthest on.
    """
    found: dict[str, Path] = {}
    for path in trial_directories(root):
        identity = trial_id(path)
        found[identity] = _furthest([found[identity], path]) if identity in found else path
    return found


def directory_of(root: Path, identity: str) -> Path | None:
    """The directory that `directories` has for an id, if any."""
    try:
        names = [n for n in os.listdir(root / TRIALS) if n.endswith(f"-{identity}") and not n.startswith(".")]
    except FileNotFoundError:
        return None
    return _furthest([root / TRIALS / name for name in sorted(names)]) if names else None


def _furthest(paths: Sequence[Path]) -> Path:
    return paths[0] if len(paths) == 1 else max(paths, key=lambda path: (has_finished(path), progress(path).epoch))


def trial_directories(root: Path) -> list[Path]:
    """Directories of all trials, in order of their names."""
    try:
        with os.scandir(root / TRIALS) as entries:
            names = sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir())
    except FileNotFoundError:
        return []
    return [root / TRIALS / name for name in names]


def trial_id(path: Path) -> str:
    """The id at the end of a trial directory's name."""
    return path.name.rpartition("-")[2]


def has_finished(path: Path) -> bool:
    """Whether the trial in one directory is done, by its manifest being there; its content may be damaged."""
    return (path / DONE / MANIFEST).exists()


def progress(path: Path) -> Progress:
    """State of the trial in one directory."""
    if (manifest := read_manifest(path / DONE)) is not None:
        epoch = manifest.get("epoch")
        return Progress(
            "done",
            epoch=epoch if isinstance(epoch, int) else 0,
            status=str(manifest.get("status", "")),
            source_digest=str(manifest.get("source_digest", "")),
            parameters=_parameters(path, manifest),
        )
    attempts = attempt_directories(path)
    newest = max((c for a in attempts for c in commits(a)), key=commit_epoch, default=None)
    found = Progress("new")
    if newest is not None:
        manifest = read_manifest(newest) or {}
        digest, parameters = str(manifest.get("source_digest", "")), _parameters(path, manifest)
        found = Progress("partial", commit_epoch(newest), source_digest=digest, parameters=parameters)
    end = read_json(attempts[-1] / "end.json") if attempts else None
    error, log = _error(attempts[-1], end) if attempts else ("", "")
    if end is None or end.get("how") != "failed":
        return dataclasses.replace(found, error=error, log=log)
    return dataclasses.replace(found, state="failed", error=error, log=log, ended_at=str(end.get("ended_at") or ""))


def _parameters(path: Path, manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """The parameters in a manifest, which has a digest of its own; else, as before 2026-11-30, in the trial's spec."""
    found = manifest.get("parameters")
    if not isinstance(found, dict):
        spec = read_json(path / "spec.json") or {}
        found = spec.get("parameters") if spec.get("id") == trial_id(path) else None
    return found if isinstance(found, dict) else None


def commit_sources(commit: Path) -> str:
    """As `source_digest` of the trial's row; empty where it was not recorded."""
    return str((read_manifest(commit) or {}).get("source_digest", ""))


def commit_seconds(commit: Path) -> float:
    """Wall-clock that led to a commit: its attempt's until then, and that of the commits which it stands on.

    After a commit of a farm of before 2026-11-30, which does not say the latter, of all earlier attempts that ended.
    """
    manifest, attempt = read_manifest(commit) or {}, commit.parent
    earlier = manifest.get("earlier_seconds")
    if earlier is None:
        trial = attempt.parent.parent
        records = attempt_records(trial.parent.parent, trial)
        earlier = sum(float(r.get("seconds") or 0) for r in records if r["attempt"] < int(attempt.name))
    return float(earlier) + float(manifest.get("seconds") or 0)


def _error(attempt: Path, end: dict[str, Any] | None) -> tuple[str, str]:
    """What an attempt fell to, and the path of what it said. Inline attempts have no log but their end's record."""
    if end is None:
        lost = f"attempt {attempt.name} recorded no end: it or its node was lost, or it is running"
        return lost, log_of(attempt, {})
    if end.get("how") == "drained":
        return "", ""
    log = log_of(attempt, end) or str(attempt / "end.json")
    return str(end.get("error") or end.get("error_class") or ""), log


def log_of(attempt: Path, record: Mapping[str, Any]) -> str:
    """Path of what an attempt said: beside its record, also in a ledger that was moved, else where that has it."""
    log = attempt / "log.txt"
    return str(log) if log.exists() else str(record.get("log_path") or "")


def attempt_directories(path: Path) -> list[Path]:
    """Attempts of a trial, in the order of their numbers."""
    try:
        names = [n for n in os.listdir(path / ATTEMPTS) if n.isdigit()]
    except FileNotFoundError:
        return []
    return [path / ATTEMPTS / n for n in sorted(names, key=int)]


def commits(attempt: Path) -> list[Path]:
    """Commits of an attempt, oldest first. Whether one is whole, only its manifest tells."""
    try:
        names = [n for n in os.listdir(attempt) if n.startswith(COMMIT) and n[len(COMMIT) :].isdigit()]
    except FileNotFoundError:
        return []
    return [attempt / n for n in sorted(names, key=lambda n: int(n[len(COMMIT) :]))]


def newest_first(attempts: Iterable[Path]) -> list[Path]:
    """Commits of some attempts at one trial, those of later epochs first, and of one epoch those of later attempts."""
    found = [c for attempt in attempts for c in commits(attempt)]
    return sorted(found, key=lambda c: (commit_epoch(c), int(c.parent.name)), reverse=True)


def commit_epoch(commit: Path) -> int:
    """The epoch in a commit's name."""
    return int(commit.name[len(COMMIT) :])


def attempt_records(root: Path, *trials: Path) -> Iterator[dict[str, Any]]:
    """attempt.json and end.json of every attempt (of the given trials, else of all), merged.

    `how` is "lost" where no end was written, and where the record itself is gone: numbers are given in sequence.
    """
    for path in trials or trial_directories(root):
        records = {int(a.name): attempt_record(a) for a in attempt_directories(path)} | folded_records(path)
        for number in range(1, max(records, default=0) + 1):
            identity = {"trial_id": trial_id(path), "name": path.name, "attempt": number}
            yield records.get(number, LOST) | identity


def attempt_record(attempt: Path) -> dict[str, Any]:
    """attempt.json and end.json of one attempt, merged, without numbers that are none."""
    begun, ended = (read_json(attempt / name) or {} for name in ("attempt.json", "end.json"))
    if not isinstance(ended.get("how"), str):
        ended = LOST
    return {k: v for k, v in (begun | ended).items() if k not in NUMBERS or type(v) in (int, float)}


def folded_records(path: Path) -> dict[int, dict[str, Any]]:
    """Records of those attempts at a done trial that have no directory any more."""
    folded = read_json(path / RECORDS) or {}
    return {int(n): r if isinstance(r.get("how"), str) else LOST for n, r in folded.items() if _is_record(n, r)}


def _is_record(number: str, record: Any) -> bool:
    return number.isdecimal() and isinstance(record, dict)
