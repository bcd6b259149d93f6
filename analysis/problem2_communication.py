"""Problem 2's tables of communication: the sheet's Tables 2 and 3, what the profiler saw, traffic against ceilings."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pandas as pd

from analysis.load import Data
from analysis.options import Options
from analysis.problem2_grid import MODES, NEGATIVE, Column, Entry, cells_of, entry_column, grid, marked, notes_of
from analysis.problem2_numbers import GIGA, Bandwidth, bandwidth, known_mean, split, why_not
from analysis.problem2_setups import Cell, Group, trials_of
from analysis.provenance import source
from analysis.stats import NOTHING
from analysis.table import Table, estimate_columns, number_column, text_column

RING = "Iterations · 2(N−1)/N · S over the communication time by subtraction, and over the ends of its interval"
OVERLAPS = (
    "DDP's all-reduce runs while backward does: the time by subtraction is what is not hidden of it, and what the host "
    "needs, so this rate can be above or below that on the links, and an end of its interval above what they carry."
)


def _compute(group: Group, mode: str, gpus: int, batch: int, options: Options) -> Entry:
    found = split(group, mode, gpus, batch, options.confidence)
    return found.compute, found.mark or marked("", found.compute_lost)


def _communication(group: Group, mode: str, gpus: int, batch: int, options: Options) -> Entry:
    found = split(group, mode, gpus, batch, options.confidence)
    return found.communication, found.mark or marked(NEGATIVE if found.doubt else "", found.lost)


def _ring(group: Group, mode: str, gpus: int, batch: int, options: Options) -> Entry:
    found = bandwidth(group, mode, gpus, batch, options.confidence)
    return found.ring.scaled(1 / GIGA), found.mark or marked("", found.lost)


def compute_table(data: Data, group: Group, mode: str, options: Options) -> Table:
    """The sheet's Table 2: compute and communication, by subtraction."""
    columns: list[Column] = [
        ("compute", "Compute (s)", _compute),
        ("communication", "Comm (s)", _communication),
    ]
    notes = [
        "Compute is T1/k, its interval cut at zero; communication T_k − T1/k, its interval Welch's, of a difference, "
        "and not cut. Both are without the wait for data."
    ]
    title = "Table 2: compute and communication time for different batch sizes"
    return grid(data, group, mode, "weak", title, columns, options, 2, notes)


def bandwidth_table(data: Data, group: Group, mode: str, options: Options) -> Table:
    """The sheet's Table 3: bandwidth utilisation by the ring formula."""
    columns: list[Column] = [("ring", "Bandwidth utilization (GB/s)", _ring)]
    notes = [f"{RING}; GB are 10⁹ bytes.", *([OVERLAPS] if mode == "ddp" else [])]
    return grid(data, group, mode, "weak", "Table 3: communication bandwidth utilization", columns, options, 2, notes)


def communication_table(data: Data, group: Group, mode: str, options: Options) -> Table:
    """Communication of every multi-GPU set-up: by subtraction, and beside it what the profiler saw, kind by kind.

    Without the profiler the latter is left out.
    """
    records = []
    several = [g for g in group.gpu_counts(mode, "weak") if g > 1]
    for gpus in several:
        for batch in group.batches(mode, "weak"):
            talk, mark = _communication(group, mode, gpus, batch, options)
            record: dict[str, Any] = {"setup": f"{gpus}-GPU", "gpus": gpus, "batch": batch}
            record |= estimate_columns("communication", talk) | {"communication_mark": mark}
            records.append(record | _profiled(group, group.cell(mode, "weak", gpus, batch), options))
    frame = pd.DataFrame(records)
    shown = (
        text_column("GPUs", "setup"),
        number_column("Batch per GPU", "batch", ",.0f"),
        entry_column("By subtraction (s)", "communication"),
        *(
            entry_column(f"{heading} (s)", f"profiled_{name}", beside="communication")
            for name, heading in PROFILED.items()
            if group.profiled
        ),
    )
    uncut = "By subtraction the interval is Welch's, of a difference, and is not cut at zero"
    notes = [
        f"{uncut}; those of the profiler's figures are.",
        "The profiler's figures are of a few further iterations, scaled to an epoch, which can come to more than the "
        "epoch that was timed; they count kernels and copies, not the "
        "host's time between them. Moments in which two kinds run at once count once in the sum. In DDP a collective "
        "counts from when its last rank has come to it; how long the others had waited in it is the last column, which "
        "is the ranks' unequal pace and no cost of the links. By subtraction such waiting is communication, but that "
        "of the timed epochs, whose ranks the profiler does not hold up.",
    ]
    how = "by subtraction and by the profiler" if group.profiled else "by subtraction"
    title = f"Communication {how} ({MODES[mode]}; {group.label})"
    cells = cells_of(group, mode, "weak", several)
    origin = source(data, trials_of(cells))
    told = notes_of(frame, notes if group.profiled else [f"{uncut}."], options, cells)
    return Table(title, frame, shown, told, origin, keys=2, side_by_side=4)


