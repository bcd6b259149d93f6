"""Problem 2's tables: the sheet's three in its own layout, strong scaling, one GPU alone, traffic against ceilings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.arms import UNTIMED, UNTIMED_NOTE
from analysis.load import Data
from analysis.options import Options
from analysis.problem2_numbers import GIGA, Bandwidth, Split, bandwidth, known_mean, mean_time, speedup, split, why_not
from analysis.problem2_setups import LEAST_ITERATIONS, SHEET_BATCHES, Cell, Group, trials_of
from analysis.provenance import source
from analysis.stats import NOTHING, Estimate
from analysis.table import Shown, Table, estimate_columns, estimate_of, estimate_text, number_column, text_column
from analysis.words import listing

Entry = tuple[Estimate, str]
"""What stands in a cell: a number, or where it is not known, why; a mark may stand beside a number too."""
MODES = {"dataparallel": "DataParallel", "ddp": "DistributedDataParallel"}
FEW, NEGATIVE, LOST = "§", "‡", "†"
RATIO = "A speedup is the ratio of geometric means over the repetitions, its interval Welch's, of logarithms."
SIDE_BY_SIDE = 6
"""Columns of numbers with intervals that a sheet of paper holds beside the rows' names."""
Column = tuple[str, str, Callable[[Group, str, int, int, Options], Entry]]
"""Name in the CSV, heading, and the entry of a group, mode, number of GPUs and batch."""


def grid(
    data: Data, group: Group, mode: str, scaling: str, title: str, columns: Sequence[Column], options: Options,
    least_gpus: int = 1, notes: Sequence[str] = (),
) -> Table:  # fmt: skip
    """A table in the sheet's layout: a row for each number of GPUs, a block of columns for each batch."""
    batches = group.batches(mode, scaling)
    shown, records = [text_column("GPUs", "setup")], []
    for batch in batches:
        what = f"Batch {batch} per GPU" if scaling == "weak" else f"Batch {batch} in all"
        shown += [_shown(f"{what}: {heading}", f"{name}_{batch}") for name, heading, _ in columns]
    for gpus in group.gpu_counts(mode, scaling):
        if gpus >= least_gpus:
            record: dict[str, Any] = {"setup": f"{gpus}-GPU", "gpus": gpus}
            for batch in batches:
                for name, _, entry in columns:
                    estimate, mark = entry(group, mode, gpus, batch, options)
                    record |= estimate_columns(f"{name}_{batch}", estimate) | {f"{name}_{batch}_mark": mark}
            records.append(record)
    frame, cells = pd.DataFrame(records), _cells(group, mode, scaling, [r["gpus"] for r in records])
    return Table(
        title=f"{title} ({MODES[mode]}; {group.label})",
        frame=frame,
        columns=tuple(shown),
        notes=_notes(frame, notes, options, cells),
        source=source(data, trials_of(cells)),
        side_by_side=SIDE_BY_SIDE // len(columns) * len(columns),
    )


def _shown(heading: str, name: str) -> Shown:
    return Shown(heading, lambda row: entry_text(row, name))


def entry_text(row: Mapping[str, Any], name: str) -> str:
    """The number with its interval and mark, or the reason for its absence."""
    estimate, mark = estimate_of(row, name), str(row[f"{name}_mark"])
    if not math.isfinite(estimate.value):
        return mark or "–"
    digits = max(0, 3 - math.ceil(math.log10(abs(estimate.value)))) if estimate.value else 3
    return " ".join(filter(None, [estimate_text(estimate, f",.{min(digits, 4)}f"), mark]))


def _cells(group: Group, mode: str, scaling: str, gpu_counts: Sequence[int]) -> list[Cell]:
    """The cells of some numbers of GPUs, and those of one GPU that they are set beside."""
    cells = [group.cell(mode, scaling, g, b) for g in gpu_counts for b in group.batches(mode, scaling)]
    if any(c.trials for c in cells):
        cells += [group.cell(mode, scaling, 1, b) for b in group.batches(mode, scaling)]
    return cells


