"""Any study without a module of its own: its main measure against epoch, and where each arm ended.

The measure and its direction come from the ledger's schema, where the trial module's own columns stand too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis import curves, stats, style, words
from analysis.arms import Arm, arms
from analysis.load import Data
from analysis.options import Options
from analysis.outcomes import fate, remark
from analysis.provenance import source
from analysis.section import Section
from analysis.style import Figure
from analysis.table import Table, estimate_column, estimate_columns, plain_table, text_column
from farm.ledger import schema
from trials.spec import Column

TITLE = ""
PREFERRED = ("validation_error", "test_error", "validation_loss", "test_loss", "train_eval_loss", "train_loss")


def measure(data: Data) -> Column | None:
    """The column that the study is about: the first of the module's own with a direction, else the first of PREFERRED.

    A module's own clocks come last; the farm's clocks and bytes are none: they say what a result cost. None where no
    other column with numbers says which direction is better.
    """
    columns = _columns(data.module) if data.module else schema.ROWS
    told = [c for c in columns if c.better and not (c.measured and c in schema.ROWS)]
    usable = [c for c in told if c.name in data.rows and data.rows[c.name].notna().any()]
    return min(usable, key=_rank, default=None)


def _rank(column: Column) -> tuple[bool, bool, int]:
    """Less for the column that is rather the measure; equal for the module's own, between which its order decides."""
    standard = column in schema.ROWS
    place = PREFERRED.index(column.name) if standard and column.name in PREFERRED else len(PREFERRED)
    return column.measured, standard, place if standard else 0


def _columns(module: str) -> Sequence[Column]:
    """Of the module's rows; the standard ones where the module is not at hand (results can be read anywhere)."""
    try:
        return schema.row_columns(module)
    except ModuleNotFoundError:
        return schema.ROWS


def main(data: Data, options: Options | None = None) -> tuple[Mapping[str, Figure], Mapping[str, Table]]:
    """One figure where rows have epochs, and the table of where each arm ended; of trials, where nothing compares."""
    options = options or Options()
    if (column := measure(data)) is None:
        return {}, {"trials": trials_table(data, None)}
    found = arms(data.plan)
    figure = curve_figure(data, found, column, options) if "epoch" in data.rows else None
    return {column.name: figure} if figure else {}, {"arms": arms_table(data, found, column, options)}


def sections(data: Data, options: Options | None = None) -> list[Section]:
    """The whole report: one section, and what became of every trial."""
    figures, tables = main(data, options)
    column = measure(data)
    text = {"column": column, "rows": len(data.rows)}
    results, trials = ({n: t for n, t in tables.items() if n != "trials"}, {"trials": trials_table(data, column)})
    return [
        Section("Results", "generic.md", (), text, figures, results),
        Section("Trials", "empty.md", (), {}, {}, trials),
    ]


def curve_figure(data: Data, found: list[Arm], column: Column, options: Options) -> Figure | None:
    """The measure against epoch, one line an arm, on a logarithmic axis where less is better; None without any."""
    palette = style.colours(a.label for a in found)
    dashes = style.dashes(palette)
    completed = {a.label: _completed(data, a) for a in found}
    every = [
        curves.curve(data.rows_of(ids), column.name, label, palette[label], dashes[label], options.confidence)
        for label, ids in completed.items()
    ]
    lines = [c for c in every if len(c.x)]
    if not lines:
        return None
    name, percent = column.name.replace("_", " "), column.unit == "fraction"
    drawing, (axes,) = style.new_drawing()
    with style.styled():
        curves.draw(axes, lines, log=column.better == "lower", percent=percent)
        curves.limit(axes, lines)
        style.epoch_axis(axes, max(float(c.x[-1]) for c in lines))
        axes.set_ylabel(name + (f" ({column.unit})" if column.unit and not percent else ""), parse_math=False)
        curves.name_lines(axes, lines)
    ends = " ".join(_end(c, data.rows_of(completed[c.label])["epoch"].max()) for c in lines)
    absent = [c.label for c in every if not len(c.x)]
    left_out = f" Not drawn, no completed trial with a finite value: {', '.join(absent)}." if absent else ""
    return Figure(
        title=f"{name[:1].upper()}{name[1:]} against epoch",
        alt=f"Line chart, one line an arm, {column.better} is better. {ends}",
        caption=f"{words.sentence(column.help)} {curves.how_drawn(lines, options.confidence)}{left_out}".strip(),
        drawing=drawing,
        source=source(data, [i for ids in completed.values() for i in ids]),
        data=curves.frame(lines, column.name),
    )


