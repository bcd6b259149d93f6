"""One file for each table, rebuilt from the ledger at any time: rows, trials, attempts, plan.

Done trials never change, so an export keeps the rows it has and reads only trials that are new to it. Rows of trials
that have no end are in tables of their own, read anew each time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import io
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from farm.ledger import schema
from farm.ledger.durable import (
    TEMPORARY,
    Growing,
    file_digest,
    read_json,
    read_manifest,
    write_file,
    write_json,
)
from farm.ledger.gather import (
    DIGEST_COLUMNS,
    DIGESTS,
    UNFINISHED,
    batches,
    fits,
    merged,
    read,
    results_digests,
    schema_of,
    vanished_columns,
)
from farm.ledger.lock import is_driven
from farm.ledger.scan import DONE, attempt_records, directories, has_finished, trial_id
from farm.ledger.store import parquet
from farm.ledger.tidy import tidy
from farm.ledger.unfinished import configuration_schema, read_newest
from farm.plan import Plan

WRITE_BYTES = 1 << 20


@dataclass(frozen=True)
class Unfinished:
    """Row tables of the trials that have no end but a commit: how many trials, and rows in all tables together."""

    directory: Path
    trials: int
    rows: int


@dataclass(frozen=True)
class Export:
    """Paths of an export, the trials whose `done` could not be read, and the tables of those that have no end."""

    directory: Path
    tables: dict[str, Path]
    damaged: list[Path]
    unfinished: Unfinished


def export(root: Path, plan: Plan | None, module: str, place: Path | None = None) -> Export:
    """Write export/ in the ledger, or in another place, from the ledger. Without a plan, plan.parquet stays as it is.

    For another place nothing in the ledger is changed or locked.
    """
    place = place or root
    directory = place / "export"
    directory.mkdir(parents=True, exist_ok=True)
    with alone(place):  # `farm export` beside a run: one after the other
        for leftover in (p for d in (directory, directory / UNFINISHED) for p in d.glob(f"{TEMPORARY}*")):
            leftover.unlink(missing_ok=True)
        return _export(root, directory, plan, module)


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """Keep exports, and whoever else changes finished trials, out of each other's way."""
    with (root / ".export.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:  # NFS without its lock daemon, Lustre without `flock`
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            print(f"{root}: this file system locks no files; run one export of it at a time", file=sys.stderr)
        yield


def _export(root: Path, directory: Path, plan: Plan | None, module: str) -> Export:
    damaged: list[Path] = []
    misfits: set[str] = set()
    begun = directories(root)
    found = {i: t for i, t in begun.items() if has_finished(t)}
    main, *further = schema.row_tables(module)
    names = {"rows": main} | {name: name for name in (*further, "trials", "attempts", "plan")}
    paths = {kind: directory / f"{name}.parquet" for kind, name in names.items()}
    row_paths = {names[kind]: paths[kind] for kind in ("rows", *further)}
    kept = {paths["trials"]: schema.trial_types(module)}
    kept |= {path: schema.row_types(module, name) for name, path in row_paths.items()}
    digests = read_json(directory / DIGESTS) or {}
    intact = all(p.exists() and digests.get(p.name) == file_digest(p) and fits(p, kept[p]) for p in kept)
    intact = intact and _have_parameters(kept, module)
    old = _old_trials(paths["trials"], found) if intact else _Old([], set(), False)
    fresh = [t for i, t in sorted(found.items()) if i not in old.ids]
    # In a ledger that is driven what passes for litter of a dead attempt may be the record that one writes just now.
    if directory.parent == root and not is_driven(root):
        for identity, trial in found.items():
            if identity in old.ids or read_manifest(trial / DONE) is not None:  # if damaged, it may be running again
                tidy(trial)  # its last attempt may have died just before it did so itself
    written = [paths["attempts"]]
    if fresh or old.dropped or not intact:
        trials = list(old.trials)
        vanished = vanished_columns([*(t.schema for t in trials), *map(schema_of, fresh)], module)
        with contextlib.ExitStack() as stack:
            rows = [stack.enter_context(_Rows(path, module, name, vanished)) for name, path in row_paths.items()]
            for one in rows:
                one.keep(old.ids)
            for batch in batches(fresh, read, module, damaged, misfits, vanished):
                trials.append(batch.trials)
                for one in rows:
                    one.add(batch.rows)
            for one in rows:
                one.close()
        whole = merged(trials, kept[paths["trials"]] | vanished, misfits) if trials else _empty_trials(module)
        write_file(paths["trials"], parquet(whole.sort_by("trial_id")))
        written += kept
    unfinished = _unfinished(directory, [t for i, t in sorted(begun.items()) if i not in found], module, misfits)
    for name in sorted(misfits):
        told = "has another type now; trials with values that do not fit it have none there in export/"
        print(f"{root}: column {name!r} {told}; farm prune removes those of older revisions or types", file=sys.stderr)
    write_file(paths["attempts"], parquet(_attempts(root)))
    if plan is not None:
        write_file(paths["plan"], parquet(plan_table(_without(plan, damaged), module)))
        written.append(paths["plan"])
    if digests != (digests := digests | {p.name: file_digest(p) for p in written}):
        write_json(directory / DIGESTS, digests)
    return Export(directory, paths, damaged, unfinished)


def _have_parameters(tables: Iterable[Path], module: str) -> bool:
    """Whether tables of the last export have a column of each parameter that there is now, and the same of others.

    Else one is new, or renamed, and only the trials themselves tell what they had. (Until 2026-11-30 the row tables had
    no parameters that were no more, and today's defaults in their place.)
    """
    names = [{n for n in pq.read_schema(path).names if n.startswith("config_")} for path in tables]
    return {f.name for f in schema.config_schema(module)} <= names[0] and all(own == names[0] for own in names)


def _unfinished(directory: Path, trials: Sequence[Path], module: str, misfits: set[str]) -> Unfinished:
    """Write the row tables of trials without an end; all of them, if empty, so that nothing stays of one that ended.

    They are read anew each time; `misfits` gets names of columns only where the last export had other types.
    """
    target, names = directory / UNFINISHED, schema.row_tables(module)
    target.mkdir(exist_ok=True)
    if all(_has_types(target / f"{name}.parquet", schema.row_types(module, name)) for name in names):
        misfits = set()
    counts = []
    vanished = vanished_columns((configuration_schema(t, module) for t in trials), module)
    with contextlib.ExitStack() as stack:
        tables = [stack.enter_context(_Rows(target / f"{name}.parquet", module, name, vanished)) for name in names]
        for batch in batches(trials, lambda trial: read_newest(trial, module), module, [], misfits, vanished):
            counts.append((len(batch.trials), len(batch.rows)))
            for one in tables:
                one.add(batch.rows)
        for one in tables:
            one.close()
    return Unfinished(target, sum(trials for trials, _ in counts), sum(rows for _, rows in counts))


def _has_types(path: Path, declared: Mapping[str, pa.DataType]) -> bool:
    try:
        return fits(path, declared)
    except (OSError, pa.ArrowException):  # not there, or damaged
        return False


def planned_states(root: Path) -> dict[str, str]:
    """States that plan.parquet has, by id, as the last export with a plan left them; none where it cannot be read."""
    try:
        plan = pq.read_table(root / "export" / "plan.parquet", columns=["trial_id", "state"])
    except (OSError, pa.ArrowException):
        return {}
    return dict(zip(plan["trial_id"].to_pylist(), plan["state"].to_pylist(), strict=True))


def _without(plan: Plan, damaged: Sequence[Path]) -> Plan:
    """The plan with trials whose results cannot be read as new, which a run makes of them."""
    lost = {trial_id(path) for path in damaged}
    trials = (dataclasses.replace(t, state="new", status="") if t.id in lost else t for t in plan.trials)
    return dataclasses.replace(plan, trials=tuple(trials))


def plan_table(plan: Plan, module: str) -> pa.Table:
    """plan.parquet: the grid for the overrides given, with each trial's state and configuration."""
    rows = [
        {
            "trial_id": t.id,
            "name": t.label,
            "label": t.label,
            "state": t.state,
            "status": t.status,
            "epoch": t.epoch,
            "reason": t.reason,
            "cpus": t.bundle.cpu,
            "gpus": t.bundle.gpu,
            **schema.config_columns(t.spec),
        }
        for t in plan.trials
    ]
    return schema.table(rows, schema.PLAN, schema.config_schema(module))


@dataclass(frozen=True)
class _Old:
    """Trials of the last export that still stand as they did."""

    trials: list[pa.Table]
    ids: set[str]
    dropped: bool


def _old_trials(trials: Path, found: dict[str, Path]) -> _Old:
    table = pq.read_table(trials)
    there = [name for name in DIGEST_COLUMNS if name in table.column_names]  # before 2026-11-29 that of rows alone
    known = {row["trial_id"]: row for row in table.select(["trial_id", *there]).to_pylist()}
    now = {i: dict(zip(DIGEST_COLUMNS, results_digests(found[i]), strict=True)) for i in known if i in found}
    ids = {i for i, digests in now.items() if all(digests[name] == known[i][name] for name in there)}
    kept = table.filter(pc.is_in(table["trial_id"], pa.array(sorted(ids), pa.string())))
    for name in DIGEST_COLUMNS.keys() - {*there}:
        kept = kept.append_column(name, pa.array([now[i][name] for i in kept["trial_id"].to_pylist()], pa.string()))
    return _Old([kept] if len(kept) else [], ids, len(ids) < len(known))


class _Rows:
    """A row table, written in batches to a temporary file, which is renamed into place by `close` or goes with the
    block."""

    def __init__(self, target: Path, module: str, name: str, vanished: Mapping[str, pa.DataType]) -> None:
        self._target, self._file = target, Growing(target)
        self._buffer = io.BufferedWriter(self._file, WRITE_BYTES)
        self._name, self._main = name, schema.row_table(module)
        self._schema = pa.schema({**schema.row_types(module, name), **vanished})
        self._writer = pq.ParquetWriter(self._buffer, self._schema, compression="zstd")

    def __enter__(self) -> _Rows:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.discard()

    def keep(self, ids: set[str]) -> None:
        """Copy the rows of trials that stand as they did, a row group at a time."""
        if not ids or not self._target.exists():
            return
        wanted = pa.array(sorted(ids), pa.string())
        for batch in pq.ParquetFile(self._target).iter_batches(batch_size=1 << 17):
            table = pa.Table.from_batches([batch])
            self._append(table.filter(pc.is_in(table["trial_id"], wanted)))

    def add(self, table: pa.Table) -> None:
        """Append those rows of trials that are this table's."""
        if "table" in table.column_names:
            own = pc.equal(pc.fill_null(table["table"], self._main), self._name)
            self._append(table.filter(own))
        elif self._name == self._main:
            self._append(table)

    def _append(self, table: pa.Table) -> None:
        """Append rows; columns that they lack are null."""
        if len(table):
            names = {*table.column_names}
            columns = [
                table[f.name].cast(f.type) if f.name in names else pa.nulls(len(table), f.type) for f in self._schema
            ]
            self._writer.write_table(pa.table(columns, schema=self._schema))

    def close(self) -> None:
        """Make the file durable and put it in place."""
        self._writer.close()
        self._buffer.flush()
        self._file.put()


def _empty_trials(module: str) -> pa.Table:
    return schema.table([], schema.trial_columns(module), schema.config_schema(module))


def _attempts(root: Path) -> pa.Table:
    trials = directories(root).values()
    records = attempt_records(root, *trials) if trials else ()
    rows = [{c.name: _fitting(record.get(c.name), c.type) for c in schema.ATTEMPTS} for record in records]
    return schema.table(rows, schema.ATTEMPTS)


def _fitting(value: Any, kind: str) -> Any:
    """A value of attempt.json as its column holds it; None where that file has come to hold something else."""
    if kind == "str":
        return value if isinstance(value, str) else None
    if isinstance(value, bool) or not isinstance(value, int if kind == "int" else (int, float)):
        return None
    return value if abs(value) < 2**63 else None
