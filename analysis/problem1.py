"""Problem 1: five adaptive learning-rate methods, with L2 and with L2 + dropout.

`sections` puts figures and tables between the written answers; `main` is what a run ends with. A study with a
validation split (`problem1-learning-rates`) is analysed by `analysis.problem1_learning_rates`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis import curves, generic, problem1_learning_rates, problem1_methods, problem1_rates, style
from analysis.load import Data
from analysis.options import Options
from analysis.problem1_answers import KINDS, Result, answers, results
from analysis.problem1_tables import accuracy_table, loss_table, scaling_table, time_table
from analysis.provenance import source
from analysis.section import Problem, Section
from analysis.style import Figure
from analysis.table import Table
from analysis.words import counted

TITLE = "Problem 1: adaptive learning-rate methods"
MAIN_FIGURE = "training-loss"


def main(data: Data, options: Options | None = None) -> tuple[Mapping[str, Figure], Mapping[str, Table]]:
    """The figure of the training loss and the tables, for the end of a run."""
    options = options or Options()
    if grid := _grid_analysis(data):
        return grid.main(data, options)
    figure = loss_figure(data, results(data, options), options)
    return ({MAIN_FIGURE: figure} if figure else {}), tables(data, options)


def _grid_analysis(data: Data) -> Problem | None:
    """What analyses a study with held-out images: the choice of rates, or where more than that varies the general
    one. None for a study without them."""
    if not problem1_rates.is_grid(data):
        return None
    return problem1_learning_rates if problem1_rates.is_plain(data) else generic


def tables(data: Data, options: Options | None = None) -> dict[str, Table]:
    """Training loss, training time (one table for each device) and test accuracy."""
    options = options or Options()
    found = results(data, options)
    made = {"training-loss": loss_table(data, found, options)}
    devices = list(dict.fromkeys(r.device for r in found if r.device)) or [""]
    for device in devices:
        name = "training-time" if len(devices) == 1 else f"training-time-{'-'.join(device.lower().split())}"
        made[name] = time_table(data, [r for r in found if r.device in (device, "")], options, device)
    return made | {"test-accuracy": accuracy_table(data, found, options)}


def figures(data: Data, options: Options | None = None) -> dict[str, Figure]:
    """All figures of the problem by name. Those that have no rows to show are left out."""
    options = options or Options()
    found = results(data, options)
    made = {
        MAIN_FIGURE: loss_figure(data, found, options),
        "training-loss-eval": panels(
            data, found, options, "train_eval_loss", "training loss in eval mode", "Training loss in eval mode"
        ),
        "test-error": panels(data, found, options, "test_error", "test error", "Test error"),
    }
    return {name: figure for name, figure in made.items() if figure is not None}


def sections(data: Data, options: Options | None = None) -> Sequence[Section]:
    """The report: the sheet's four questions, and the protocol that their numbers rest on."""
    options = options or Options()
    if grid := _grid_analysis(data):
        return grid.sections(data, options)
    found = results(data, options)
    made, listed = figures(data, options), tables(data, options)
    numbers = answers(data, found, options)
    context: dict[str, Any] = {
        "a": numbers,
        "methods": problem1_methods.written(data),
        "symbols": problem1_methods.explanations(),
    }
    times = {name: t for name, t in listed.items() if name.startswith("training-time")}
    context["time_tables"] = list(times)
    accuracy = {"test-accuracy": listed["test-accuracy"]}
    if numbers.scaling:
        accuracy["weight-scaling"] = scaling_table(data, found, numbers.scaling)
    hyperparameters = {"hyperparameters": problem1_methods.hyperparameters_table(data)}
    return [
        Section("The update equations", "problem1-methods.md", ("1.1",), context, {}, hyperparameters),
        Section("How it was measured", "problem1-protocol.md", (), context),
        Section("Training with L2", "problem1-l2.md", ("1.2",), context, _only(made, MAIN_FIGURE)),
        Section(
            "Training with L2 and dropout",
            "problem1-dropout.md",
            ("1.3",),
            context,
            _only(made, "training-loss-eval"),
            {"training-loss": listed["training-loss"], **times},
        ),
        Section("Test accuracy", "problem1-accuracy.md", ("1.4",), context, _only(made, "test-error"), accuracy),
    ]


