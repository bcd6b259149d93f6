"""Problem 2's set-ups: a cell for each mode, scaling, number of GPUs and batch, and what it is worth.

Times compare only where machine, precision and all else are the same, so cells lie in groups: one for each machine
(GPU model, driver, topology) and each variation of the other parameters. analysis/problem2_groups.py makes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

LEAST_ITERATIONS = 10
SHEET_BATCHES, SHEET_GPUS = (32, 128, 512), (1, 2, 4)
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
