"""Reading trials in bulk: a batch's rows as one table, and its trials as another with one row each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from farm.ledger import schema
from farm.ledger.durable import Damaged, read_manifest, read_verified
from farm.ledger.scan import DONE, trial_id
from trials.spec import parameter_defaults

BATCH = 500
"""Trials whose rows are held in memory at once."""
ROWS, TRIAL = "rows.parquet", "trial.parquet"
DIGEST_COLUMNS = {"rows_sha256": ROWS, "trial_sha256": TRIAL}
"""Columns of trials.parquet that have the SHA-256 of a finished trial's files."""
NO_DIGESTS = ("",) * len(DIGEST_COLUMNS)
DIGESTS = "digests.json"
"""In the export: SHA-256 of each table as it was written. Parquet itself would read many a flipped bit as a number."""
UNFINISHED = "unfinished"
"""In the export: the directory of row tables of trials that have no end yet."""


@dataclass(frozen=True)
class Batch:
    """Some trials: all their rows, and one row for each of them."""

    rows: pa.Table
    trials: pa.Table


@dataclass(frozen=True)
class Results:
    """A trial's results as read: its rows, its one row, and the digests of both by `DIGEST_COLUMNS`.

    Of a trial without an end the one row has the configuration alone, and the digests are empty.
    """

    path: Path
    digests: tuple[str, ...]
    rows: pa.Table
    trial: pa.Table


def batches(
    trials: Sequence[Path],
    read: Callable[[Path], Results | None],
    module: str,
    damaged: list[Path],
    misfits: set[str],
    vanished: Mapping[str, pa.DataType],
) -> Iterator[Batch]:
    """Read trials, `BATCH` at a time; those that `read` has nothing of are appended to `damaged`.

    `misfits` gets names of columns, see `merged`; `vanished` are those of `vanished_columns`.
    In one thread: two spent twice the CPU time on handing the interpreter's lock to each other.
    """
    for start in range(0, len(trials), BATCH):
        part = trials[start : start + BATCH]
        answers = [read(trial) for trial in part]
        damaged += [path for path, one in zip(part, answers, strict=True) if one is None]
        if found := [one for one in answers if one is not None]:
            yield _batch(found, module, misfits, vanished)


def with_defaults(table: pa.Table, module: str) -> pa.Table:
    """A trial's configuration, with each parameter that it is older than at the default of its introduction.

    Null instead where the trial has a parameter that its module has no more: what it lacks may be that one renamed.
    """
    defaults, names = parameter_defaults(module), set(table.column_names)
    known = not vanished_columns([table.schema], module)
    for field in schema.config_schema(module):
        key = field.name.removeprefix("config_")
        if key in defaults and field.name not in names:
            value = defaults[key] if known else None
            table = table.append_column(field, pa.array([value] * len(table), field.type))
    return table


def vanished_columns(schemas: Iterable[pa.Schema], module: str) -> dict[str, pa.DataType]:
    """Columns config_* of parameters that the module has no more, with their types; text where they had several."""
    known = {f.name for f in schema.config_schema(module)}
    found: dict[str, pa.DataType] = {}
    for field in (f for one in schemas for f in one if f.name.startswith("config_") and f.name not in known):
        if not pa.types.is_null(field.type) and found.setdefault(field.name, field.type) != field.type:
            found[field.name] = pa.string()
    return found


def schema_of(trial: Path) -> pa.Schema:
    """Columns of a finished trial's one row; none where it cannot be read, which `read` tells."""
    try:
        return pq.read_schema(pa.BufferReader((trial / DONE / TRIAL).read_bytes()))
    except (OSError, pa.ArrowException):
        return pa.schema([])


def results_digests(trial: Path) -> tuple[str, ...]:
    """SHA-256 of a finished trial's files by `DIGEST_COLUMNS`, as its manifest has them; "" where that is damaged."""
    return _digests(read_manifest(trial / DONE) or {})


