"""Problem 2's tables of times: the sheet's Table 1, also without the wait for data, strong scaling, one GPU alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pandas as pd

from analysis.load import Data
from analysis.options import Options
from analysis.problem2_grid import CUT, FEW, MODES, Column, Entry, cells_of, entry_column, grid, marked, notes_of
from analysis.problem2_numbers import mean_time, speedup, why_not
from analysis.problem2_setups import SHEET_BATCHES, Cell, Group, trials_of
from analysis.provenance import source
from analysis.stats import NOTHING, Estimate
from analysis.table import Shown, Table, estimate_columns, number_column

RATIO = "A speedup is the ratio of geometric means over the repetitions, its interval Welch's, of logarithms."


def _seconds(cell: Cell, values: Callable[[Cell], Any], options: Options) -> Entry:
    if not cell.measured:
        return NOTHING, cell.note
    return mean_time(values(cell), options.confidence), marked(FEW if cell.few else "", bool(cell.lost))


def _time(column: str, scaling: str) -> Callable[[Group, str, int, int, Options], Entry]:
    return lambda group, mode, gpus, batch, options: _seconds(
        group.cell(mode, scaling, gpus, batch), lambda c: getattr(c, column), options
    )


def _speedup(column: str, scaling: str) -> Callable[[Group, str, int, int, Options], Entry]:
    def entry(group: Group, mode: str, gpus: int, batch: int, options: Options) -> Entry:
        cell, one = group.cell(mode, scaling, gpus, batch), group.cell(mode, scaling, 1, batch)
        if gpus == 1 and cell.usable:
            return Estimate(1.0, math.nan, math.nan, len(cell.rows)), ""
        if reason := why_not(group, cell, one):
            return NOTHING, reason
        return speedup(cell, one, options.confidence, column), marked("", bool(cell.lost or one.lost))

    return entry


def speedup_table(data: Data, group: Group, mode: str, options: Options) -> Table:
    """The sheet's Table 1: epoch time with everything in it, and speedup, in weak scaling."""
    columns: list[Column] = [
        ("seconds", "Time (s)", _time("whole", "weak")),
        ("speedup", "Speedup", _speedup("whole", "weak")),
    ]
    title = "Table 1: speedup for different batch sizes"
    return grid(data, group, mode, "weak", title, columns, options, notes=[CUT, RATIO])


def without_data_table(data: Data, group: Group, mode: str, options: Options) -> Table:
    """Table 1 again without the wait for data, which two loader processes can dominate."""
    columns: list[Column] = [
        ("seconds", "Time (s)", _time("training", "weak")),
        ("speedup", "Speedup", _speedup("training", "weak")),
    ]
    return grid(data, group, mode, "weak", "Table 1 without waiting for data", columns, options, notes=[CUT, RATIO])


def strong_table(data: Data, group: Group, mode: str, options: Options) -> Table:
    """Strong scaling: the batch of all GPUs together is fixed."""
    columns: list[Column] = [
        ("seconds", "Time (s)", _time("whole", "strong")),
        ("speedup", "Speedup", _speedup("whole", "strong")),
        ("training_speedup", "Speedup without waiting for data", _speedup("training", "strong")),
    ]
    return grid(data, group, mode, "strong", "Strong scaling", columns, options, notes=[CUT, RATIO])


def one_gpu_table(data: Data, group: Group, mode: str, options: Options) -> Table:
    """Part 1: one GPU, batch after batch until its memory is full."""
    records = []
    for batch in _rungs(group, mode):
        cell = group.cell(mode, "weak", 1, batch)
        training, mark = _seconds(cell, lambda c: c.training, options)
        records.append(
            {"batch": batch, **estimate_columns("training", training), "training_mark": mark} | _detail(cell)
        )
    frame = pd.DataFrame(records)
    shown: tuple[Shown, ...] = (
        number_column("Batch", "batch", ",.0f"),
        entry_column("Epoch without data I/O (s)", "training"),
        number_column("Copy to GPU (s)", "copy_seconds", ".3f"),
        number_column("Waiting for data (s)", "data_seconds", ".3f"),
        number_column("Iterations", "iterations"),
        number_column("Step p50 (ms)", "step_p50_seconds", ".2f", 1e3),
        number_column("Step p95 (ms)", "step_p95_seconds", ".2f", 1e3),
        number_column("Step by CUDA events (ms)", "device_p50_seconds", ".2f", 1e3),
        number_column("Peak memory (GiB)", "peak_memory_bytes", ".2f", 2**-30),
        number_column("SM clock (MHz)", "clock_sm_mhz"),
    )
    if "launch_seconds" in frame and frame["launch_seconds"].notna().any():  # rows older than it have none
        shown = (*shown, number_column("Launch (µs)", "launch_seconds", ".2f", 1e6))
    title = f"One GPU: training time of an epoch ({MODES[mode]}; {group.label})"
    cells = cells_of(group, mode, "weak", [1])
    return Table(title, frame, shown, notes_of(frame, [CUT], options, cells), source(data, trials_of(cells)))


def _rungs(group: Group, mode: str) -> list[int]:
    """All batches that one GPU was given, also the skipped ones."""
    return sorted({k.batch for k in group.cells if k.mode == mode and k.gpus == 1}) or list(SHEET_BATCHES)


MEANS = ("copy_seconds", "data_seconds", "iterations", "step_p50_seconds", "step_p95_seconds", "device_p50_seconds")


def _detail(cell: Cell) -> dict[str, float]:
    names = (*MEANS, "peak_memory_bytes", "clock_sm_mhz", "launch_seconds")
    return {n: float(cell.rows[n].mean()) if n in cell.rows and cell.measured else math.nan for n in names}
