"""Problem 2's set-ups from the export: a cell for each mode, scaling, number of GPUs and batch, and what it is worth.

Times compare only where machine, precision and all else are the same, so cells lie in groups: one for each machine
(GPU model, driver, topology) and each variation of the other parameters. Nothing here puts two groups together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.arms import UNTIMED, describe, is_timed, varying
from analysis.load import Data
from analysis.words import counted

LEAST_ITERATIONS = 10
SLACK = 0.95
"""The least part of the CUDA events' time that a synchronised wall clock can show."""
SHEET_BATCHES, SHEET_GPUS = (32, 128, 512), (1, 2, 4)
NAMED = ("mode", "scaling", "gpus", "hardware", "revision")
"""What a key or the machine says already; the revision is the mode's."""
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Machine:
    """What times are of: GPU model (or cpu), driver and how the node's GPUs are joined."""

    device: str
    driver: str
    topology: str

    @property
    def on_gpu(self) -> bool:
        """Whether it says anything about GPUs."""
        return self.device != "cpu"

    @property
    def name(self) -> str:
        """In words."""
        return f"{self.device}, driver {self.driver or 'unknown'}, {self.topology}" if self.on_gpu else "cpu"


@dataclass(frozen=True)
class Key:
    """One set-up. `batch` is the ladder's: each GPU's in weak scaling, all GPUs' in strong."""

    mode: str
    scaling: str
    gpus: int
    batch: int


@dataclass(frozen=True)
class Cell:
    """A set-up's accepted rows, one for each repetition, or in `note` why there are none.

    `profiled` are those of the profiler, in older revisions the same rows. `full` says that a repetition of any of its
    trials did not fit, whatever the note is. The rows are of the seeds that fit throughout; where others
    did not, `lost` says so.
    """

    key: Key
    rows: pd.DataFrame
    note: str = ""
    trials: tuple[str, ...] = ()
    profiled: pd.DataFrame = field(default_factory=pd.DataFrame)
    full: str = ""
    lost: str = ""

    @property
    def measured(self) -> bool:
        """Whether it has a number at all."""
        return len(self.rows) > 0

    @property
    def few(self) -> bool:
        """Whether a measurement has fewer than 10 iterations, so that it is none."""
        return self.measured and bool((self.rows["iterations"] * self.rows["passes"] < LEAST_ITERATIONS).any())

    @property
    def usable(self) -> bool:
        """Whether anything may be derived from it."""
        return self.measured and not self.few

    @property
    def boots(self) -> set[str]:
        """The machines, or starts of one, that its repetitions are of; empty where not known."""
        return set(self.rows["boot"].dropna()) if "boot" in self.rows else set()

    @property
    def iterations(self) -> int:
        """Iterations of an epoch."""
        return int(self.rows["iterations"].iloc[0])

    def values(self, *columns: str) -> Values:
        """The sum of some columns (seconds of an epoch) for each repetition."""
        return np.asarray(self.rows[list(columns)].sum(axis=1, skipna=False), dtype=np.float64)

    @property
    def whole(self) -> Values:
        """Seconds of an epoch with all that belongs to it."""
        return self.values("epoch_seconds")

    @property
    def training(self) -> Values:
        """Seconds of an epoch without the wait for data: copy to the device, gradients, update."""
        return self.values("copy_seconds", "step_seconds")