def _digests(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    files = manifest.get("files", {})
    return tuple(str(files.get(name, {}).get("sha256", "")) for name in DIGEST_COLUMNS.values())


def read(trial: Path) -> Results | None:
    """One finished trial; None where it is damaged."""
    manifest = read_manifest(trial / DONE)
    try:
        rows, row = (read_table(trial / DONE, name, manifest) for name in (ROWS, TRIAL))
    except (Damaged, pa.ArrowException):
        return None
    return Results(trial, _digests(manifest or {}), rows, row)


def read_table(directory: Path, name: str, manifest: Mapping[str, Any] | None = None) -> pa.Table:
    """A table of a directory that has a manifest. Raises `Damaged` or `pa.ArrowException`.

    A file handed over as bytes opens five times as fast as by name.
    """
    return pq.ParquetFile(pa.BufferReader(read_verified(directory, name, manifest))).read(use_threads=False)


def _batch(found: Sequence[Results], module: str, misfits: set[str], vanished: Mapping[str, pa.DataType]) -> Batch:
    lengths = [len(one.rows) for one in found]
    declared = {**schema.trial_types(module), **vanished}
    trials = merged([with_defaults(one.trial, module) for one in found], declared, misfits)
    rows = merged([one.rows for one in found], schema.row_types(module, *schema.row_tables(module)), misfits)
    owner = pa.array(np.repeat(np.arange(len(found)), lengths))
    own = {"trial_id": pa.array([trial_id(one.path) for one in found])}
    own |= {"name": pa.array([one.path.name for one in found])}
    identity = own | {n: trials[n] for n in trials.column_names if n.startswith("config_")}
    for name, column in identity.items():
        rows = rows.append_column(name, column.take(owner))
    columns = zip(*(one.digests for one in found), strict=True)
    added: dict[str, Sequence[Any]] = {**dict(zip(DIGEST_COLUMNS, columns, strict=True)), "rows": lengths}
    for name, values in added.items():
        kind = schema.ARROW[schema.column(name).type]
        trials = trials.append_column(pa.field(name, kind), pa.array(values, kind))
    return Batch(rows, trials)


def merged(tables: Sequence[pa.Table], declared: Mapping[str, pa.DataType], misfits: set[str]) -> pa.Table:
    """Tables as one, whose columns have the types that the trial module declares now.

    An older revision's column of another type is null in those tables where it would lose something, and its name
    goes to `misfits`. What is declared no more, and had several types, is text.
    """
    with contextlib.suppress(pa.ArrowException):  # asked of all at once: of ten thousand it takes a second
        if _fits(pa.unify_schemas([t.schema for t in tables]), declared):
            return _joined(tables)
    kinds = dict(declared)
    for field in (f for t in tables for f in t.schema):
        if kinds.setdefault(field.name, field.type) != field.type and field.name not in declared:
            kinds[field.name] = pa.string()
    return _joined([_cast(t, kinds, misfits) for t in tables])


def fits(path: Path, declared: Mapping[str, pa.DataType]) -> bool:
    """Whether a Parquet file's columns have the types that are declared, as far as they are."""
    return _fits(pq.read_schema(path), declared)


def _fits(found: pa.Schema, declared: Mapping[str, pa.DataType]) -> bool:
    return all(f.type == declared.get(f.name, f.type) for f in found)


def _cast(table: pa.Table, kinds: Mapping[str, pa.DataType], misfits: set[str]) -> pa.Table:
    columns = {}
    for name in table.column_names:
        columns[name] = _without_loss(table[name], kinds[name])
        if columns[name] is None:
            columns[name] = pa.nulls(len(table), kinds[name])
            misfits.add(name)
    return pa.table(columns)


def _without_loss(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray | None:
    """A column as another type, from which it could be had back; None where there is no such."""
    try:
        found = column.cast(kind)
        return found if found.type == column.type or found.cast(column.type).equals(column) else None
    except pa.ArrowException:
        return None


def _joined(tables: Sequence[pa.Table]) -> pa.Table:
    """One table, and one piece of memory for each column: ten thousand small ones cost a gigabyte."""
    return pa.concat_tables(tables, promote_options="permissive").combine_chunks()
