"""The words that trials and the farm share: parameter, spec, row, context.

Importing this module costs nothing (no torch), so configuration and planning can use it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import inspect
import json
import math
import operator
import sys
import types
import typing
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

T = TypeVar("T")
Scalar = bool | int | float | str | None
Row = dict[str, Scalar]
State = dict[str, Any]
Kind = Literal["int", "float", "str", "bool"]
"""Type of a parameter or of a column; any may lack a value."""
Better = Literal["lower", "higher", ""]
"""Which direction of a column is the better one, if any is."""
STATUSES = ("completed", "diverged", "oom")
"""How a trial that is done has ended."""


def parameter(
    default: Scalar,
    help: str,
    *,
    unit: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    choices: Sequence[Scalar] | None = None,
) -> Any:
    """Declare one parameter of a trial module's `Parameters` dataclass.

    `default` is the value the parameter was introduced with and never changes afterwards: a parameter
    that stands at it stays out of the spec's hash, so adding a parameter does not re-key old results.
    A study that wants another value says so in its YAML file. Where a default has changed all the same, a run
    refuses what was begun with the old one, until the default is back or `REVISION` is raised. Bounds are inclusive.
    """
    metadata = {"help": help, "unit": unit, "minimum": minimum, "maximum": maximum, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Spec:
    """One point of a study's grid: all that determines a trial's results, and nothing else.

    `parameters` holds every parameter of the trial module, defaults included. `dataset` is the name and
    `fingerprint` the content hash of the data. `revision` is the trial module's `REVISION`. `hardware` is
    the GPU's model (or "cpu") for a timed trial and None otherwise.
    """

    module: str
    parameters: Mapping[str, Scalar]
    seed: int
    threads: int
    dataset: str
    fingerprint: str
    revision: int
    timed: bool
    hardware: str | None

    def canonical(self) -> dict[str, Any]:
        """The content that is hashed: parameters at their introduced default are left out."""
        defaults = parameter_defaults(self.module)
        moved = {k: v for k, v in self.parameters.items() if k not in defaults or not same(defaults[k], v)}
        return {**self.as_dict(), "parameters": moved}

    def as_dict(self) -> dict[str, Any]:
        """All fields, for JSON; `Spec(**spec.as_dict())` is the spec again."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {**values, "parameters": dict(self.parameters)}

    @functools.cached_property
    def id(self) -> str:
        """Twelve hexadecimal digits (48 bits) of the SHA-256 of the canonical JSON."""
        return id_of(self.canonical())


