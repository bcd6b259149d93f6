"""`farm prune`: what a ledger can do without, shown with its size, and removed when the user says so.

That is: directories of attempts at finished trials (their records stay, in one file a trial, and so does every row of
export/attempts.parquet; their logs go), results that were damaged and have been made again, trials of older revisions
of the study's module or with parameters of other types than it has now, which no plan counts, second directories of
trials that are done in another (`scan.directories`), and temporary names of killed writers. Everything else stays.
"""

from __future__ import annotations

import itertools
import secrets
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from farm import elsewhere
from farm.config import Config
from farm.errors import COMPLETE, PreflightError
from farm.ledger.durable import TEMPORARY
from farm.ledger.export import alone, export
from farm.ledger.gather import read
from farm.ledger.lock import LedgerLock
from farm.ledger.scan import TRIALS, attempt_directories, directories, trial_directories, trial_id
from farm.ledger.schema import fits_columns
from farm.ledger.store import spec_of
from farm.ledger.tidy import fold, remove, sweep, sweep_ledger
from trials.spec import Spec, revision_of

KINDS = {
    "attempts": "attempts at finished trials: their logs go, their records stay",
    "damaged": "damaged results that have been made again",
    "revisions": "trials of older revisions, which no plan counts; their rows leave export/",
    "types": "trials with parameters of other types than now, which no plan counts; their rows leave export/",
    "twins": "second directories of trials that are done in another",
    "temporary": "temporary names of killed writers",
}
WHOLE = ("revisions", "types", "twins")
"""Kinds of which a trial's whole directory goes."""

UNITS = ("bytes", "kB", "MB", "GB", "TB")


@dataclass(frozen=True)
class Leftover:
    """Something that a ledger can do without. `bytes` is the size of all files in it."""

    kind: str
    path: Path
    bytes: int


def run(config: Config, yes: bool) -> int:
    """Show what can go, ask, remove it, export anew. Raises `PreflightError` while a driver holds the lock.

    Without `yes` and without a terminal to ask on, nothing is removed.
    """
    root, module = config.ledger, config.settings.module
    if not root.is_dir():
        raise PreflightError(f"{root}: there is no ledger")
    elsewhere.check_trials(config)
    with LedgerLock(root, say=lambda text: print(text, file=sys.stderr)) as lock:
        found = list(leftovers(root, module))
        print("\n".join(_lines(config.study, found)), flush=True)
        if not found or not (yes or _agreed()):
            return COMPLETE
        lock.check()  # the question may have stood there for hours
        with alone(root):
            take_away(root, found)
        if (root / "export").is_dir():
            export(root, None, module)
        print(f"removed {size(sum(f.bytes for f in found))}")
    return COMPLETE


def leftovers(root: Path, module: str) -> Iterator[Leftover]:
    """What can go, in the order of trials. For the holder of the lock: a running trial is one that nobody finished."""
    counted = directories(root)
    for trial in trial_directories(root):
        twin = counted[trial_id(trial)]
        if twin != trial and read(twin) is not None:
            yield _leftover("twins", trial)
        elif kind := _uncounted(trial, module):
            yield _leftover(kind, trial)
        elif read(trial) is not None:  # nothing goes of a trial that may have to run again
            yield from (_leftover("attempts", a) for a in attempt_directories(trial))
            yield from (_leftover("damaged", d) for d in sorted(trial.glob("damaged-*")))
            yield from (_leftover("temporary", t) for t in sorted(trial.glob(f"{TEMPORARY}*")))
    for directory in (root, root / "lock", root / TRIALS):
        yield from (_leftover("temporary", t) for t in sorted(directory.glob(f"{TEMPORARY}*")))


def take_away(root: Path, found: Sequence[Leftover]) -> None:
    """Remove what `leftovers` found. A death in between leaves a ledger that is whole, and the rest to find again."""
    attempts = (f.path for f in found if f.kind == "attempts")
    for trial, own in itertools.groupby(attempts, lambda path: path.parent.parent):
        fold(trial, list(own))
        sweep(trial)
    for leftover in found:
        if leftover.kind in WHOLE:  # gone in one step, not file by file
            leftover.path.rename(leftover.path.with_name(f"{TEMPORARY}{leftover.path.name}-{secrets.token_hex(4)}"))
        elif leftover.kind != "attempts":
            remove(leftover.path)
    sweep_ledger(root)


def size(count: float) -> str:
    """ "512 bytes", "3.4 MB": powers of 1000."""
    power = 0
    while count >= 1000 and power < len(UNITS) - 1:
        count, power = count / 1000, power + 1
    return f"{count:.1f} {UNITS[power]}" if power else f"{count:.0f} {UNITS[0]}"


def _uncounted(trial: Path, module: str) -> str:
    """The kind of a trial of the module's past, by two witnesses: a flipped bit in spec.json condemns nothing."""
    spec = spec_of(trial)
    if spec is None or spec.module != module or not isinstance(spec.revision, int):
        return ""
    revision, fits = revision_of(module, spec.parameters), _id_fits(spec, trial)
    if spec.revision < revision and (fits or _measured_revision(trial) == spec.revision):
        return "revisions"
    return "types" if spec.revision == revision and fits and not fits_columns(spec) else ""


def _id_fits(spec: Spec, trial: Path) -> bool:
    try:
        return spec.id == trial_id(trial)
    except (TypeError, ValueError):
        return False


def _measured_revision(trial: Path) -> int | None:
    """The revision that a finished trial's row names: the id of a spec does not fit once a parameter was removed."""
    finished = read(trial)
    if finished is None or "config_revision" not in finished.trial.column_names:
        return None
    found: int | None = finished.trial["config_revision"][0].as_py()
    return found


def _leftover(kind: str, path: Path) -> Leftover:
    files = path.rglob("*") if path.is_dir() else [path]
    return Leftover(kind, path, sum(f.stat().st_size for f in files if f.is_file()))


def _lines(study: str, found: Sequence[Leftover]) -> list[str]:
    if not found:
        return [f"{study}: nothing to remove"]
    lines = [f"{study}: {size(sum(f.bytes for f in found))} can be removed"]
    for kind, meaning in KINDS.items():
        if own := [f for f in found if f.kind == kind]:
            lines.append(f"{len(own):>8} {meaning} ({size(sum(f.bytes for f in own))})")
    return lines


def _agreed() -> bool:
    if not sys.stdin.isatty():
        print("nothing was removed: there is no terminal to ask on, and --yes was not given")
        return False
    try:
        agreed = input("Remove all of it? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        agreed = False
    if not agreed:
        print("nothing was removed")
    return agreed
