"""Rows of a trial that has no end yet, as its newest commit has them. Nothing of it is kept: such rows change."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pyarrow as pa

from farm.ledger import schema
from farm.ledger.durable import Damaged
from farm.ledger.gather import NO_DIGESTS, ROWS, Results, read_table
from farm.ledger.scan import attempt_directories, newest_first
from farm.ledger.store import spec_of
from trials.spec import Scalar, Spec


def read_newest(trial: Path, module: str) -> Results | None:
    """The rows of the newest commit that can be read, and the configuration in spec.json; None where one is lacking.

    Safe beside the attempt that writes: a commit that cannot be read, because it is damaged, goes meanwhile, or its
    server has no answer, is passed over. The next export reads it again.
    """
    try:
        commits = newest_first(attempt_directories(trial))
    except OSError:
        return None
    for commit in commits:
        try:
            rows = read_table(commit, ROWS)
        except (Damaged, OSError, pa.ArrowException):
            continue
        spec = spec_of(trial)
        return None if spec is None else Results(trial, NO_DIGESTS, rows, _configuration(spec, module))
    return None


def configuration_schema(trial: Path, module: str) -> pa.Schema:
    """Columns of the configuration in a trial's spec.json; none where that cannot be read."""
    spec = spec_of(trial)
    return pa.schema([]) if spec is None else _configuration(spec, module).schema


def _configuration(spec: Spec, module: str) -> pa.Table:
    """Columns config_* of one row, each of its value's type; `merged` gives them the types that are declared now."""
    declared = {f.name: f.type for f in schema.config_schema(module)}
    return pa.table({k: _column(v, declared.get(k)) for k, v in schema.config_columns(spec).items()})


def _column(value: Scalar, declared: pa.DataType | None) -> pa.Array:
    """One value; null where there is none, or one that Arrow has no type for."""
    with contextlib.suppress(pa.ArrowException, OverflowError):
        if value is not None:
            return pa.array([value])
    return pa.nulls(1, declared)
