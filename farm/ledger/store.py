"""Writing a ledger: claim an attempt, commit progress, finish. An attempt writes in its own directory only."""

from __future__ import annotations

import contextlib
import io
import shutil
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from farm.errors import UsageError
from farm.ledger import schema
from farm.ledger.durable import (
    Damaged,
    create_directories,
    create_directory,
    read_json,
    read_manifest,
    read_verified,
    write_directory,
    write_json,
)
from farm.ledger.scan import (
    ATTEMPTS,
    COMMIT,
    DONE,
    TRIALS,
    attempt_directories,
    commit_epoch,
    commit_seconds,
    commit_sources,
    commits,
    directory_of,
    folded_records,
    newest_first,
    progress,
    trial_id,
)
from farm.plan import changed, changes_text, readable
from trials.spec import Row, Scalar, Spec

KEPT_COMMITS = 2
DRAIN = "drain-"


@dataclass(frozen=True)
class Commit:
    """The progress that an attempt starts from: state as bytes (torch.save), all rows so far, and whose work it is."""

    epoch: int
    state: bytes
    rows: list[Row]
    sources: str = ""
    """As `source_digest` of the trial's row; empty where it was not recorded."""
    seconds: float = field(default=0.0, compare=False)
    """Wall-clock that led to it, over all attempts: a clock's, and so no part of what makes two of them equal."""


def trial_path(root: Path, spec: Spec) -> Path:
    """Directory of a spec's trial: the one that has its id, else trials/<readable>-<id>.

    The readable part alone depends on the order of the module's parameters. Reads the names of all trials.
    """
    return directory_of(root, spec.id) or root / TRIALS / directory_name(spec)


def directory_name(spec: Spec) -> str:
    """Name of the directory of a trial that has none yet."""
    return f"{readable(spec)}-{spec.id}"


