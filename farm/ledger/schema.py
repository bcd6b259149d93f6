"""Every column of every table: name, type, unit, measured or not, direction of better. Nowhere else.

A trial module may add columns of its own rows (`COLUMNS`) and name its row table (`TABLE`), or declare several
row tables (`TABLES`), and columns of its trials' one row (`SUMMARY`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from trials.spec import Column, Kind, Row, Scalar, Spec, holds, parameter_types, trial_module

ROWS: tuple[Column, ...] = (
    Column("trial_id", "str", help="the spec's id"),
    Column("name", "str", help="readable name of the trial"),
    Column("attempt", "int", measured=True, help="attempt that produced the row"),
    Column("epoch", "int", "epochs", help="epochs trained, from 1"),
    Column("learning_rate", "float", help="learning rate of the epoch's first step"),
    Column("train_loss", "float", "nats", better="lower", help="mean loss over the epoch's batches, while training"),
    Column("train_error", "float", "fraction", better="lower", help="training error over the epoch, while training"),
    Column("train_eval_loss", "float", "nats", better="lower", help="training loss in eval mode after the epoch"),
    Column("train_eval_error", "float", "fraction", better="lower", help="training error in eval mode"),
    Column("validation_loss", "float", "nats", better="lower", help="validation loss on original images"),
    Column("validation_error", "float", "fraction", better="lower", help="validation error on original images"),
    Column("test_loss", "float", "nats", better="lower", help="test loss"),
    Column("test_error", "float", "fraction", better="lower", help="test error"),
    Column("steps", "int", "steps", help="optimizer steps of the epoch"),
    Column("samples", "int", "images", help="images processed in the epoch, copies counted"),
    Column("train_seconds", "float", "s", True, "lower", "training time of the epoch, without evaluation"),
    Column("evaluation_seconds", "float", "s", True, "lower", "evaluation time of the epoch"),
    Column("wall_seconds", "float", "s", True, "lower", "training and evaluation so far; no start-up, no lost epochs"),
    Column("peak_memory_bytes", "int", "bytes", True, "lower", "peak memory allocated on the device"),
)

TRIALS: tuple[Column, ...] = (
    Column("trial_id", "str", help="the spec's id"),
    Column("name", "str", help="readable name of the trial"),
    Column("study", "str"),
    Column("status", "str", help="completed, oom or diverged"),
    Column("attempts", "int", measured=True, help="attempts it took"),
    Column(
        "seconds",
        "float",
        "s",
        True,
        "lower",
        "wall-clock of the last attempt, and of each before it up to the commit that the next one went on from",
    ),
    Column("device", "str", measured=True, help="device of the last attempt"),
    Column("devices", "str", measured=True, help="devices of all attempts; several mean pieced-together times"),
    Column("host", "str", measured=True),
    Column("finished_at", "str", "UTC", True, help="ISO 8601"),
    Column("weights_sha256", "str", help="SHA-256 of parameters and buffers in state_dict order"),
    Column("peak_memory_bytes", "int", "bytes", True, "lower"),
    Column("diverged_epoch", "int", "epochs", help="epoch whose loss was not finite"),
    Column("startup_seconds", "float", "s", True, "lower", "building the last attempt's steps: warm-up, capturing"),
    Column("model_parameters", "int", help="trainable numbers in the network"),
    Column("error", "str", measured=True, help="message of an oom"),
    Column(
        "farm_commit", "str", measured=True, help="git commit of the farm in the last attempt, + for a changed tree"
    ),
    Column(
        "source_digest",
        "str",
        measured=True,
        help="SHA-256 of the sources that decide results; several, where they changed before the trial was done",
    ),
    Column("torch_version", "str", measured=True),
    Column("python_version", "str", measured=True),
    Column("image", "str", measured=True, help="container image, where one is in use"),
    Column("rows_sha256", "str", measured=True, help="digest of the trial's own row file"),
    Column("trial_sha256", "str", measured=True, help="digest of the trial's own one row, as it is in its ledger"),
    Column("rows", "int", help="rows of the trial in all row tables"),
)
ADDED_BY_EXPORT = ("rows_sha256", "trial_sha256", "rows")

ATTEMPTS: tuple[Column, ...] = (
    Column("trial_id", "str"),
    Column("name", "str"),
    Column("attempt", "int", measured=True),
    Column("how", "str", measured=True, help="completed, diverged, oom, failed, interrupted, drained, killed or lost"),
    Column("host", "str", measured=True),
    Column("boot_id", "str", measured=True, help="the kernel's id of its start: tells machines of one name apart"),
    Column("device", "str", measured=True),
    Column("gpu_ids", "str", measured=True, help="ids that Ray assigned"),
    Column("visible_devices", "str", measured=True, help="CUDA_VISIBLE_DEVICES of the trial"),
    Column("started_at", "str", "UTC", True),
    Column("ended_at", "str", "UTC", True),
    Column("seconds", "float", "s", True),
    Column("from_epoch", "int", "epochs", True, help="epoch of the commit it started from, 0 for none"),
    Column("failure", "str", measured=True, help="kind of failure, see farm/failures.py"),
    Column("error_class", "str", measured=True),
    Column("error", "str", measured=True),
    Column("log_path", "str", measured=True),
    Column("farm_commit", "str", measured=True, help="git commit of the farm, + where the tree was changed"),
    Column("source_digest", "str", measured=True, help="as in trials.parquet, of what this attempt began with"),
)

PLAN: tuple[Column, ...] = (
    Column("trial_id", "str"),
    Column("name", "str"),
    Column("label", "str", help="the parameters that vary in this grid"),
    Column("state", "str", help="done, partial, new, failed or unschedulable"),
    Column("status", "str", help="of a done trial: completed, oom or diverged"),
    Column("epoch", "int", "epochs", help="epoch of the newest commit"),
    Column("reason", "str", help="why failed or unschedulable"),
    Column("cpus", "float", "CPUs"),
    Column("gpus", "float", "GPUs"),
)

EPOCHS = "epochs"
"""The row table of trials that train: a trial has one row of each epoch in it."""
IDENTITY = ("trial_id", "name", "attempt")
"""Columns of every row table."""
SPEC_COLUMNS = ("seed", "threads", "dataset", "fingerprint", "revision", "timed", "hardware", "module")
ADDED_BY_LEDGER = ("trial_id", "name")
"""Of these, those that no trial's own rows have."""
PYTHON: Mapping[Kind, type] = {"float": float, "str": str, "bool": bool}
"""Types of which a column holds every value: no int, which can be too large."""
ARROW = {"int": pa.int64(), "float": pa.float64(), "str": pa.string(), "bool": pa.bool_()}


