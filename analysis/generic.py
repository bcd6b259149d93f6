"""Any study without a module of its own: its main measure against epoch, and where each arm ended.

The measure and its direction come from the ledger's schema, where the trial module's own columns stand too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis import curves, stats, style
from analysis.arms import Arm, arms
from analysis.load import AnalysisError, Data
from analysis.options import Options
from analysis.outcomes import fate
from analysis.provenance import source
from analysis.section import Section
from analysis.style import Figure
from analysis.table import Table, estimate_column, estimate_columns, plain_table, text_column
from farm.ledger import schema
from trials.spec import Column

TITLE = "A study"
PREFERRED = ("validation_error", "test_error", "validation_loss", "test_loss", "train_eval_loss", "train_loss")


def measure(data: Data) -> Column:
    """The column that the study is about: the first known one of PREFERRED, else the first with a direction.

    Raises `AnalysisError` where no measured column of the rows says which direction is better.
    """
    module = str(data.plan["config_module"].iloc[0]) if "config_module" in data.plan and len(data.plan) else None
    columns = _columns(module) if module else schema.ROWS
    usable = [c for c in columns if c.better and c.name in data.rows and data.rows[c.name].notna().any()]
    ranked = sorted(usable, key=lambda c: (c.measured, PREFERRED.index(c.name) if c.name in PREFERRED else 99))
    if not ranked:
        raise AnalysisError(f"{data.directory}: no column of {data.table}.parquet has numbers and a better direction")
    return ranked[0]


def _columns(module: str) -> Sequence[Column]:
    """Of the module's rows; the standard ones where the module is not at hand (results can be read anywhere)."""
    try:
        return schema.row_columns(module)
    except ModuleNotFoundError:
        return schema.ROWS


def main(data: Data, options: Options | None = None) -> tuple[Mapping[str, Figure], Mapping[str, Table]]:
    """One figure where rows have epochs, and the table of where each arm ended."""
    options = options or Options()
    if data.rows.empty:
        return {}, {"trials": trials_table(data)}
    column, found = measure(data), arms(data.plan)
    figures = {column.name: curve_figure(data, found, column, options)} if "epoch" in data.rows else {}
    return figures, {"arms": arms_table(data, found, column, options)}


def sections(data: Data, options: Options | None = None) -> list[Section]:
    """The whole report: one section, and what became of every trial."""
    figures, tables = main(data, options)
    text = {"column": measure(data) if len(data.rows) else None}
    return [
        Section("Results", "generic.md", (), text, figures, tables),
        Section("Trials", "empty.md", (), {}, {}, {"trials": trials_table(data)}),
    ]


def curve_figure(data: Data, found: list[Arm], column: Column, options: Options) -> Figure:
    """The measure against epoch, one line an arm, on a logarithmic axis where less is better."""
    palette = style.colours(a.label for a in found)
    completed = {a.label: _completed(data, a) for a in found}
    lines = [
        curves.curve(data.rows_of(ids), column.name, label, palette[label], confidence=options.confidence)
        for label, ids in completed.items()
        if ids
    ]
    words, percent = column.name.replace("_", " "), column.unit == "fraction"
    drawing, (axes,) = style.new_drawing()
    drawing.subplots_adjust(left=0.16, right=0.66, bottom=0.14, top=0.97)
    with style.styled():
        curves.draw(axes, lines, log=column.better == "lower", percent=percent)
        if lines:
            curves.limit(axes, lines)
        style.epoch_axis(axes, max((float(c.x[-1]) for c in lines), default=1.0))
        axes.set_ylabel(words + (f" ({column.unit})" if column.unit and not percent else ""))
        curves.label(axes, lines)
    ends = " ".join(f"{c.label}: {c.value[-1]:.4g} at epoch {c.x[-1]:.0f}." for c in lines)
    return Figure(
        title=f"{words.capitalize()} against epoch",
        alt=f"Line chart, one line an arm, {column.better} is better. {ends}",
        caption=f"{column.help.capitalize()}. {curves.how_drawn(lines, options.confidence)}",
        drawing=drawing,
        source=source(data, [i for ids in completed.values() for i in ids]),
        data=curves.frame(lines, column.name),
    )


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


def trials_table(data: Data) -> Table:
    """What became of every trial of the plan."""
    ids = [str(i) for i in data.plan["trial_id"]]
    frame = pd.DataFrame({"trial": data.plan["name"], "id": ids, "end": [fate(data, i) for i in ids]})
    shown = plain_table("What became of every trial", frame, {"trial": "Trial", "id": "Id", "end": "End"})
    return Table(shown.title, shown.frame, shown.columns, source=source(data, ids))


def _record(data: Data, arm: Arm, column: Column, options: Options) -> dict[str, Any]:
    ids = _completed(data, arm)
    last = [float(data.rows_of([i])[column.name].iloc[-1]) for i in ids]
    estimate = stats.mean([v for v in last if np.isfinite(v)], options.confidence)
    rest = [f"{fate(data, i)}" for i in arm.trials if i not in ids]
    counted = f"{len(ids)}\N{NO-BREAK SPACE}of\N{NO-BREAK SPACE}{len(arm.trials)}"
    return {
        "arm": arm.label,
        "n": counted,
        **estimate_columns(column.name, estimate),
        "remark": "; ".join(dict.fromkeys(rest)) or "–",
    }


def _completed(data: Data, arm: Arm) -> list[str]:
    completed = set(data.ended("completed")) & set(data.rows["trial_id"])
    return [i for i in arm.trials if i in completed]
