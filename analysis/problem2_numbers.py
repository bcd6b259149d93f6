"""The formulas of problem 2: speedup, compute and communication, bandwidth; each an estimate with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import stats
from analysis.problem2_setups import Cell, Group, Values
from analysis.stats import NOTHING, Estimate

GIGA = 1e9


@dataclass(frozen=True)
class Split:
    """An epoch without its data wait, in seconds: compute T1/k, communication T_k − T1/k, and the profiler's.

    `mark` says what is wrong. `lost` says that seeds of the set-up or of one GPU are not in it because they were out of
    memory, `compute_lost` the same of the compute, which is one GPU's alone.
    """

    compute: Estimate = NOTHING
    communication: Estimate = NOTHING
    profiled: Estimate = NOTHING
    mark: str = ""
    lost: bool = False
    compute_lost: bool = False

    @property
    def doubt(self) -> str:
        """Why there is no communication to be told; empty where there is, and where it is not known.

        It is below zero where T1/k is more than the compute was. One repetition says nothing of the noise.
        """
        e = self.communication
        if not e.has_interval:
            return "not above zero in one repetition" if e.value <= 0 else ""
        return "negative communication" if e.high < 0 else "communication within noise" if e.low <= 0 else ""


def why_not(group: Group, *cells: Cell) -> str:
    """Why nothing is derived from some cells; empty where nothing stands against it."""
    for cell in cells:
        if not cell.measured:
            return cell.note if cell is cells[0] else f"1-GPU: {cell.note}"
    if not group.machine.on_gpu:
        return "not from a CPU"
    if any(cell.few for cell in cells):
        return "under 10 iterations"
    return ""


def speedup(cell: Cell, one: Cell, confidence: float, column: str = "whole") -> Estimate:
    """T1 / T_k of epoch times (already the ratio of throughputs, as both go through the same images)."""
    return stats.ratio(getattr(one, column), getattr(cell, column), confidence)


def split(group: Group, mode: str, gpus: int, batch: int, confidence: float) -> Split:
    """Compute and communication of weak scaling.

    At the same batch a GPU, k GPUs do a k-th of the iterations that one does, each with the same work on a GPU; so an
    epoch's compute is T1/k, and what the epoch takes longer than that is communication.
    """
    cell, one = group.cell(mode, "weak", gpus, batch), group.cell(mode, "weak", 1, batch)
    if reason := why_not(group, cell, one):
        return Split(mark=reason)
    return Split(
        compute=mean_time(one.training / gpus, confidence),
        communication=stats.difference(cell.training, one.training / gpus, confidence),
        profiled=known_mean(cell.profiled, "profiled_communication_seconds", confidence),
        lost=bool(cell.lost or one.lost),
        compute_lost=bool(one.lost),
    )


def known_mean(rows: pd.DataFrame, column: str, confidence: float) -> Estimate:
    """Mean of a column of seconds over a cell's repetitions; nothing where one of them lacks it."""
    if column not in rows or rows[column].isna().any():
        return NOTHING
    return mean_time(rows[column].to_numpy(dtype=np.float64), confidence)


def mean_time(seconds: Values, confidence: float) -> Estimate:
    """Mean of times; no time is negative, so the interval ends at zero."""
    return stats.mean(seconds, confidence).within(0.0)


def ring_bytes(gpus: int, gradient_bytes: float) -> float:
    """Bytes that each GPU sends in one ring all-reduce of S bytes: 2(N−1)·S/N (Gibiansky 2017)."""
    return 2 * (gpus - 1) / gpus * gradient_bytes


def root_bytes(gpus: int, gradient_bytes: float) -> float:
    """Bytes over the root's links in one iteration of a naive DataParallel: parameters out, gradients in, 2(N−1)·S.

    Half of them go each way.
    """
    return 2 * (gpus - 1) * gradient_bytes


@dataclass(frozen=True)
class Bandwidth:
    """Bytes a second over the time of communication, by the ring's formula and for a naive root; and the ceilings.

    `all_reduce` is the bus bandwidth measured for a message of the gradient's size, `copy` that of the slowest copy
    between two of the GPUs (NaN where not measured). `mark` says why there is no bandwidth; `lost` is the split's.
    """

    ring: Estimate
    root: Estimate
    all_reduce: float
    copy: float
    mark: str = ""
    lost: bool = False

    def share(self, name: str) -> float:
        """The ring's part of the all-reduce ceiling, or of the copy's, which goes one way, the root's each way."""
        return self.ring.value / self.all_reduce if name == "ring" else self.root.value / 2 / self.copy


def bandwidth(group: Group, mode: str, gpus: int, batch: int, confidence: float) -> Bandwidth:
    """Bandwidth utilisation of one set-up: iterations · bytes / communication time (by subtraction)."""
    parts = split(group, mode, gpus, batch, confidence)
    cell = group.cell(mode, "weak", gpus, batch)
    ceilings = (all_reduce_ceiling(group, [cell]), copy_ceiling(group, [cell]))
    if mark := parts.mark or parts.doubt:
        return Bandwidth(NOTHING, NOTHING, *ceilings, mark)
    size = float(cell.rows["gradient_bytes"].iloc[0])
    ring, root = (over(cell.iterations * f(gpus, size), parts.communication) for f in (ring_bytes, root_bytes))
    if ring.value > ceilings[0]:  # hidden behind compute, or noise, of which one repetition says nothing
        return Bandwidth(NOTHING, NOTHING, *ceilings, "more than the links carry")
    return Bandwidth(ring, root, *ceilings, lost=parts.lost)


def over(amount: float, seconds: Estimate) -> Estimate:
    """A rate from an amount and a time; the interval's ends change places."""
    return Estimate(amount / seconds.value, amount / seconds.high, amount / seconds.low, seconds.n)


def all_reduce_ceiling(group: Group, cells: Sequence[Cell]) -> float:
    """Bus bandwidth (bytes/s) of an all-reduce of the gradient's size on these cells' GPUs; NaN where not measured."""
    found = group.links_of("all_reduce", cells)
    sizes = [float(r) for c in group.cells.values() if c.measured for r in c.rows["gradient_bytes"].iloc[:1]]
    if found.empty or not sizes:
        return math.nan
    nearest = found.loc[(found["bytes"] - sizes[0]).abs() == (found["bytes"] - sizes[0]).abs().min(), "bandwidth"]
    return float(np.median(nearest))


def copy_ceiling(group: Group, cells: Sequence[Cell]) -> float:
    """Bandwidth (bytes/s) of the slowest copy between two of these cells' GPUs; NaN where not measured."""
    found = group.links_of("copy", cells)
    return float(found["bandwidth"].min()) if len(found) else math.nan