class SchemaError(Exception):
    """A row does not fit its table."""


def row_tables(module: str) -> dict[str, tuple[Column, ...]]:
    """Row tables of a trial module by name, the main one first, and the columns of each.

    A module with `TABLES` has those tables with exactly the columns named there (a name alone is a standard
    column); its rows say theirs in the key `table`, else they are of the main one. Any other module has one table
    (`TABLE`, else EPOCHS) with the standard columns and its own `COLUMNS`.
    """
    source = trial_module(module)
    several: Mapping[str, Sequence[str | Column]] | None = getattr(source, "TABLES", None)
    if several is None:
        own: tuple[Column, ...] = tuple(getattr(source, "COLUMNS", ()))
        names = {c.name for c in own}
        return {str(getattr(source, "TABLE", EPOCHS)): tuple(c for c in ROWS if c.name not in names) + own}
    standard = {c.name: c for c in ROWS}
    columns = {t: [standard[c] if isinstance(c, str) else c for c in declared] for t, declared in several.items()}
    return {t: (*(standard[name] for name in IDENTITY), *declared) for t, declared in columns.items()}


def row_table(module: str) -> str:
    """Name of a trial module's main row table."""
    return next(iter(row_tables(module)))


def row_columns(module: str) -> tuple[Column, ...]:
    """Columns that rows of a trial module may have: of all its tables, and `table` where there are several.

    Raises `SchemaError` where two tables give one name two types: a trial's rows lie in one file.
    """
    tables = row_tables(module)
    found: dict[str, Column] = {} if len(tables) == 1 else {"table": Column("table", "str", help="the row's table")}
    for name, columns in tables.items():
        for c in columns:
            if found.setdefault(c.name, c).type != c.type:
                raise SchemaError(f"TABLES of {module}: column {c.name!r} of {name} has another type elsewhere")
    return tuple(found.values())