def _only(made: Mapping[str, Figure], name: str) -> dict[str, Figure]:
    return {name: made[name]} if name in made else {}


def loss_figure(data: Data, found: Sequence[Result], options: Options) -> Figure | None:
    """Training loss, the running mean of each epoch, against epochs."""
    return panels(data, found, options, "train_loss", "training loss", "Training loss against epoch")


def panels(data: Data, found: Sequence[Result], options: Options, column: str, words: str, title: str) -> Figure | None:
    """A column against epochs: one panel with L2 and one with dropout, same axes, one line a method."""
    shown = [r for r in found if r.n]
    if not shown:
        return None
    percent = column.endswith("_error")
    lines = {kind: _lines(data, [r for r in shown if r.dropout == kind], column, options) for kind in KINDS}
    kinds = [kind for kind in KINDS if lines[kind]]
    every = [c for kind in kinds for c in lines[kind]]
    height = 0.6 + 2.8 * len(kinds)
    drawing, axes = style.new_drawing(1, len(kinds), height=height, sharex=True, sharey=True)
    right = 1 - 0.018 * max(len(c.label) for c in every)  # room for the labels at the lines' ends
    drawing.subplots_adjust(left=0.15, right=min(right, 0.75), bottom=0.55 / height, top=1 - 0.3 / height, hspace=0.16)
    with style.styled():
        for panel, kind in zip(axes, kinds, strict=True):
            curves.draw(panel, lines[kind], log=True, percent=percent)
            curves.limit(panel, every)
            panel.set_title(KINDS[kind], loc="left")
            panel.set_ylabel(words if percent else f"{words} (nats)")
            style.epoch_axis(panel, max(float(c.x[-1]) for c in every), name=panel is axes[-1])
        for panel, kind in zip(axes, kinds, strict=True):  # when both panels have their scale
            curves.label(panel, lines[kind])
    summary = " ".join(f"{KINDS[kind]}: {_ends(lines[kind], percent)}." for kind in kinds)
    return Figure(
        title=title,
        alt=f"{counted(len(kinds), 'line chart')} with the same axes, one line a method. {summary}",
        caption=f"{_what(column, kinds)} {curves.how_drawn(every, options.confidence)}{_absent(found)}",
        drawing=drawing,
        source=source(data, [i for r in shown for i in r.completed]),
        data=pd.concat([curves.frame(lines[kind], column).assign(regularization=KINDS[kind]) for kind in kinds]),
    )


def _lines(data: Data, shown: Sequence[Result], column: str, options: Options) -> list[curves.Curve]:
    """One line a result, in the method's colour; variations of a method differ in dashes."""
    made: list[curves.Curve] = []
    for r in shown:
        earlier = sum(other.method == r.method for other in shown[: shown.index(r)])
        dashes, colour = style.DASHES[earlier % len(style.DASHES)], style.ARM_COLOURS[r.method]
        made.append(
            curves.curve(data.rows_of(r.completed), column, r.title, colour, dashes, options.confidence, at_zero=True)
        )
    return made


def _ends(lines: Sequence[curves.Curve], percent: bool) -> str:
    def form(value: float) -> str:
        return f"{100 * value:.1f} %" if percent else f"{value:.3g}"

    return "; ".join(
        f"{c.label} {form(c.value[0])} at epoch {c.x[0]:.0f}, {form(c.value[-1])} at {c.x[-1]:.0f}" for c in lines
    )


def _what(column: str, kinds: Sequence[bool]) -> str:
    both = len(kinds) == len(KINDS)
    active = "" if True not in kinds else "dropout active in the lower panel, " if both else "dropout active, "
    return {
        "train_loss": f"Mean cross-entropy of each epoch's batches while training, {active}without the L2 term.",
        "train_eval_loss": "Cross-entropy of the training set after each epoch, in eval mode: no dropout"
        f"{', so the panels compare' if both else ''}.",
        "test_error": "Share of test images classified wrongly after each epoch.",
    }[column]


def _absent(found: Sequence[Result]) -> str:
    absent = [f"{r.title} ({KINDS[r.dropout]})" for r in found if not r.n]
    return f" Not in the figure, no completed trial: {', '.join(absent)}." if absent else ""