@dataclass(frozen=True)
class Group:
    """Cells that compare, and what the links between the GPUs were measured to do.

    `elsewhere` has what groups of other machines hold of this variation. `timed` says whether its times are results:
    cells of trials that may have shared their GPUs hold none. `profiled` says whether the profiler was to look.
    """

    machine: Machine
    variation: str
    cells: Mapping[Key, Cell]
    links: pd.DataFrame
    missing: Mapping[tuple[str, str, int], str] = field(default_factory=dict)
    elsewhere: frozenset[Key] = frozenset()
    timed: bool = True
    profiled: bool = True

    def cell(self, mode: str, scaling: str, gpus: int, batch: int) -> Cell:
        """A set-up; one that was not measured says why. One GPU has no scaling: both read the same cell."""
        key = Key(mode, "weak" if gpus == 1 else scaling, gpus, batch)
        if key in self.cells:
            return self.cells[key]
        if key in self.elsewhere:
            return Cell(key, pd.DataFrame(), "on another machine")
        return Cell(key, pd.DataFrame(), self.missing.get((key.mode, key.scaling, gpus), "not run"))

    def batches(self, mode: str, scaling: str) -> list[int]:
        """The sheet's batches and those that were tried, in order; only the latter where there are any."""
        tried = {k.batch for k, c in self.cells.items() if k.mode == mode and (k.scaling == scaling or k.gpus == 1)}
        shown = {b for b in tried if any(c.note[:7] != "skipped" for k, c in self.cells.items() if k.batch == b)}
        return sorted(shown or SHEET_BATCHES)

    def gpu_counts(self, mode: str, scaling: str) -> list[int]:
        """The sheet's numbers of GPUs and those that were run."""
        return sorted({*SHEET_GPUS, *(k.gpus for k in self.cells if (k.mode, k.scaling) == (mode, scaling))})

    def has(self, mode: str, scaling: str) -> bool:
        """Whether anything was planned or run of a mode and scaling on more than one GPU, or of the mode on one."""
        several = [k for k in self.cells if (k.mode, k.scaling) == (mode, scaling) and k.gpus > 1]
        planned = [m for m in self.missing if m[:2] == (mode, scaling) and m[2] > 1]
        alone = [k for k in self.cells if k.mode == mode and k.gpus == 1]
        return bool(several or planned or (scaling == "weak" and alone))

    @property
    def trials(self) -> list[str]:
        """Trials behind the cells."""
        return trials_of(self.cells.values())

    def boots(self, trials: Iterable[str]) -> int:
        """On how many machines (or after how many starts of one) some trials' rows were measured; 0: not known."""
        of_these = set(trials)
        return len({b for c in self.cells.values() if of_these.intersection(c.trials) for b in c.boots})

    def links_of(self, link: str, cells: Sequence[Cell]) -> pd.DataFrame:
        """What a kind of link was measured to do by the trials of measured cells, on the machines of their rows.

        A trial that went on elsewhere measures its links anew (older ones did not). Where an export does not know its
        machines, all that the trials measured.
        """
        trials, boots = trials_of(c for c in cells if c.measured), {b for c in cells for b in c.boots}
        if self.links.empty or not self.machine.on_gpu or not self.timed:
            return self.links.iloc[:0]
        own = self.links[(self.links["link"] == link) & self.links["trial_id"].isin(trials)]
        return own[own["boot"].isin(list(boots))] if boots else own

    @property
    def label(self) -> str:
        """Machine and variation."""
        return ", ".join(filter(None, [self.machine.name, self.variation]))


def trials_of(cells: Iterable[Cell]) -> list[str]:
    """The trials whose rows are in some cells."""
    return sorted({t for c in cells for t in c.trials})


def groups(data: Data) -> list[Group]:
    """All groups of an export, in the plan's order; one without cells where nothing has run."""
    vary = [p for p in varying(data.plan) if p not in NAMED]
    if data.rows.empty:
        missing, nowhere = _missing(data, vary, ""), Machine("not run", "", "nothing measured")
        return [Group(nowhere, "", {}, pd.DataFrame(), missing, profiled=_profiled(data.plan))]
    places: dict[tuple[Machine, str], list[int]] = {}
    rows, links = _with_boots(data, data.rows), _with_boots(data, data.tables.get("links", pd.DataFrame()))
    seen, rows = rows[rows["result"] == "profiled"], rows[rows["result"] != "profiled"]
    for place, row in enumerate(rows.to_dict("records")):
        places.setdefault((_machine(row), _variation(row, vary)), []).append(place)
    found = []
    for (machine, variation), own in places.items():
        part = rows.iloc[own]
        cells = {k: _cell(k, cell, seen) for k, cell in _keyed(part)}
        of_these = links[links["trial_id"].isin(list(part["trial_id"]))] if len(links) else links
        missing = _missing(data, vary, variation)
        timed = all(is_timed(row.get("config_timed")) for row in part.to_dict("records"))
        found.append(Group(machine, variation, cells, of_these, missing, timed=timed, profiled=_profiled(part)))
    return [replace(group, elsewhere=_elsewhere(group, found)) for group in found]


def _profiled(frame: pd.DataFrame) -> bool:
    """Whether some trials were to look with the profiler; 0 iterations: not to."""
    column = "config_profiled_iterations"
    return column not in frame or bool((frame[column] != 0).any())


def _elsewhere(group: Group, found: Sequence[Group]) -> frozenset[Key]:
    others = [g for g in found if g.variation == group.variation and g is not group]
    return frozenset(key for g in others for key in g.cells)


