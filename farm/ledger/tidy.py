"""Removing what nobody needs any more: commits of finished trials, their older attempts, names of killed writers."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from farm.ledger.durable import TEMPORARY, write_json
from farm.ledger.scan import COMMIT, RECORDS, TRIALS, attempt_directories, attempt_record, folded_records
from farm.ledger.store import DRAIN


def tidy(trial: Path, *running: int) -> None:
    """Leave of a done trial its results, the newest attempt, those `running`, and one file about all others.

    Never raises: what stays for want of disk goes at the next export, or by `farm prune`.
    """
    with contextlib.suppress(OSError):
        attempts = attempt_directories(trial)
        for attempt in attempts:
            for leftover in _starting_with(attempt, COMMIT, TEMPORARY):
                remove(leftover)
        sweep(trial)
        fold(trial, [a for a in attempts[:-1] if int(a.name) not in running])


def fold(trial: Path, attempts: list[Path]) -> None:
    """Put the records of these attempts into one file and remove their directories, logs included.

    Raises `OSError` with the directories left as they were. The file is read after the directories, and what stands
    in it counts: two that fold at once agree, and a directory that a death left half removed does not.
    """
    if not attempts:
        return
    records = {int(a.name): attempt_record(a) | {"log_path": ""} for a in attempts} | folded_records(trial)
    write_json(trial / RECORDS, {str(n): records[n] for n in sorted(records)})
    for attempt in attempts:
        remove(attempt)


def sweep(trial: Path) -> None:
    """Remove temporary names that a killed writer left in a trial's own directory."""
    for leftover in _starting_with(trial, TEMPORARY):
        remove(leftover)


def sweep_ledger(root: Path) -> None:
    """Remove temporary names that killed drivers left beside the trials. For the holder of the lock alone."""
    for directory in (root, root / "lock", root / TRIALS):
        for leftover in _starting_with(directory, TEMPORARY):
            remove(leftover)
    for request in root.glob(f"{DRAIN}*"):
        request.unlink(missing_ok=True)


def _starting_with(directory: Path, *starts: str) -> list[Path]:
    try:
        return [directory / name for name in os.listdir(directory) if name.startswith(starts)]
    except FileNotFoundError:
        return []


def remove(path: Path) -> None:
    """Remove a file or a directory with all in it, as far as that goes."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