class Attempt:
    """One try at a trial. Only it writes in its directory; only the first to rename writes `done`.

    `trial` is the trial's directory, where the caller has found it.
    """

    def __init__(self, root: Path, spec: Spec, number: int, trial: Path | None = None) -> None:
        self.root = root
        self.spec = spec
        self.number = number
        self.trial = trial or trial_path(root, spec)
        self.path = self.trial / ATTEMPTS / str(number)
        self.from_epoch, self.earlier_seconds = 0, 0.0
        self._begun = time.monotonic()

    @classmethod
    def claim(cls, root: Path, spec: Spec, info: Mapping[str, Any], trial: Path | None = None) -> Attempt:
        """Take the next number by mkdir, which one process alone can win, and record who runs it.

        `trial` is the trial's directory, where the caller has found it. Raises `UsageError` where what there is of the
        trial was made with other values of its parameters.
        """
        trial = trial or trial_path(root, spec)
        create_directories(trial / ATTEMPTS)
        set_damaged_aside(trial)
        if changes := changed(progress(trial).parameters, spec.parameters):
            raise UsageError(changes_text(spec.id, changes))
        content = {"id": spec.id, **spec.as_dict()}
        if read_json(trial / "spec.json") != content:
            write_json(trial / "spec.json", content)
        number = max([*(int(a.name) for a in attempt_directories(trial)), *folded_records(trial)], default=0) + 1
        while not create_directory(trial / ATTEMPTS / str(number)):
            number += 1
        attempt = cls(root, spec, number, trial)
        write_json(attempt.path / "attempt.json", {"started_at": now(), "host": socket.gethostname(), **info})
        return attempt

    def newest_commit(self) -> Commit | None:
        """The newest commit of any earlier attempt that is whole; a damaged one is passed over."""
        for path in newest_first(a for a in attempt_directories(self.trial) if int(a.name) < self.number):
            try:
                rows = pq.read_table(io.BytesIO(read_verified(path, "rows.parquet"))).to_pylist()
                state = read_verified(path, "state.pt")
            except Damaged:
                continue
            return Commit(commit_epoch(path), state, rows, commit_sources(path), commit_seconds(path))
        return None

    def go_on_from(self, commit: Commit) -> None:
        """Have this attempt's own commits say where it began, for that commit goes once there are two of them."""
        self.from_epoch, self.earlier_seconds = commit.epoch, commit.seconds

    def commit(self, epoch: int, state: bytes, rows: Sequence[Row], sources: str = "") -> None:
        """Make state and all rows so far durable together; of this attempt's commits the newest two stay."""
        files = {"state.pt": state, "rows.parquet": self._rows(rows)}
        meta = {
            "epoch": epoch,
            "seconds": self.seconds,
            "from_epoch": self.from_epoch,
            "earlier_seconds": self.earlier_seconds,
            "source_digest": sources,
            "parameters": self._parameters,
        }
        write_directory(self.path / f"{COMMIT}{epoch}", files, meta)
        finished = read_manifest(self.trial / DONE) is not None  # by another attempt: nobody needs this any more
        own = commits(self.path)
        for old in own if finished else own[:-KEPT_COMMITS]:
            shutil.rmtree(old, ignore_errors=True)
        if len(own) == KEPT_COMMITS:
            self._drop_commits_before(commit_epoch(own[0]))

    def _drop_commits_before(self, epoch: int) -> None:
        """Remove what earlier attempts had committed up to an epoch, now that two commits of this one are durable."""
        for attempt in attempt_directories(self.trial):
            for old in commits(attempt) if int(attempt.name) < self.number else []:
                if commit_epoch(old) <= epoch:
                    shutil.rmtree(old, ignore_errors=True)

    def finish(self, status: str, epoch: int, rows: Sequence[Row], trial_row: Row, state: bytes | None) -> bool:
        """Write `done`; False when another attempt was first, whose results then stand."""
        fields = schema.config_schema(self.spec.module)
        identity: Row = {"trial_id": self.spec.id, "name": self.trial.name, "study": self.root.name, "status": status}
        own = [c for c in schema.trial_columns(self.spec.module) if c.name not in schema.ADDED_BY_EXPORT]
        row = identity | trial_row | schema.config_columns(self.spec)
        files = {
            "rows.parquet": self._rows(rows),
            "trial.parquet": small_parquet(schema.table([row], own, fields)),
        }
        if state is not None:
            files["state.pt"] = state
        made_by = {"source_digest": trial_row.get("source_digest"), "parameters": self._parameters}
        meta = {"status": status, "epoch": epoch, "seconds": trial_row.get("seconds")} | made_by
        won = write_directory(self.trial / DONE, files, meta)
        if not won and set_damaged_aside(self.trial):
            won = write_directory(self.trial / DONE, files, meta)
        return won

    def end(self, how: str, info: Mapping[str, Any] | None = None) -> None:
        """Record how the attempt ended; the first record stays."""
        if not (self.path / "end.json").exists():
            write_json(self.path / "end.json", {"how": how, "ended_at": now(), "seconds": self.seconds, **(info or {})})

    @property
    def seconds(self) -> float:
        """Wall-clock seconds since the attempt was claimed."""
        return time.monotonic() - self._begun

    @property
    def _parameters(self) -> dict[str, Scalar]:
        return dict(self.spec.parameters)

    def _rows(self, rows: Sequence[Row]) -> bytes:
        check = schema.RowCheck(self.spec.module)
        rows = [check.plain(row) for row in rows]
        columns = [c for c in schema.row_columns(self.spec.module) if c.name not in schema.ADDED_BY_LEDGER]
        used = {k for row in rows for k in row}
        return small_parquet(schema.table(rows, [c for c in columns if c.name in used or c.name == "attempt"]))


def drain_file(root: Path, run: str) -> Path:
    """The file whose presence asks a run's trials to end, on whatever node they are."""
    return root / f"{DRAIN}{run}"


def quarantine(trial: Path) -> Path:
    """Set a damaged `done` aside so that the trial runs again; returns where it went."""
    number = 1
    while (aside := trial / f"damaged-{number}").exists():
        number += 1
    (trial / DONE).rename(aside)
    return aside


def set_damaged_aside(trial: Path) -> bool:
    """Set a `done` aside whose manifest is damaged, so that it passes for results nowhere; whether there was one."""
    if not (trial / DONE).exists() or read_manifest(trial / DONE) is not None:
        return False
    with contextlib.suppress(FileNotFoundError):  # another attempt was first
        quarantine(trial)
    return True


def parquet(table: pa.Table) -> bytes:
    """An Arrow table as the bytes of a Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def small_parquet(table: pa.Table) -> bytes:
    """A trial's own table as the bytes of a Parquet file.

    Plain: a few rows compress to no less, and an export of ten thousand trials reads them in a third of the time.
    """
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="none", use_dictionary=False, write_statistics=False)
    return sink.getvalue()


def now() -> str:
    """The time in UTC, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def spec_of(trial: Path) -> Spec | None:
    """The spec in a trial's directory; None where it is missing, misshapen or not the one that the directory names."""
    value = read_json(trial / "spec.json") or {}
    identity = value.pop("id", None)
    try:
        spec = Spec(**value) if identity == trial_id(trial) else None
    except TypeError:
        return None
    return spec if spec is not None and isinstance(spec.parameters, dict) else None