def trial_columns(module: str) -> tuple[Column, ...]:
    """Columns of trials.parquet: the standard ones and the module's `SUMMARY`."""
    own: tuple[Column, ...] = tuple(getattr(trial_module(module), "SUMMARY", ()))
    return TRIALS + own


def check_summary(module: str, summary: Iterable[str]) -> None:
    """Raise `SchemaError` naming a column of a trial's summary that neither the ledger nor its module declares."""
    declared = {c.name for c in trial_columns(module)}
    if unknown := [name for name in summary if name not in declared]:
        raise SchemaError(
            f"summary column {unknown[0]!r} is declared neither in farm/ledger/schema.py nor by {module}; "
            f"SUMMARY = (Column({unknown[0]!r}, …),) there declares it"
        )


def trial_types(module: str) -> dict[str, pa.DataType]:
    """Columns of trials.parquet by name, the configuration's too, with their types."""
    return types(trial_columns(module), config_schema(module))


def row_types(module: str, *tables: str) -> dict[str, pa.DataType]:
    """The same of rows in these row tables."""
    found = row_tables(module)
    return types((c for name in tables for c in found[name]), config_schema(module))


def types(columns: Iterable[Column], extra: Iterable[pa.Field] = ()) -> dict[str, pa.DataType]:
    """Arrow types of columns by name."""
    return {c.name: ARROW[c.type] for c in columns} | {f.name: f.type for f in extra}


class RowCheck:
    """Holds the rows of a trial module against its tables; made once, since epochs can be short."""

    def __init__(self, module: str) -> None:
        """Raises `SchemaError` where two tables give one name two types."""
        row_columns(module)
        self._module, tables = module, row_tables(module)
        self._main, self._several = next(iter(tables)), len(tables) > 1
        self._kinds = {
            name: {c.name: c.type for c in columns if c.name not in ADDED_BY_LEDGER} for name, columns in tables.items()
        }

    def plain(self, row: Mapping[str, Any]) -> Row:
        """A row with NumPy's and torch's scalars as Python's own.

        Raises `SchemaError` for a table that the module has not, a column that the table has not, or a value that
        is not of its column's type. Columns without a value may be of other tables.
        """
        table = (row.get("table") if self._several else None) or self._main
        if (kinds := self._kinds.get(table)) is None:
            raise SchemaError(f"{self._module} has no row table {table!r}; TABLES are {', '.join(self._kinds)}")
        found: Row = {}
        for name, value in row.items():
            if (kind := kinds.get(name)) is None:
                self._check_undeclared(name, value, table)
            elif type(value) is not PYTHON.get(kind):
                value = _scalar(name, value)
                if not holds(kind, value):
                    raise SchemaError(f"row column {name!r} is declared as {kind}, and has {value!r} ({self._module})")
            found[name] = value
        return found

    def _check_undeclared(self, name: str, value: Any, table: str) -> None:
        if self._several and (name == "table" or (value is None and any(name in k for k in self._kinds.values()))):
            return
        if name in ADDED_BY_LEDGER:
            raise SchemaError(f"row column {name!r} is the ledger's own; {self._module} needs another name for its own")
        if self._several:
            raise SchemaError(f"row column {name!r} is not one of table {table!r} in TABLES of {self._module}")
        raise SchemaError(
            f"row column {name!r} is declared neither in farm/ledger/schema.py nor by {self._module}; "
            f"COLUMNS = (Column({name!r}, …),) there declares it"
        )