def _epochs(cells: Sequence[Cell]) -> str:
    """Which epochs the times of some cells are of."""
    if not (short := sorted({c.key.batch for c in cells if c.measured and (c.rows["passes"] > 1).any()})):
        return "All times are of the second epoch, the first warms up."
    return (
        "All times are of the second epoch, or where that has few iterations the mean of several from it on (at "
        f"{listing([f'{b:,}' for b in short])} images); the first warms up."
    )


def _notes(frame: pd.DataFrame, more: Sequence[str], options: Options, cells: Sequence[Cell]) -> tuple[str, ...]:
    marks = {str(v) for c in frame for v in frame[c] if str(c).endswith("_mark")}
    notes = [
        f"Mean over the repetitions, in brackets its {100 * options.confidence:g} % t interval (none for one). "
        + _epochs(cells),
        *more,
    ]
    if any(FEW in m for m in marks):
        notes.append(f"{FEW} Fewer than {LEAST_ITERATIONS} iterations: no measurement, and nothing is derived from it.")
    if any(NEGATIVE in m for m in marks):
        notes.append(f"{NEGATIVE} No communication to be told: its interval holds zero, or it is negative.")
    if "not from a CPU" in marks:
        notes.append("These rows were measured on a CPU: processes share its cores, so no speedup is reported.")
    if partly := list({c.key: c for c in cells if c.lost and c.measured}.values()):
        each = (f"{c.key.gpus}-GPU at {c.key.batch:,}: {c.lost}, n = {len(c.rows)}" for c in partly)
        notes.append(f"{LOST} Of the seeds that fit alone, or derived from such a time. " + "; ".join(each) + ".")
    if any(m.startswith("OOM") for m in marks) or any("OOM" in c.lost for c in cells):
        notes.append("OOM: out of a GPU's memory; the peak is the most that torch had allocated there.")
    if any(m.endswith(UNTIMED) for m in marks):
        notes.append(UNTIMED_NOTE)
    return tuple(notes)


def _seconds(cell: Cell, values: Callable[[Cell], Any], options: Options) -> Entry:
    if not cell.measured:
        return NOTHING, cell.note
    return mean_time(values(cell), options.confidence), _marks(FEW if cell.few else "", cell)


def _marks(mark: str, *cells: Cell) -> str:
    """A number's mark, and beside it that some of the cells that it comes from are of some of their seeds."""
    return " ".join(filter(None, [mark, LOST if any(c.lost for c in cells) else ""]))


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
        return speedup(cell, one, options.confidence, column), _marks("", cell, one)

    return entry


def _part(part: str) -> Callable[[Group, str, int, int, Options], Entry]:
    def entry(group: Group, mode: str, gpus: int, batch: int, options: Options) -> Entry:
        found: Split = split(group, mode, gpus, batch, options.confidence)
        doubted = part == "communication" and found.doubt
        cells = _with_one(group, mode, 1 if part == "compute" else gpus, batch)
        return getattr(found, part), found.mark or _marks(NEGATIVE if doubted else "", *cells)

    return entry


def _ring(group: Group, mode: str, gpus: int, batch: int, options: Options) -> Entry:
    found: Bandwidth = bandwidth(group, mode, gpus, batch, options.confidence)
    return found.ring.scaled(1 / GIGA), found.mark or _marks("", *_with_one(group, mode, gpus, batch))


def _with_one(group: Group, mode: str, gpus: int, batch: int) -> tuple[Cell, Cell]:
    """A set-up of weak scaling and the one of one GPU, which is subtracted from it."""
    return group.cell(mode, "weak", gpus, batch), group.cell(mode, "weak", 1, batch)


def speedup_table(data: Data, group: Group, mode: str, options: Options) -> Table:
    """The sheet's Table 1: epoch time with everything in it, and speedup, in weak scaling."""
    columns: list[Column] = [
        ("seconds", "Time (s)", _time("whole", "weak")),
        ("speedup", "Speedup", _speedup("whole", "weak")),
    ]
    title = "Table 1: speedup for different batch sizes"
    return grid(data, group, mode, "weak", title, columns, options, notes=[RATIO])