def _end(c: curves.Curve, last: float) -> str:
    """ "cutout: 0.05 at epoch 30.", and whether that is not the end."""
    value, later = words.written(c.value[-1], ".4g"), ", not finite after it" if c.x[-1] < last else ""
    return f"{c.label}: {value} at epoch {c.x[-1]:.0f}{later}."


def arms_table(data: Data, found: list[Arm], column: Column, options: Options) -> Table:
    """Where each arm ended: n, the measure in its last row with an interval, and what is missing."""
    factor, unit = (100.0, "%") if column.unit == "fraction" else (1.0, column.unit)
    heading = f"Final {column.name.replace('_', ' ')}" + (f" ({unit})" if unit else "")
    ids = [i for a in found for i in _completed(data, a)]
    return Table(
        title=f"{heading}, {column.better} is better",
        frame=pd.DataFrame([_record(data, a, column, options) for a in found]),
        columns=(
            text_column("Arm", "arm"),
            text_column("n", "n"),
            estimate_column(heading, column.name, ".2f" if factor == 100 else ",.4g", factor),
            text_column("Remarks", "remark"),
        ),
        notes=(f"Mean over n seeds, in brackets its {100 * options.confidence:g} % t interval (none for n = 1).",),
        source=source(data, ids),
    )


def trials_table(data: Data, column: Column | None) -> Table:
    """What became of every trial of the plan; what has no finite measure in its last row may have diverged unseen."""
    ids = [str(i) for i in data.plan["trial_id"]]
    frame = pd.DataFrame({"trial": data.plan["name"], "id": ids, "end": [_end_of(data, i, column) for i in ids]})
    shown = plain_table("What became of every trial", frame, {"trial": "Trial", "id": "Id", "end": "End"})
    return Table(shown.title, shown.frame, shown.columns, source=source(data, ids))


def _end_of(data: Data, trial_id: str, column: Column | None) -> str:
    end, rows = fate(data, trial_id), data.rows_of([trial_id])
    if end != "completed" or column is None or rows.empty or np.isfinite(float(rows[column.name].iloc[-1])):
        return end
    return f"{end}, last {column.name} not finite"


def _record(data: Data, arm: Arm, column: Column, options: Options) -> dict[str, Any]:
    ids = _completed(data, arm)
    last = {i: float(data.rows_of([i])[column.name].iloc[-1]) for i in ids}
    finite = [v for v in last.values() if np.isfinite(v)]
    estimate, planned = stats.mean(finite, options.confidence), len(arm.trials)
    parts = [remark(data, arm, ids, set())]
    if lost := len(last) - len(finite):
        parts.append("last value not finite" if planned == 1 else f"{lost} of {planned} seeds last value not finite")
    counted = f"{len(finite)}\N{NO-BREAK SPACE}of\N{NO-BREAK SPACE}{planned}"
    return {
        "arm": arm.label,
        "n": counted,
        **estimate_columns(column.name, estimate),
        "remark": "; ".join(filter(None, parts)) or "–",
    }


def _completed(data: Data, arm: Arm) -> list[str]:
    completed = set(data.ended("completed")) & set(data.rows["trial_id"])
    return [i for i in arm.trials if i in completed]
