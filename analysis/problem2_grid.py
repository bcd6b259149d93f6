"""What problem 2's tables share: the sheet's layout, what stands in a cell, its marks, and the notes under a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.arms import UNTIMED, UNTIMED_NOTE
from analysis.load import Data
from analysis.options import Options
from analysis.problem2_setups import LEAST_ITERATIONS, Cell, Group, trials_of
from analysis.provenance import source
from analysis.stats import Estimate
from analysis.table import Shown, Table, estimate_columns, estimate_of, estimate_text, text_column
from analysis.words import listing

Entry = tuple[Estimate, str]
"""What stands in a cell: a number, or where it is not known, why; a mark may stand beside a number too."""
MODES = {"dataparallel": "DataParallel", "ddp": "DistributedDataParallel"}
FEW, NEGATIVE, LOST = "§", "‡", "†"
CUT = "The interval of a time is cut at zero."
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
        what = f"Batch {batch:,} per GPU" if scaling == "weak" else f"Batch {batch:,} in all"
        keys = ["", *(f"{name}_{batch}" for name, _, _ in columns)]
        shown += [
            entry_column(f"{what}: {heading}", key, beside)
            for (_, heading, _), beside, key in zip(columns, keys, keys[1:], strict=False)
        ]
    for gpus in group.gpu_counts(mode, scaling):
        if gpus >= least_gpus:
            record: dict[str, Any] = {"setup": f"{gpus}-GPU", "gpus": gpus}
            for batch in batches:
                for name, _, entry in columns:
                    estimate, mark = entry(group, mode, gpus, batch, options)
                    record |= estimate_columns(f"{name}_{batch}", estimate) | {f"{name}_{batch}_mark": mark}
            records.append(record)
    frame, cells = pd.DataFrame(records), cells_of(group, mode, scaling, [r["gpus"] for r in records])
    return Table(
        title=f"{title} ({MODES[mode]}; {group.label})",
        frame=frame,
        columns=tuple(shown),
        notes=notes_of(frame, notes, options, cells),
        source=source(data, trials_of(cells)),
        side_by_side=SIDE_BY_SIDE // len(columns) * len(columns),
    )


def entry_column(heading: str, name: str, beside: str = "") -> Shown:
    """A column of entries, which stand in the frame as `estimate_columns` and `NAME_mark`.

    Why there is no number is not said again where the column of the entry `beside` has said it.
    """
    return Shown(heading, lambda row: "–" if beside and _same_reason(row, name, beside) else entry_text(row, name))


def _same_reason(row: Mapping[str, Any], *names: str) -> bool:
    reasons = {row[f"{name}_mark"] for name in names}
    return len(reasons) == 1 and not any(math.isfinite(row[name]) for name in names)


def entry_text(row: Mapping[str, Any], name: str) -> str:
    """The number with its interval and mark, or the reason for its absence."""
    estimate, mark = estimate_of(row, name), str(row[f"{name}_mark"])
    if not math.isfinite(estimate.value):
        return mark or "–"
    digits = max(0, 3 - math.ceil(math.log10(abs(estimate.value)))) if estimate.value else 3
    return " ".join(filter(None, [estimate_text(estimate, f",.{min(digits, 4)}f"), mark]))


def cells_of(group: Group, mode: str, scaling: str, gpu_counts: Sequence[int]) -> list[Cell]:
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


def notes_of(frame: pd.DataFrame, more: Sequence[str], options: Options, cells: Sequence[Cell]) -> tuple[str, ...]:
    """What stands under a table: what its numbers are, `more`, what its marks mean, and whose seeds are missing."""
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
        notes.append(f"{LOST} Only of the seeds that fit, or derived from such a time. " + "; ".join(each) + ".")
    if any(m.startswith("OOM") for m in marks) or any("OOM" in c.lost for c in cells):
        notes.append("OOM: out of a GPU's memory; the peak is the most that torch had allocated there.")
    if any(m.endswith(UNTIMED) for m in marks):
        notes.append(UNTIMED_NOTE)
    return tuple(notes)


def marked(mark: str, lost: bool) -> str:
    """A number's mark, and beside it that some of the seeds behind it are missing."""
    return " ".join(filter(None, [mark, LOST if lost else ""]))
