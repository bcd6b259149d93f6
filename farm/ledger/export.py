"""One file for each table, rebuilt from the ledger at any time: rows, trials, attempts, plan.

Done trials never change, so an export keeps the rows it has and reads only trials that are new to it.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from farm.ledger import schema
from farm.ledger.durable import MANIFEST, Damaged, read_json, read_verified, sync_directory, write_file
from farm.ledger.scan import DONE, attempt_records, trial_directories, trial_id
from farm.ledger.store import parquet
from farm.plan import Plan

BATCH = 500
"""Trials whose rows are held in memory at once."""


@dataclass(frozen=True)
class Export:
    """Paths of an export, and the trials whose `done` could not be read."""

    directory: Path
    tables: dict[str, Path]
    damaged: list[Path]


def export(root: Path, plan: Plan | None, module: str) -> Export:
    """Write <root>/export/ from the ledger. Without a plan, plan.parquet stays as it is."""
    directory = root / "export"
    directory.mkdir(parents=True, exist_ok=True)
    damaged: list[Path] = []
    found = {trial_id(t): t for t in trial_directories(root) if (t / DONE / MANIFEST).exists()}
    names = {"rows": schema.row_table(module), "trials": "trials", "attempts": "attempts", "plan": "plan"}
    paths = {kind: directory / f"{name}.parquet" for kind, name in names.items()}
    old = _old_trials(paths, found)
    fresh = [t for i, t in sorted(found.items()) if i not in old.ids]
    if fresh or old.dropped or not paths["trials"].exists() or not paths["rows"].exists():
        trials, rows = list(old.trials), _Rows(paths["rows"], module)
        rows.keep(paths["rows"], old.ids)
        for table in _read_trials(fresh, rows, damaged):
            trials.append(table)
        rows.close()
        whole = pa.concat_tables(trials, promote_options="permissive") if trials else _empty_trials(module)
        write_file(paths["trials"], parquet(whole.sort_by("trial_id")))
    write_file(paths["attempts"], parquet(_attempts(root)))
    if plan is not None:
        write_file(paths["plan"], parquet(plan_table(plan, module)))
    return Export(directory, paths, damaged)


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


def _old_trials(paths: dict[str, Path], found: dict[str, Path]) -> _Old:
    try:
        table = pq.read_table(paths["trials"])
        if not paths["rows"].exists():
            raise OSError
        known = dict(zip(table["trial_id"].to_pylist(), table["rows_sha256"].to_pylist(), strict=True))
    except (OSError, pa.ArrowException, KeyError):
        return _Old([], set(), False)
    ids = {i for i, digest in known.items() if i in found and _rows_digest(found[i]) == digest}
    kept = table.filter(pc.is_in(table["trial_id"], pa.array(sorted(ids), pa.string())))
    return _Old([kept] if len(kept) else [], ids, len(ids) < len(known))


def _rows_digest(trial: Path) -> str:
    manifest = read_json(trial / DONE / MANIFEST) or {}
    return str(manifest.get("files", {}).get("rows.parquet", {}).get("sha256", ""))


class _Rows:
    """The row table, written in batches to a temporary file and renamed into place at the end."""

    def __init__(self, target: Path, module: str) -> None:
        self._target, self._temporary = target, target.with_name(f".tmp-{target.name}-{os.getpid()}")
        self._columns = schema.row_columns(module)
        fields = [pa.field(c.name, schema.ARROW[c.type]) for c in self._columns]
        self._schema = pa.schema([*fields, *schema.config_schema(module)])
        self._writer = pq.ParquetWriter(self._temporary, self._schema, compression="zstd")

    def keep(self, old: Path, ids: set[str]) -> None:
        """Copy the rows of trials that stand as they did, a row group at a time."""
        if not ids or not old.exists():
            return
        wanted = pa.array(sorted(ids), pa.string())
        for batch in pq.ParquetFile(old).iter_batches(batch_size=1 << 17):
            table = pa.Table.from_batches([batch])
            self.add(table.filter(pc.is_in(table["trial_id"], wanted)))

    def add(self, table: pa.Table) -> None:
        """Append rows; columns that they lack are null."""
        if len(table):
            columns = [
                table[f.name].cast(f.type) if f.name in table.column_names else pa.nulls(len(table), f.type)
                for f in self._schema
            ]
            self._writer.write_table(pa.table(columns, schema=self._schema))

    def close(self) -> None:
        """Make the file durable and put it in place."""
        self._writer.close()
        with self._temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(self._temporary, self._target)
        sync_directory(self._target.parent)


def _read_trials(fresh: Iterable[Path], rows: _Rows, damaged: list[Path]) -> Iterator[pa.Table]:
    batch: list[pa.Table] = []
    for trial in fresh:
        try:
            one = _parquet(trial, "trial.parquet")
            own = _parquet(trial, "rows.parquet")
        except (Damaged, pa.ArrowException):
            damaged.append(trial)
            continue
        identity = {name: one[name][0].as_py() for name in one.column_names if name.startswith("config_")}
        for name, value in {"trial_id": trial_id(trial), "name": trial.name, **identity}.items():
            kind = one.schema.field(name).type if name in one.column_names else pa.string()
            own = own.append_column(pa.field(name, kind), pa.repeat(pa.scalar(value, kind), len(own)))
        batch.append(own)
        if len(batch) >= BATCH:
            rows.add(pa.concat_tables(batch, promote_options="permissive"))
            batch.clear()
        yield one.append_column("rows_sha256", pa.array([_rows_digest(trial)], pa.string()))
    if batch:
        rows.add(pa.concat_tables(batch, promote_options="permissive"))


def _parquet(trial: Path, name: str) -> pa.Table:
    return pq.read_table(io.BytesIO(read_verified(trial / DONE, name)))


def _empty_trials(module: str) -> pa.Table:
    return schema.table([], schema.TRIALS, schema.config_schema(module))


def _attempts(root: Path) -> pa.Table:
    names = [c.name for c in schema.ATTEMPTS]
    rows = [{k: record.get(k) for k in names} for record in attempt_records(root)]
    return schema.table(rows, schema.ATTEMPTS)