def column(name: str, module: str | None = None) -> Column:
    """The description of a column by its name; raises KeyError for one that no table has."""
    tables: list[Sequence[Column]] = [
        row_columns(module) if module else ROWS,
        trial_columns(module) if module else TRIALS,
        ATTEMPTS,
        PLAN,
    ]
    return next((c for table in tables for c in table if c.name == name), None) or _missing(name)


def _missing(name: str) -> Column:
    raise KeyError(f"{name}: no such column in farm/ledger/schema.py")


def config_columns(spec: Spec) -> Row:
    """The spec as columns: config_<parameter> for every parameter, config_seed and the rest."""
    values: Row = {f"config_{k}": v for k, v in spec.parameters.items()}
    return values | {f"config_{k}": getattr(spec, k) for k in SPEC_COLUMNS}


def config_schema(module: str) -> list[pa.Field]:
    """Arrow fields of `config_columns`, by the types of the module's parameters."""
    kinds = {name: ARROW[kind] for name, kind in parameter_types(module).items()}
    own = {"seed": "int", "threads": "int", "revision": "int", "timed": "bool"}
    kinds |= {k: ARROW[own.get(k, "str")] for k in SPEC_COLUMNS}
    return [pa.field(f"config_{k}", kind) for k, kind in kinds.items()]


def fits_columns(spec: Spec) -> bool:
    """Whether a spec's values have the types that its module declares now, as those of any plan have."""
    values = config_columns(spec)
    try:
        found = {f.name: pa.array([values.get(f.name)], f.type)[0].as_py() for f in config_schema(spec.module)}
    except (pa.ArrowException, OverflowError):
        return False
    return all(values.get(name) == value for name, value in found.items())


def table(rows: Sequence[Mapping[str, Any]], columns: Iterable[Column], extra: Sequence[pa.Field] = ()) -> pa.Table:
    """Rows as an Arrow table with exactly the declared columns. Raises `SchemaError` naming a misfit."""
    declared = {c.name: c for c in columns}
    extra_names = {f.name for f in extra}
    for row in rows:
        if unknown := [k for k in row if k not in declared and k not in extra_names]:
            raise SchemaError(
                f"row column {unknown[0]!r} is declared neither in farm/ledger/schema.py nor by the module"
            )
    schema = pa.schema(types(declared.values(), extra))
    return pa.table({f.name: _array(f, [_plain(r.get(f.name)) for r in rows]) for f in schema}, schema)


def _array(field: pa.Field, values: Sequence[Scalar]) -> pa.Array:
    """Values as Arrow has them. Of a float it would keep the whole part alone in a column of whole numbers."""
    if field.type == ARROW["int"]:
        for value in values:
            if isinstance(value, float) and not value.is_integer():
                raise SchemaError(f"column {field.name!r} is declared as int, and has {value}")
    try:
        return pa.array(values, field.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise SchemaError(f"a value does not fit the type of column {field.name!r}: {error}") from None


def _scalar(name: str, value: Any) -> Any:
    """NumPy's and torch's scalars as Python's own."""
    try:
        return value.item() if hasattr(value, "item") else value
    except (ValueError, RuntimeError) as error:  # of several elements
        raise SchemaError(f"row column {name!r}: {error}") from None


def _plain(value: Any) -> Scalar:
    """NumPy and torch scalars as Python's own; text as UTF-8 has it: names of files may hold bytes that are none."""
    scalar: Scalar = value.item() if hasattr(value, "item") else value
    return scalar.encode(errors="backslashreplace").decode() if isinstance(scalar, str) else scalar