def _with_boots(data: Data, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with the machine that each comes from, as `boot`: its attempt's host and kernel's start; None: unknown."""
    if not {"host", "boot_id"} <= set(data.attempts) or "attempt" not in rows:
        return rows.assign(boot=None)
    known = data.attempts.dropna(subset=["host", "boot_id"])
    boots = {(a["trial_id"], a["attempt"]): f"{a['host']} {a['boot_id']}" for a in known.to_dict("records")}
    own = [boots.get(k) for k in zip(rows["trial_id"], rows["attempt"], strict=True)]
    return rows.assign(boot=pd.Series(own, index=rows.index, dtype=object))


def _machine(row: Mapping[Any, Any]) -> Machine:
    return Machine(*(str(row.get(name) or "") for name in ("device", "driver", "topology")))


def _variation(row: Mapping[Any, Any], vary: Sequence[str]) -> str:
    return describe({p: row.get(f"config_{p}") for p in vary}, vary)


def _keyed(part: pd.DataFrame) -> list[tuple[Key, pd.DataFrame]]:
    places: dict[Key, list[int]] = {}
    for place, row in enumerate(part.to_dict("records")):
        key = Key(str(row["config_mode"]), str(row["config_scaling"]), int(row["config_gpus"]), int(row["batch"]))
        places.setdefault(key, []).append(place)
    return [(key, part.iloc[own]) for key, own in places.items()]


def _missing(data: Data, vary: Sequence[str], variation: str) -> dict[tuple[str, str, int], str]:
    """Why trials of the plan have no rows, by mode, scaling and GPUs."""
    found: dict[tuple[str, str, int], str] = {}
    for row in data.plan.to_dict("records"):
        if row["state"] != "done" and _variation(row, vary) == (variation or _variation(row, vary)):
            key = (str(row["config_mode"]), str(row["config_scaling"]), int(row["config_gpus"]))
            found[key] = _without_results(row)
    return found


def _without_results(row: Mapping[Any, Any]) -> str:
    """The table's words for a trial of the plan; the reason in full stands at the head of the report."""
    rows = row.get("epoch")
    if row["state"] == "partial" and pd.notna(rows) and rows > 0:
        return "not finished"
    return "failed" if row["state"] == "failed" else "not run"


def _cell(key: Key, rows: pd.DataFrame, seen: pd.DataFrame) -> Cell:
    """A set-up from its rows, and the profiler's of all set-ups, which may have seen it on another machine."""
    trials = tuple(dict.fromkeys(str(t) for t in rows["trial_id"]))
    measured, oom = rows[rows["result"] == "measured"], rows[rows["result"] == "oom"]
    fitting = measured[~measured["trial_id"].isin(oom["trial_id"])]
    lost = _lost(rows[~rows["trial_id"].isin(fitting["trial_id"])], len(trials)) if len(fitting) else {}
    full = lost.get("oom") or _full(oom)
    refused = {str(t): r for t, r in ((r.get("repeat"), refusal(key, r)) for r in measured.to_dict("records")) if r}
    if refused:
        return Cell(key, rows.iloc[:0], f"refused: {next(iter(refused.values()))}", trials, full=full)
    if fitting.empty:
        return Cell(key, fitting, full or f"skipped: {rows['reason'].iloc[0]}", trials, full=full)
    if not all(is_timed(row.get("config_timed")) for row in fitting.to_dict("records")):
        return Cell(key, rows.iloc[:0], "; ".join([*lost.values(), UNTIMED]), trials, full=full)
    profiled = seen[seen["trial_id"].isin(fitting["trial_id"]) & (seen["batch"] == key.batch)]
    profiled = fitting if profiled.empty else profiled
    return Cell(key, fitting, "", trials, profiled, full, "; ".join(lost.values()))


def _lost(rows: pd.DataFrame, seeds: int) -> dict[str, str]:
    """By result, in how many of a set-up's seeds it did not fit, or was skipped because a smaller batch did not."""
    oom = rows[rows["result"] == "oom"]
    skipped = rows[(rows["result"] == "skipped") & ~rows["trial_id"].isin(oom["trial_id"])]
    found = {"oom": (_full(oom), oom), "skipped": ("skipped", skipped)}
    return {k: f"{words} in {n} of {seeds} seeds" for k, (words, r) in found.items() if (n := r["trial_id"].nunique())}


def _full(oom: pd.DataFrame) -> str:
    """The table's words for rows that did not fit into a GPU's memory; empty where there are none."""
    if oom.empty:
        return ""
    return f"OOM (peak {peak / 2**30:.1f} GiB)" if (peak := float(oom["peak_memory_bytes"].max())) > 0 else "OOM"


def refusal(key: Key, row: Mapping[Any, Any]) -> str:
    """Why a row cannot be what it says it is; empty where nothing speaks against it.

    The number of iterations gives away a batch that was split among the GPUs (or not) against the scaling's name; a
    step that took less by the wall clock than by CUDA events was timed without waiting for the device.
    """
    per_gpu = key.batch if key.scaling == "weak" else key.batch / key.gpus
    expected = math.ceil(row["examples"] / (per_gpu * key.gpus))
    if row["iterations"] != expected:
        found, verb = counted(int(row["iterations"]), "iteration"), "is" if expected == 1 else "are"
        return f"{found} where {expected:,} {verb} expected"
    device = row.get("device_seconds")
    if isinstance(device, float) and row["step_seconds"] < SLACK * device:
        return "the clock was read before the GPU had finished"
    return ""