def id_of(canonical: Mapping[str, Any]) -> str:
    """The id that a spec with this canonical content has. Raises `ValueError` for NaN, which JSON has not."""
    text = json.dumps(canonical, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def same(a: Scalar, b: Scalar) -> bool:
    """Whether two values are one in a spec: 1 and 1.0 are, 1 and True are not."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def trial_module(name: str) -> Any:
    """Import a trial module, e.g. "trials.problem4". It imports torch only inside `run`.

    A trial module has `REVISION: int` (raised when old results stop being comparable), a dataclass `Parameters` whose
    fields are made by `parameter`, and `run(spec, context)`, a `TrialRun` generator. It may have
    `resolve(parameters)`, which returns all parameters with those filled in that follow from others (a default that
    depends on the method), so that a spec says everything; `check(parameters)`, which says what is wrong with them
    together; `revision(parameters)`, where a change concerned some of its trials only and REVISION is that of the
    others; `steps(parameters)`, how often a trial without a parameter `epochs` yields at most (for its progress and
    time left only); `work(parameters)`, how long a trial takes beside others of its study (for estimates and the order
    of trials only, until finished trials tell); `TABLE`, the name of its row table (else "epochs"); `COLUMNS`, columns
    of its own rows; and `SUMMARY`, columns of its trials' one row.

    A script that can be imported will do: what it prints then goes to stderr, and it sees none of the words of the
    farm's command line. Raises `ModuleError` where it ends the process.
    """
    if name in sys.modules:
        return sys.modules[name]
    words, sys.argv = sys.argv, [name]
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return importlib.import_module(name)
    except SystemExit:
        raise ModuleError(
            f"{name} ends the process when it is imported; keep that under if __name__ == '__main__'"
        ) from None
    finally:
        sys.argv = words


class ModuleError(ValueError):
    """A trial module ends the process, or one of its own functions failed; the text says which, and how."""


def resolved(module: str, parameters: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """All parameters with those filled in that follow from others.

    Raises `ModuleError` where `resolve` fails, or where a value is not of its parameter's type.
    """
    resolve = getattr(trial_module(module), "resolve", dict)
    found = _asked(f"{module}.resolve", resolve, parameters, dict)
    kinds = parameter_types(module)
    for name, value in found.items():
        if name not in kinds:
            raise ModuleError(f"{module}.resolve: {name} is no parameter")
        plain = found[name] = value.item() if getattr(value, "shape", None) == () else value  # NumPy's and torch's
        if not holds(kinds[name], plain):
            raise ModuleError(f"{module}: Parameters.{name}: {kinds[name]} is expected, and not {value!r}")
    return found


def problem_with(module: str, parameters: Mapping[str, Scalar]) -> str | None:
    """What the trial module says is wrong with parameters, or None. Raises `ModuleError` where its `check` fails."""
    check = getattr(trial_module(module), "check", None)
    return None if check is None else _asked(f"{module}.check", check, parameters, lambda problem: problem)


def revision_of(module: str, parameters: Mapping[str, Scalar]) -> int:
    """What has to be equal for results to compare: a trial module's `REVISION`, or its own `revision(parameters)`.

    Raises `ModuleError` where there is none, or none that is a whole number.
    """
    source = trial_module(module)
    if not hasattr(source, "REVISION") and not hasattr(source, "revision"):
        raise ModuleError(
            f"{module}: REVISION = 1 is missing: the number that is raised when old results do not compare"
        )
    revision = getattr(source, "revision", lambda _: source.REVISION)
    return _asked(f"{module}.revision", revision, parameters, operator.index)


def steps_of(module: str, parameters: Mapping[str, Scalar]) -> int:
    """How often a trial yields, at most: its `epochs`, else its module's `steps(parameters)`, else 0: not known.

    Raises `ModuleError` where the module's function fails or returns no number that a count can be.
    """
    if isinstance(epochs := parameters.get("epochs"), int):
        return epochs
    steps = getattr(trial_module(module), "steps", None)
    return 0 if steps is None else _asked(f"{module}.steps", steps, parameters, int)


def work_of(module: str, parameters: Mapping[str, Scalar]) -> float:
    """How long a trial takes beside others of its study: its module's `work(parameters)`, else its steps. No unit.

    Raises `ModuleError` where the module's function fails or returns no number above 0.
    """
    work = getattr(trial_module(module), "work", None)
    if work is None:
        return float(steps_of(module, parameters))
    found = _asked(f"{module}.work", work, parameters, float)
    if not 0 < found < math.inf:
        raise ModuleError(f"{module}.work returned {found}: a number above 0 is expected")
    return found


def _asked(
    name: str,
    function: Callable[[Mapping[str, Scalar]], Any],
    parameters: Mapping[str, Scalar],
    kind: Callable[[Any], T],
) -> T:
    """What a trial module's own function answers, as what it has to be; `ModuleError` where either fails.

    What it prints goes to stderr: the command that asks may have JSON on its stdout.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return kind(function(parameters))
    except (Exception, SystemExit) as error:
        raise ModuleError(f"{name}: {type(error).__name__}: {error}") from error


@functools.cache
def parameter_defaults(module: str) -> dict[str, Scalar]:
    """Name and introduced default of every parameter of a trial module."""
    return {f.name: f.default for f in dataclasses.fields(trial_module(module).Parameters)}


@functools.cache
def parameter_types(module: str) -> dict[str, Kind]:
    """Name and type of every parameter of a trial module: "float" where int and float are declared.

    Raises `ModuleError` for a parameter of any type that no column can hold.
    """
    declared = trial_module(module).Parameters
    hints, found = typing.get_type_hints(declared), {}
    for f in dataclasses.fields(declared):
        if (kind := _kind_of(hints[f.name])) is None:
            shown = f.type if isinstance(f.type, str) else inspect.formatannotation(f.type)
            expected = "int, float, str or bool, each perhaps with None, is expected"
            raise ModuleError(f"{module}: Parameters.{f.name}: {shown}; {expected}")
        found[f.name] = kind
    return found


def _kind_of(hint: Any) -> Kind | None:
    several = typing.get_origin(hint) in (typing.Union, types.UnionType)
    named = {kind for one in (typing.get_args(hint) if several else (hint,)) for kind in _plain_types(one)}
    return _KINDS.get(frozenset(named - {types.NoneType}))


def _plain_types(hint: Any) -> set[Any]:
    """The types of a Literal's values; of an Enum of texts, which are texts, str."""
    if typing.get_origin(hint) is Literal:
        return {type(value) for value in typing.get_args(hint)}
    return {str} if isinstance(hint, type) and issubclass(hint, str) else {hint}


_KINDS: dict[frozenset[type], Kind] = {
    frozenset({int}): "int",
    frozenset({float}): "float",
    frozenset({int, float}): "float",
    frozenset({str}): "str",
    frozenset({bool}): "bool",
}


def holds(kind: Kind, value: Any) -> bool:
    """Whether a column of this type has a value as it is. Whole numbers pass between int and float; None is none."""
    if value is None:
        return True
    if kind == "int":
        whole = isinstance(value, int) and not isinstance(value, bool)
        return (whole or (isinstance(value, float) and value.is_integer())) and -(2**63) <= value < 2**63
    if kind == "float":
        return isinstance(value, float) or (isinstance(value, int) and abs(value) <= 2**53)
    return isinstance(value, str if kind == "str" else bool)


@dataclass(frozen=True)
class Outcome:
    """How a trial that ran to its end ended.

    `status` is "completed", "diverged" (a NaN or infinite loss, a result like any other) or "oom" (the farm says that
    itself, of a trial whose error it is). `summary` holds further columns of the trial's one row in trials.parquet, for
    example `weights_sha256`; those that farm/ledger/schema.py does not have, the module declares in `SUMMARY`.
    Raises `ValueError` for any other status: a trial that fails raises its error.
    """

    status: str
    summary: Row

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            expected = ", ".join(STATUSES)
            raise ValueError(f"Outcome({self.status!r}, …): one of {expected} is expected; what has failed raises")


@dataclass(frozen=True)
class Column:
    """One column of a row table: its name, type, unit, and what it means.

    `measured` columns come from clocks or hardware; two runs of one spec are equal in all others.
    `better` is "lower", "higher" or "" where neither direction is. Raises `ValueError` for another type or direction.
    """

    name: str
    type: Kind
    unit: str = ""
    measured: bool = False
    better: Better = ""
    help: str = ""

    def __post_init__(self) -> None:
        if self.type not in typing.get_args(Kind):
            expected = ", ".join(typing.get_args(Kind))
            raise ValueError(f"Column({self.name!r}, {self.type!r}): its type is one of {expected}")
        if self.better not in typing.get_args(Better):
            raise ValueError(f"Column({self.name!r}, …, better={self.better!r}): lower, higher or nothing is expected")


class Context(Protocol):
    """What a running trial is given. `dataset` is loaded when it is first asked for."""

    device: str
    """"cpu" or "cuda": the trial's GPUs are the visible ones, numbered from 0."""
    state: State | None
    """The state of the last commit of any earlier attempt (loaded to the CPU), or None."""
    rows: list[Row]
    """The rows of that commit."""

    @property
    def dataset(self) -> Any:
        """The `trials.data.Dataset` that the spec names."""

    def check_stop(self) -> None:
        """Raise `Drained` when the trial should end now. Cheap: call it between steps."""


class Drained(Exception):
    """The trial was asked to stop; what it committed stays."""


Epoch = tuple[list[Row], Callable[[], State] | None]
"""What a trial yields at each boundary where it could be resumed: the rows since the last boundary, and a
function that returns the state to resume from (CPU tensors, numbers, strings, dicts and lists only, so that
`torch.load(weights_only=True)` reads it). The caller commits when it is time. None: cannot be resumed here."""

TrialRun = Generator[Epoch, None, Outcome]
YIELDS = "run has to yield a list of rows and a state"


def checked_epoch(module: str, yielded: Any) -> Epoch:
    """What a trial module's `run` yielded, if it is an `Epoch`. Raises `TypeError` that says what came instead."""
    if not isinstance(yielded, tuple | list) or len(yielded) != 2:
        raise TypeError(f"{module}: {YIELDS}; {_kind_name(yielded)} came alone")
    rows, state = yielded
    if isinstance(rows, str | Mapping) or not isinstance(rows, Iterable):
        raise TypeError(f"{module}: {YIELDS}; {_kind_name(rows)} came where a list of rows is expected")
    rows = list(rows)
    for row in rows:
        if not isinstance(row, Mapping):
            raise TypeError(f"{module}: {YIELDS}; {_kind_name(row)} came where a row, a dict, is expected")
    if state is not None and not callable(state):
        raise TypeError(
            f"{module}: run yields (rows, state), where state is a function that returns the state, or None, and no "
            f"{type(state).__name__}"
        )
    return rows, state


def _kind_name(value: Any) -> str:
    """ "a dict", "an int", or "None"."""
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'aeio' else 'a'} {name}"
