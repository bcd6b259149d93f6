"""Estimates from the ledger's own history: what a trial will take, by its nearest completed relatives."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from farm.ledger.scan import DONE, has_finished, trial_directories, trial_id
from trials.spec import Spec, parameter_defaults, steps_of, trial_module, work_of

IGNORED = ("config_seed", "config_epochs", "config_revision")
"""Columns that make two trials no less related: seeds take equally long, epochs are scaled, for revisions see
`_Groups.of`."""


FIXED = ("config_module", "config_hardware", "config_dataset")
"""Columns that relatives share: a laptop's smoke run says nothing of a GPU's."""


NOISE = 0.1
"""Relative scatter of trials' times for no reason in their parameters (other load, clocks), at least.

Measured on H200s, as the standard deviation of the times' logarithms: 0.024 over the seeds of problem 1's ten arms,
0.053 over those of three arms of problem 4, 0.039 over the 14 learning rates of ten arms (0.066 in the worst). Twice
that, since few rates make a law: of the 910 pairs of those learning rates none makes one, at 0.05 it would be 23.
"""


SPAN = 2.0
"""What a law needs at least of largest over smallest number: nearer ones tell of the noise in their times."""


def estimated_seconds(
    ledger: Path, specs: Sequence[Spec], epochs_done: Mapping[str, int], on_gpu: Mapping[str, bool] | None = None
) -> dict[str, float]:
    """Seconds that each spec still needs, by id, from the completed trials that differ in the fewest parameters.

    The median of what these took for an epoch, times the epochs that are left after `epochs_done`. Where trials
    have no parameter `epochs`, the median of their whole time, less the share of their module's `steps` that is
    done. Relatives that differ in one number alone give a law in that number, where `law_of` finds one:
    M=32 is foreseen from M=1 and M=4. Else it is foreseen in proportion to the `work` that the trial module
    declares, where it does. Specs without any completed relative (same trial module, hardware and dataset) are left
    out: one that ran out of memory or diverged says nothing of how long a trial takes that does not. `on_gpu` says of
    each whether it will run on a GPU, and so must its relatives have: the hardware of trials that are not timed is no
    part of their spec.
    """
    done = _finished(ledger, specs[0].module) if specs else {}
    if not done.get("seconds") or not done.keys() >= {*FIXED, "config_revision"}:
        return {}
    from farm.ledger.schema import config_columns

    groups = _Groups(done)
    found: dict[str, float] = {}
    for spec in specs:
        values = config_columns(spec)
        relatives = groups.of(values, (on_gpu or {}).get(spec.id))
        if relatives is not None:
            steps = _steps(spec)
            left = max(1 - epochs_done.get(spec.id, 0) / steps, 0.0) if steps else 1.0
            rate = relatives.rate(values, _work(spec.module, values))
            found[spec.id] = rate * float(values.get("config_epochs") or 1) * left
    return found


def law_of(numbers: Sequence[float], rates: Sequence[float]) -> Callable[[float], float] | None:
    """Rate as a function of a number above 0, from the rates at some; each number counts by the median of its rates.

    The line through logarithms, level * number ** exponent. Of whole numbers, which count something, where the exponent
    is between -1 and 1, a fixed part and one in proportion to the number (or to its inverse) instead, least squares of
    the relative error: work that a GPU gets more of goes faster at first, and a power law drawn out from there would
    have that go on. None where the line cannot be told from noise: where the numbers span less than SPAN, or the
    exponent is within two standard errors of 0, each rate being off by NOISE, or by what the line leaves over where
    that is more. So learning rates that happen to differ by some per cent in time foresee nothing at a hundredth of
    them.
    """
    at = defaultdict(list)
    for number, rate in zip(numbers, rates, strict=True):
        if number > 0 and rate > 0:
            at[number].append(rate)
    if not at or max(at) < SPAN * min(at):
        return None
    x, y = np.log(list(at)), np.log([median(found) for found in at.values()])
    spread = ((x - x.mean()) ** 2).sum()
    exponent = float(((x - x.mean()) * y).sum() / spread)
    left_over = y - y.mean() - exponent * (x - x.mean())
    noise = max(NOISE, math.sqrt((left_over**2).sum() / max(len(x) - 2, 1)))
    if abs(exponent) < 2 * noise / math.sqrt(spread):
        return None
    sign, unit = (1, max(at)) if exponent > 0 else (-1, min(at))  # in this unit both parts weigh alike in the fit
    parts = np.stack([np.exp(-y), np.exp(sign * (x - math.log(unit)) - y)], axis=1)
    fixed, each = (float(part) for part in np.linalg.lstsq(parts, np.ones(len(parts)), rcond=None)[0])
    if abs(exponent) < 1 and fixed > 0 and each > 0 and all(float(number).is_integer() for number in at):
        return lambda wanted: fixed + each * float((wanted / unit) ** sign)
    level = float(np.exp(y.mean() - exponent * x.mean()))
    return lambda wanted: level * wanted**exponent


class _Groups:
    """Completed trials by what relatives share, then by revision."""

    def __init__(self, done: Mapping[str, list[Any]]) -> None:
        self._done = done
        self._made: dict[tuple[Any, ...], dict[int, _Relatives]] = {}

    def of(self, values: Mapping[str, Any], on_gpu: bool | None) -> _Relatives | None:
        """The relatives of a trial with these config columns, None without any; `on_gpu` None: on whichever device.

        Those of its own revision, and where there is none the newest's. But the same parameters in another revision say
        more than other parameters in this one: DDP's strong scaling took 603 s, and an older revision's had taken 605
        where weak scaling in its own gave 395.
        """
        key = on_gpu, *(values[c] for c in FIXED)
        if key not in self._made:
            self._made[key] = {r: _Relatives(self._done, rows) for r, rows in self._rows(values, on_gpu).items()}
        made, own = self._made[key], values["config_revision"]
        nearest = sorted(made, key=lambda revision: (revision != own, -revision))
        return next((made[r] for r in nearest if made[r].has(values)), made[nearest[0]] if nearest else None)

    def _rows(self, values: Mapping[str, Any], on_gpu: bool | None) -> dict[int, list[int]]:
        done = self._done
        of_revision: dict[int, list[int]] = defaultdict(list)
        for row, revision in enumerate(done["config_revision"]):
            completed = "status" not in done or done["status"][row] == "completed"
            there = "device" not in done or on_gpu in (None, done["device"][row] != "cpu")
            if completed and there and all(done[c][row] == values[c] for c in FIXED):
                of_revision[revision].append(row)
        return of_revision


class _Relatives:
    """Trials, a column of small numbers for each, one a value, and the seconds that an epoch of each took."""

    def __init__(self, done: Mapping[str, list[Any]], rows: Sequence[int]) -> None:
        names = [c for c in done if c.startswith("config_")]
        self._columns = [c for c in names if c not in (*IGNORED, *FIXED)]
        self._values = [{c: done[c][row] for c in names} for row in rows]
        self._numbers: list[dict[str, int]] = [{} for _ in self._columns]  # numbers compare faster than values
        points = [self._point(values) for values in self._values]
        self._points = set(points)
        self._table = np.array(
            [
                [numbers.setdefault(value, len(numbers)) for value in column]
                for column, numbers in zip(zip(*points, strict=True), self._numbers, strict=True)
            ],
            dtype=np.int32,
        )
        epochs = [float(values.get("config_epochs") or 1) for values in self._values]
        self._rates = np.array([done["seconds"][row] for row in rows], dtype=float) / epochs
        self._work = np.zeros(len(rows))  # 0: not yet asked
        self._found: dict[tuple[tuple[str, ...], float], float] = {}
        self._laws: dict[tuple[int, tuple[str, ...]], Callable[[float], float] | None] = {}

    def has(self, values: Mapping[str, Any]) -> bool:
        """Whether one of them has the same parameters."""
        return self._point(values) in self._points

    def rate(self, values: Mapping[str, Any], work: float) -> float:
        """Seconds that an epoch of a trial with these config columns and this work takes."""
        wanted = self._point(values)
        if (wanted, work) not in self._found:
            self._found[wanted, work] = self._rate(wanted, work)
        return self._found[wanted, work]

    def _point(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(repr(values.get(c)) for c in self._columns)

    def _rate(self, wanted: tuple[str, ...], work: float) -> float:
        row = np.array([numbers.get(w, -1) for numbers, w in zip(self._numbers, wanted, strict=True)], dtype=np.int32)
        differs = self._table != row[:, None]
        distance = differs.sum(axis=0, dtype=np.int16)
        nearest = np.flatnonzero(distance == distance.min())
        if distance.min() == 1:
            for column in np.flatnonzero(differs[:, nearest].any(axis=1)):
                alone = nearest[differs[column, nearest]]
                if (found := self._along(int(column), wanted, alone)) is not None:
                    return found
        for one in nearest[self._work[nearest] == 0]:
            self._work[one] = _work(str(self._values[one]["config_module"]), self._values[one])
        return float(np.median(self._rates[nearest] / self._work[nearest]) * work)

    def _along(self, column: int, wanted: tuple[str, ...], alone: np.ndarray) -> float | None:
        """Rate by the law of trials that differ in this column alone; None where there is none."""
        key = column, wanted[:column] + wanted[column + 1 :]
        if key not in self._laws:  # one law for all trials along the same line
            numbers = [_number(repr(self._values[one][self._columns[column]])) for one in alone]
            self._laws[key] = law_of(numbers, self._rates[alone].tolist())
        law, at = self._laws[key], _number(wanted[column])
        return law(at) if law is not None and at > 0 else None


def _number(text: str) -> float:
    """0 for what is no number: a word, True, None."""
    try:
        return float(text)
    except ValueError:
        return 0.0


def _steps(spec: Spec) -> int:
    try:
        return steps_of(spec.module, spec.parameters)
    except ValueError:  # a run says so
        return 0


def _work(module: str, values: Mapping[str, Any]) -> float:
    """Work that the module declares, for an epoch where trials have epochs, from a trial's config columns; else 1."""
    if not hasattr(trial_module(module), "work"):
        return 1.0
    defaults = parameter_defaults(module)
    found = {name: values.get(f"config_{name}") for name in defaults}
    parameters = {name: defaults[name] if value is None else value for name, value in found.items()}
    try:
        return work_of(module, parameters) / float(values.get("config_epochs") or 1)
    except ValueError:  # a run says so
        return 1.0


def _finished(ledger: Path, module: str) -> dict[str, list[Any]]:
    """Columns of the finished trials: those of the last export, and what was done since."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from farm.ledger import schema
    from farm.ledger.gather import merged

    export = ledger / "export" / "trials.parquet"
    tables, known = [], set()
    try:
        tables = [pq.read_table(export)]
        known = set(tables[0]["trial_id"].to_pylist())
    except (OSError, KeyError, pa.ArrowException):
        pass  # no export yet, or not a whole one
    for path in trial_directories(ledger):
        if trial_id(path) not in known and has_finished(path):
            try:
                tables.append(pq.ParquetFile(path / DONE / "trial.parquet").read(use_threads=False))
            except (OSError, pa.ArrowException):
                continue  # damaged; a run sets it aside
    return merged(tables, schema.trial_types(module), set()).to_pydict() if tables else {}