def without_data_table(data: Data, group: Group, mode: str, options: Options) -> Table:
    """Table 1 again without the wait for data, which two loader processes can dominate."""
    columns: list[Column] = [
        ("seconds", "Time (s)", _time("training", "weak")),
        ("speedup", "Speedup", _speedup("training", "weak")),
    ]
    return grid(data, group, mode, "weak", "Table 1 without waiting for data", columns, options, notes=[RATIO])


def compute_table(data: Data, group: Group, mode: str, options: Options) -> Table:
    """The sheet's Table 2: compute and communication, by subtraction."""
    columns: list[Column] = [
        ("compute", "Compute (s)", _part("compute")),
        ("communication", "Comm (s)", _part("communication")),
    ]
    notes = [
        "Compute is T1/k, communication T_k − T1/k, both without the wait for data; the interval of communication is "
        "Welch's, of a difference."
    ]
    title = "Table 2: compute and communication time for different batch sizes"
    return grid(data, group, mode, "weak", title, columns, options, 2, notes)


def bandwidth_table(data: Data, group: Group, mode: str, options: Options) -> Table:
    """The sheet's Table 3: bandwidth utilisation by the ring formula."""
    columns: list[Column] = [("ring", "Bandwidth utilization (GB/s)", _ring)]
    notes = [
        "Iterations · 2(N−1)/N · S over the communication time by subtraction, and over the ends of its interval; GB "
        "are 10⁹ bytes."
    ]
    return grid(data, group, mode, "weak", "Table 3: communication bandwidth utilization", columns, options, 2, notes)


def strong_table(data: Data, group: Group, mode: str, options: Options) -> Table:
    """Strong scaling: the batch of all GPUs together is fixed."""
    columns: list[Column] = [
        ("seconds", "Time (s)", _time("whole", "strong")),
        ("speedup", "Speedup", _speedup("whole", "strong")),
        ("training_speedup", "Speedup without waiting for data", _speedup("training", "strong")),
    ]
    return grid(data, group, mode, "strong", "Strong scaling", columns, options, notes=[RATIO])


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
        _shown("Epoch without data I/O (s)", "training"),
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
    cells = _cells(group, mode, "weak", [1])
    return Table(title, frame, shown, _notes(frame, (), options, cells), source(data, trials_of(cells)))


def _rungs(group: Group, mode: str) -> list[int]:
    """All batches that one GPU was given, also the skipped ones."""
    return sorted({k.batch for k in group.cells if k.mode == mode and k.gpus == 1}) or list(SHEET_BATCHES)


MEANS = ("copy_seconds", "data_seconds", "iterations", "step_p50_seconds", "step_p95_seconds", "device_p50_seconds")


def _detail(cell: Cell) -> dict[str, float]:
    names = (*MEANS, "peak_memory_bytes", "clock_sm_mhz", "launch_seconds")
    return {n: float(cell.rows[n].mean()) if n in cell.rows and cell.measured else math.nan for n in names}


