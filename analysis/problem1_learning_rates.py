"""The report of problem 1's grid of learning rates: chosen rates, the whole grid, the figure.

The rule that chooses is analysis/problem1_rates.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis import curves, style
from analysis.load import Data
from analysis.options import Options
from analysis.problem1_answers import KINDS
from analysis.problem1_rates import ERROR, Choice, Point, choices, points, undecided
from analysis.provenance import distinct, source
from analysis.section import Section
from analysis.style import Figure
from analysis.table import Table, estimate_column, estimate_columns, number_column, text_column
from analysis.words import counted
from trials.methods import METHODS

TITLE = "Problem 1: learning rates"


def main(data: Data, options: Options | None = None) -> tuple[dict[str, Figure], dict[str, Table]]:
    """The figure, the chosen rates, and the whole grid."""
    options = options or Options()
    found = points(data, options)
    figure = error_figure(data, found)
    tables = {"chosen-rates": choice_table(data, choices(found)), "learning-rates": grid_table(data, found, options)}
    return ({"learning-rates": figure} if figure else {}), tables


def sections(data: Data, options: Options | None = None) -> list[Section]:
    """The report: one section."""
    figures, tables = main(data, options)
    names = ("dataset", "epochs", "holdout", "train_examples", "batch_size", "weight_decay")
    setup = {name: distinct(data.plan, f"config_{name}") for name in names}
    found = points(data, options or Options())
    context = {
        "setup": setup | {"samples": distinct(data.rows, "samples")},
        "choices": choices(found),
        "undecided": undecided(found),
    }
    return [Section("Learning rates", "problem1-learning-rates.md", (), context, figures, tables)]


def choice_table(data: Data, made: Sequence[Choice]) -> Table:
    """Each method's chosen rate beside the default that stands in the code."""
    records: list[dict[str, Any]] = [
        {
            "method": c.title,
            "chosen": f"{c.chosen.rate:g}",
            "error": c.chosen.mean,
            "best_plain": f"{c.best[False]:g}",
            "best_dropout": f"{c.best[True]:g}",
            "default": f"{c.default:g}",
            "remark": c.remark,
        }
        for c in made
    ]
    columns = ["method", "chosen", "error", "best_plain", "best_dropout", "default", "remark"]
    return Table(
        title="Chosen learning rate of each method",
        frame=pd.DataFrame(records, columns=columns),
        columns=(
            text_column("Method", "method"),
            text_column("Chosen here", "chosen"),
            number_column("Validation error, mean of both arms (%)", "error", ".2f", 100),
            text_column("Best for L2", "best_plain"),
            text_column("Best for L2 + dropout", "best_dropout"),
            text_column("Default in trials/methods.py", "default"),
            text_column("Remarks", "remark"),
        ),
        notes=("Chosen: the lowest validation error of the last epoch, in the mean over both arms and seeds.",),
        source=source(data, data.ended("completed")),
    )


def grid_table(data: Data, found: Sequence[Point], options: Options) -> Table:
    """Validation error of every method, rate and arm."""
    chosen = {(c.chosen.method, c.chosen.rate): c.settled for c in choices(found)}
    words = {True: "chosen", False: "ahead so far", None: "–"}
    records = [
        {
            "method": METHODS[p.method].title,
            "rate": p.rate,
            "mean": p.mean,
            "chosen": chosen.get((p.method, p.rate), False),
        }
        | estimate_columns("plain", p.errors[False])
        | estimate_columns("dropout", p.errors[True])
        | {"remark": p.remark or words[chosen.get((p.method, p.rate))]}
        for p in found
    ]
    return Table(
        title="Validation error in the last epoch",
        frame=pd.DataFrame(records),
        columns=(
            text_column("Method", "method"),
            number_column("Learning rate", "rate", "g"),
            estimate_column("L2 (%)", "plain", ".2f", 100),
            estimate_column("L2 + dropout (%)", "dropout", ".2f", 100),
            number_column("Mean (%)", "mean", ".2f", 100),
            text_column("Remarks", "remark"),
        ),
        notes=(f"In brackets {100 * options.confidence:g} % t intervals over seeds (none for one seed).",),
        source=source(data, data.ended("completed")),
    )


def error_figure(data: Data, found: Sequence[Point]) -> Figure | None:
    """Validation error against learning rate, one line a method, one panel an arm."""
    kinds = [kind for kind in KINDS if any(p.errors[kind].n for p in found)]
    if not kinds:
        return None
    height = 0.6 + 2.8 * len(kinds)
    drawing, axes = style.new_drawing(1, len(kinds), height=height, sharex=True, sharey=True)
    drawing.subplots_adjust(left=0.15, right=0.67, bottom=0.55 / height, top=1 - 0.3 / height, hspace=0.16)
    lines = {kind: _lines(found, kind) for kind in kinds}
    every = [c for kind in kinds for c in lines[kind]]
    with style.styled():
        for panel, kind in zip(axes, kinds, strict=True):
            curves.draw(panel, lines[kind], percent=True)
            panel.set_xscale("log")
            curves.limit(panel, every)
            panel.set_title(KINDS[kind], loc="left")
            panel.set_ylabel("validation error")
        axes[-1].set_xlabel("learning rate")
        for panel, kind in zip(axes, kinds, strict=True):
            curves.label(panel, lines[kind])
    lowest = " ".join(f"{c.title}: {c.chosen.rate:g}{'' if c.settled else ' so far'}." for c in choices(found))
    drawn = [curves.frame(lines[k], ERROR).drop(columns="epoch").assign(
        learning_rate=np.concatenate([c.x for c in lines[k]]), regularization=KINDS[k]) for k in kinds]  # fmt: skip
    return Figure(
        title="Validation error against learning rate",
        alt=f"{counted(len(kinds), 'line chart')} with the same axes, one line a method, rates on a log scale. "
        f"Chosen: {lowest}",
        caption="Error on the held-out training images in the last epoch, mean over seeds.",
        drawing=drawing,
        source=source(data, data.ended("completed")),
        data=pd.concat(drawn),
    )


def _lines(found: Sequence[Point], kind: bool) -> list[curves.Curve]:
    made = []
    for method, held in METHODS.items():
        ladder = [p for p in found if p.method == method and p.errors[kind].n]
        if ladder:
            estimates = [p.errors[kind] for p in ladder]
            x, value = np.array([p.rate for p in ladder]), np.array([e.value for e in estimates])
            low, high = np.array([e.low for e in estimates]), np.array([e.high for e in estimates])
            n = min(e.n for e in estimates)
            made.append(curves.Curve(held.title, style.ARM_COLOURS[method], x, value, low, high, n))
    return made