PROFILED = {
    "communication": "Profiler: all kinds",
    "broadcast": "Broadcast",
    "reduce": "Reduce",
    "all_reduce": "All-reduce",
    "peer_copy": "Peer copies",
    "exposed": "Of all: nothing else running",
    "waiting": "Waiting for the last rank",
}


def _profiled(group: Group, cell: Cell, options: Options) -> dict[str, Any]:
    record: dict[str, Any] = {}
    mark = why_not(group, cell)  # what the profiler saw needs no 1-GPU run beside it
    for name in PROFILED:
        estimate = NOTHING if mark else known_mean(cell.profiled, f"profiled_{name}_seconds", options.confidence)
        known = marked("", bool(cell.lost)) if math.isfinite(estimate.value) else ""
        record |= estimate_columns(f"profiled_{name}", estimate) | {f"profiled_{name}_mark": mark or known}
    return record


def ceiling_table(data: Data, group: Group, options: Options) -> Table:
    """Every multi-GPU set-up's traffic, ring and naive root, and their shares of what the links were measured to do."""
    records = []
    for mode in MODES:
        for gpus in [g for g in group.gpu_counts(mode, "weak") if g > 1 and group.has(mode, "weak")]:
            for batch in group.batches(mode, "weak"):
                found = bandwidth(group, mode, gpus, batch, options.confidence)
                records.append({"mode": MODES[mode], "gpus": gpus, "batch": batch} | _traffic(found, mode))
    frame = pd.DataFrame(records)
    shown = (
        text_column("Mode", "mode"),
        number_column("GPUs", "gpus"),
        number_column("Batch per GPU", "batch", ",.0f"),
        entry_column("Ring (GB/s)", "ring"),
        entry_column("Naive root (GB/s)", "root", beside="ring"),
        number_column("All-reduce ceiling (GB/s)", "all_reduce", ",.1f", 1 / GIGA),
        number_column("Copy ceiling (GB/s)", "copy", ",.1f", 1 / GIGA),
        number_column("Ring / all-reduce ceiling (%)", "ring_share", ".1f", 100),
        number_column("Root, each way / copy ceiling (%)", "root_share", ".1f", 100),
    )
    title = f"Traffic against what the links can do ({group.label})"
    cells = [c for m in MODES for c in cells_of(group, m, "weak", [g for g in group.gpu_counts(m, "weak") if g > 1])]
    notes = [
        f"{RING}; for the naive root, which is DataParallel's, with 2(N−1) · S. Ceilings: what an all-reduce of the "
        "gradient's size and the slowest copy between two GPUs reached before the training.",
        *([OVERLAPS] if group.has("ddp", "weak") else []),
    ]
    return Table(title, frame, shown, notes_of(frame, notes, options, cells), source(data, trials_of(cells)))


def _traffic(found: Bandwidth, mode: str) -> dict[str, Any]:
    if mode == "ddp":
        found = replace(found, root=NOTHING)  # no GPU is one
    mark = found.mark or marked("", found.lost)
    record: dict[str, Any] = {}
    for name in ("ring", "root"):
        rate = getattr(found, name).scaled(1 / GIGA)
        known = found.mark or math.isfinite(rate.value)
        record |= estimate_columns(name, rate) | {f"{name}_mark": mark if known else ""}
    record |= {"all_reduce": found.all_reduce, "copy": found.copy}
    return record | {"ring_share": found.share("ring"), "root_share": found.share("root")}