def communication_table(data: Data, group: Group, mode: str, options: Options) -> Table:
    """Communication of every multi-GPU set-up: by subtraction, and beside it what the profiler saw, kind by kind.

    Without the profiler the latter is left out.
    """
    records = []
    several = [g for g in group.gpu_counts(mode, "weak") if g > 1]
    for gpus in several:
        for batch in group.batches(mode, "weak"):
            found, cell = split(group, mode, gpus, batch, options.confidence), group.cell(mode, "weak", gpus, batch)
            records.append(
                {"setup": f"{gpus}-GPU", "gpus": gpus, "batch": batch} | _communication(group, found, cell, options)
            )
    frame = pd.DataFrame(records)
    shown = (
        text_column("GPUs", "setup"),
        number_column("Batch per GPU", "batch", ",.0f"),
        _shown("By subtraction (s)", "communication"),
        *(_shown(f"{heading} (s)", f"profiled_{name}") for name, heading in PROFILED.items() if group.profiled),
    )
    notes = [
        "The profiler's figures are of a few further iterations, scaled to an epoch, which can come to more than the "
        "epoch that was timed; they count kernels and copies, not the "
        "host's time between them. Moments in which two kinds run at once count once in the sum. In DDP a collective "
        "counts from when its last rank has come to it; how long the others had waited in it is the last column, which "
        "is the ranks' unequal pace and no cost of the links. By subtraction such waiting is communication, but that "
        "of the timed epochs, whose ranks the profiler does not hold up."
    ]
    how = "by subtraction and by the profiler" if group.profiled else "by subtraction"
    title = f"Communication {how} ({MODES[mode]}; {group.label})"
    cells = _cells(group, mode, "weak", several)
    origin = source(data, trials_of(cells))
    told = _notes(frame, notes if group.profiled else (), options, cells)
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


def _communication(group: Group, found: Split, cell: Cell, options: Options) -> dict[str, Any]:
    both = _with_one(group, cell.key.mode, cell.key.gpus, cell.key.batch)
    doubt = _marks(NEGATIVE if found.doubt else "", *both)
    record = estimate_columns("communication", found.communication) | {"communication_mark": found.mark or doubt}
    mark = why_not(group, cell)  # what the profiler saw needs no 1-GPU run beside it
    for name in PROFILED:
        estimate = NOTHING if mark else known_mean(cell.profiled, f"profiled_{name}_seconds", options.confidence)
        known = _marks("", cell) if math.isfinite(estimate.value) else ""
        record |= estimate_columns(f"profiled_{name}", estimate) | {f"profiled_{name}_mark": mark or known}
    return record


def ceiling_table(data: Data, group: Group, options: Options) -> Table:
    """Every multi-GPU set-up's traffic, ring and naive root, and their shares of what the links were measured to do."""
    records = []
    for mode in MODES:
        for gpus in [g for g in group.gpu_counts(mode, "weak") if g > 1 and group.has(mode, "weak")]:
            for batch in group.batches(mode, "weak"):
                found = bandwidth(group, mode, gpus, batch, options.confidence)
                mark = found.mark or _marks("", *_with_one(group, mode, gpus, batch))
                records.append(_traffic(mode, gpus, batch, found, mark))
    frame = pd.DataFrame(records)
    shown = (
        text_column("Mode", "mode"),
        number_column("GPUs", "gpus"),
        number_column("Batch per GPU", "batch", ",.0f"),
        _shown("Ring (GB/s)", "ring"),
        _shown("Naive root (GB/s)", "root"),
        number_column("All-reduce ceiling (GB/s)", "all_reduce", ",.1f", 1 / GIGA),
        number_column("Copy ceiling (GB/s)", "copy", ",.1f", 1 / GIGA),
        number_column("Ring / all-reduce ceiling (%)", "ring_share", ".1f", 100),
        number_column("Root, each way / copy ceiling (%)", "root_share", ".1f", 100),
    )
    title = f"Traffic against what the links can do ({group.label})"
    cells = [c for m in MODES for c in _cells(group, m, "weak", [g for g in group.gpu_counts(m, "weak") if g > 1])]
    return Table(title, frame, shown, _notes(frame, (), options, cells), source(data, trials_of(cells)))


def _traffic(mode: str, gpus: int, batch: int, found: Bandwidth, mark: str) -> dict[str, Any]:
    record: dict[str, Any] = {"mode": MODES[mode], "gpus": gpus, "batch": batch}
    for name in ("ring", "root"):
        record |= estimate_columns(name, getattr(found, name).scaled(1 / GIGA)) | {f"{name}_mark": mark}
    record |= {"all_reduce": found.all_reduce, "copy": found.copy}
    return record | {"ring_share": found.share("ring"), "root_share": found.share("root")}
