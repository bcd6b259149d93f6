"""Estimates from the ledger's own history: what a trial will take, by its nearest finished relatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from farm.ledger.durable import MANIFEST
from farm.ledger.scan import DONE, trial_directories, trial_id
from trials.spec import Spec, parameter_defaults, steps_of, trial_module, work_of

IGNORED = ("config_seed", "config_epochs")
"""Columns that make two trials no less related: seeds take equally long, and epochs are scaled."""


FIXED = ("config_module", "config_hardware", "config_dataset")
"""Columns that relatives share: a laptop's smoke run says nothing of a GPU's."""


def estimated_seconds(
    ledger: Path, specs: Sequence[Spec], epochs_done: Mapping[str, int], on_gpu: Mapping[str, bool] | None = None
) -> dict[str, float]:
    """Seconds that each spec still needs, by id, from the finished trials that differ in the fewest parameters.

    The median of what these took for an epoch, times the epochs that are left after `epochs_done`. Where trials
    have no parameter `epochs`, the median of their whole time, less the share of their module's `steps` that is
    done. Relatives that differ in one number alone, at two of its values or more, give a power law in that number:
    M=32 is foreseen from M=1 and M=2. From one value it is foreseen in proportion to the `work` that the trial module
    declares, where it does. Specs without any finished relative (same trial module, hardware and dataset)
    are left out. `on_gpu` says of each whether it will run on a GPU, and so must its relatives have: the hardware of
    trials that are not timed is no part of their spec.
    """
    done = _finished(ledger, specs[0].module) if specs else {}
    if not done.get("seconds"):
        return {}
    from farm.ledger.schema import config_columns

    relatives = _Relatives(done)
    rates: dict[tuple[tuple[str, ...], bool | None, float], float | None] = {}
    found: dict[str, float] = {}
    for spec in specs:
        values = config_columns(spec)
        work, steps = _work(spec.module, values), _steps(spec)
        key = tuple(repr(values.get(c)) for c in relatives.columns), (on_gpu or {}).get(spec.id), work
        if key not in rates:
            rates[key] = relatives.rate(*key)
        rate = rates[key]
        if rate is not None:
            left = max(1 - epochs_done.get(spec.id, 0) / steps, 0.0) if steps else 1.0
            found[spec.id] = rate * float(values.get("config_epochs") or 1) * left
    return found


class _Relatives:
    """Finished trials: a row of texts for each, one a config column, and the seconds that an epoch took."""

    def __init__(self, done: Mapping[str, list[Any]]) -> None:
        self.columns = [c for c in done if c.startswith("config_") and c not in IGNORED]
        self._fixed = [self.columns.index(c) for c in FIXED if c in self.columns]
        self._table = np.array([[repr(v) for v in done[c]] for c in self.columns], dtype=object).T
        epochs = np.array([e or 1 for e in done.get("config_epochs", [1] * len(done["seconds"]))], dtype=float)
        self._rates = np.array(done["seconds"], dtype=float) / epochs
        self._on_gpu = np.array([d != "cpu" for d in done.get("device", [None] * len(epochs))])
        self._done, self._work = done, np.zeros(len(epochs))  # 0: not yet asked

    def rate(self, key: Sequence[str], on_gpu: bool | None, work: float) -> float | None:
        """Seconds that an epoch of a trial with these values and this work takes; None without a relative."""
        wanted = np.array(key, dtype=object)
        differs = self._table != wanted
        distance = differs.sum(axis=1).astype(float)
        distance[differs[:, self._fixed].any(axis=1)] = np.inf
        if on_gpu is not None:
            distance[self._on_gpu != on_gpu] = np.inf
        nearest = distance == distance.min()
        if not np.isfinite(distance.min()):
            return None
        if distance.min() == 1:
            for column in np.flatnonzero(differs[nearest].any(axis=0)):
                alone = nearest & differs[:, column]
                if (law := self._power_law(int(column), alone, wanted[column])) is not None:
                    return law
        for row in np.flatnonzero(nearest & (self._work == 0)):
            values = {c: self._done[c][row] for c in self._done if c.startswith("config_")}
            self._work[row] = _work(str(values["config_module"]), values)
        return float(np.median(self._rates[nearest] / self._work[nearest]) * work)

    def _power_law(self, column: int, rows: np.ndarray, wanted: str) -> float | None:
        """Rate at a number by a straight line through logarithms; None for fewer than two positive numbers."""
        try:
            at, x = float(wanted), np.array([float(v) for v in self._table[rows, column]])
        except ValueError:
            return None
        usable = (x > 0) & (self._rates[rows] > 0)
        if at <= 0 or len(set(x[usable])) < 2:
            return None
        slope, level = np.polyfit(np.log(x[usable]), np.log(self._rates[rows][usable]), 1)
        return float(np.exp(level + slope * np.log(at)))


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
        if trial_id(path) not in known and (path / DONE / MANIFEST).exists():
            try:
                tables.append(pq.ParquetFile(path / DONE / "trial.parquet").read(use_threads=False))
            except (OSError, pa.ArrowException):
                continue  # damaged; a run sets it aside
    return merged(tables, schema.trial_types(module), set()).to_pydict() if tables else {}
