"""What a trial module declares of its tables, looked at before anything runs: COLUMNS, SUMMARY, TABLE, TABLES."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from farm.ledger import schema
from trials.spec import Column, ModuleError, trial_module


def check_columns(module: str) -> None:
    """Raise `ModuleError` where a trial module declares columns or tables that the ledger cannot make."""
    source = trial_module(module)
    _check_listed(f"{module}.COLUMNS", getattr(source, "COLUMNS", ()))
    _check_listed(f"{module}.SUMMARY", getattr(source, "SUMMARY", ()), beside=schema.TRIALS)
    table, tables = getattr(source, "TABLE", schema.EPOCHS), getattr(source, "TABLES", None)
    if not isinstance(table, str) or not table:
        raise ModuleError(f"{module}.TABLE: the name of its row table is expected, and not {table!r}")
    if tables is None:
        return
    if not isinstance(tables, Mapping) or not tables:
        raise ModuleError(f"{module}.TABLES: a dict of tables by their names is expected")
    for name, columns in tables.items():
        _check_listed(f"{module}.TABLES[{name!r}]", columns, standard=[c.name for c in schema.ROWS])
    try:
        schema.row_columns(module)
    except schema.SchemaError as error:
        raise ModuleError(str(error)) from None


def _check_listed(where: str, columns: Any, beside: Sequence[Column] = (), standard: Sequence[str] = ()) -> None:
    """One tuple or list of columns, in a table `beside` others; `standard` ones may stand there by their names."""
    if not isinstance(columns, (tuple, list)) or not all(isinstance(c, (Column, str)) for c in columns):
        raise ModuleError(f"{where}: a tuple of Column is expected; (Column(…),) has a comma")
    if unknown := [c for c in columns if isinstance(c, str) and c not in standard]:
        known = "is no column of farm/ledger/schema.py" if standard else "is no Column"
        raise ModuleError(f"{where}: {unknown[0]!r} {known}; Column({unknown[0]!r}, …) declares it")
    types: dict[str, str] = {c.name: c.type for c in beside}
    for c in (c for c in columns if isinstance(c, Column)):
        if types.setdefault(c.name, c.type) != c.type:
            whose = "in farm/ledger/schema.py" if any(c.name == b.name for b in beside) else "too"
            raise ModuleError(f"{where}: column {c.name!r} is declared as {c.type}, and as {types[c.name]} {whose}")
