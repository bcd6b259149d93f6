"""Where problem 1's default learning rates come from: a grid judged on held-out training images.

The rule stands before the grid is run: of the rates that both arms (L2, L2 + dropout) completed in all their trials,
the one with the lowest validation error in the last epoch, in the mean over both arms and seeds; of equals the lower.
One rate a method, so that dropout is all that differs between a method's arms.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis import curves, stats, style
from analysis.arms import arms, varying
from analysis.load import Data
from analysis.options import Options
from analysis.outcomes import fate
from analysis.problem1_answers import KINDS
from analysis.provenance import distinct, source
from analysis.section import Section
from analysis.stats import Estimate
from analysis.style import Figure
from analysis.table import Table, estimate_column, estimate_columns, number_column, text_column
from analysis.words import counted
from trials.methods import METHODS

TITLE = "Problem 1: learning rates"
ERROR = "validation_error"
NO_TRIAL = "no trial"
"""What an arm lacks at a rate that it was not given."""


@dataclass(frozen=True)
class Point:
    """One method at one rate: the validation error (fraction) of each arm, and what each arm lacks ("": nothing).

    `ended` says whether each of its trials has an end that stays: completed, diverged or out of memory.
    """

    method: str
    rate: float
    errors: dict[bool, Estimate]
    missing: dict[bool, str]
    ended: bool

    @property
    def mean(self) -> float:
        """The mean over both arms; NaN where one of them has no completed trial."""
        return float(np.mean([e.value for e in self.errors.values()]))

    @property
    def whole(self) -> bool:
        """Whether there are both arms and each of their trials has completed, so that the point can be chosen."""
        return not any(self.missing.values())

    @property
    def remark(self) -> str:
        """What is missing, in words."""
        return "; ".join(f"{KINDS[kind]}: {text}" for kind, text in self.missing.items() if text)


@dataclass(frozen=True)
class Choice:
    """The rate chosen for a method, and the best of each arm by itself. `edges` names those at an end of the ladder.

    Of the method's `rates`, `ended` are those that no trial can change any more.
    """

    title: str
    chosen: Point
    best: dict[bool, float]
    default: float
    edges: tuple[str, ...]
    ended: int
    rates: int

    @property
    def settled(self) -> bool:
        """Whether the whole ladder has ended; before that the rate is only ahead of the others."""
        return self.ended == self.rates

    @property
    def so_far(self) -> str:
        """How much of the ladder the rate is ahead of; empty where the choice is settled."""
        counted = f"of {self.rates} rates {self.ended} ended, the rest not yet run or failed"
        return "" if self.settled else counted

    @property
    def remark(self) -> str:
        """What to know before the rate is trusted, or "–"."""
        ahead = f"ahead so far: {self.so_far}" if self.so_far else ""
        edges = f"at an end of the ladder: {', '.join(self.edges)}; a better one may lie beyond" if self.edges else ""
        return "; ".join(filter(None, [ahead, edges])) or "–"


def is_grid(data: Data) -> bool:
    """Whether a study of problem 1 has held-out training images, and so judges learning rates."""
    return "config_holdout" in data.plan and bool((data.plan["config_holdout"] > 0).any())


def is_plain(data: Data) -> bool:
    """Whether method, learning rate and dropout alone vary, so that points can be compared."""
    return set(varying(data.plan)) <= {"method", "learning_rate", "dropout", "seed", "fingerprint"}


def points(data: Data, options: Options) -> list[Point]:
    """All points of the grid, by method and rate."""
    groups: dict[tuple[str, float], dict[bool, tuple[str, ...]]] = {}
    for arm in arms(data.plan):
        key = str(arm.values["method"]), float(arm.values["learning_rate"])
        held = groups.setdefault(key, {})
        kind = bool(arm.values["dropout"])
        held[kind] = held.get(kind, ()) + arm.trials
    order = sorted(groups, key=lambda k: (list(METHODS).index(k[0]), k[1]))
    return [_point(data, *key, groups[key], options) for key in order]


def _point(data: Data, method: str, rate: float, trials: dict[bool, tuple[str, ...]], options: Options) -> Point:
    completed = set(data.ended("completed")) & set(data.rows["trial_id"])
    planned = {kind: trials.get(kind, ()) for kind in KINDS}
    errors = {
        kind: stats.mean([_last_error(data, i) for i in ids if i in completed], options.confidence)
        for kind, ids in planned.items()
    }
    missing = {kind: _missing(data, ids, completed) for kind, ids in planned.items()}
    ended = set(data.missing["trial_id"]).isdisjoint(i for ids in planned.values() for i in ids)
    return Point(method, rate, errors, missing, ended)


def _missing(data: Data, trials: Sequence[str], completed: set[str]) -> str:
    lacking = Counter(fate(data, i) for i in trials if i not in completed)
    return "; ".join(f"{n} {text}" for text, n in lacking.items()) if trials else NO_TRIAL


def _last_error(data: Data, trial_id: str) -> float:
    return float(data.rows_of([trial_id]).sort_values("epoch")[ERROR].iloc[-1])


def choices(found: Sequence[Point]) -> list[Choice]:
    """The chosen rate of each method that has a whole point."""
    made = []
    for method in METHODS:
        ladder = [p for p in found if p.method == method]
        whole = [p for p in ladder if p.whole]
        if not whole:
            continue
        chosen = min(whole, key=lambda p: (p.mean, p.rate))
        best = {kind: _best_of_arm(ladder, kind) for kind in KINDS}
        edges = [f"the best for {KINDS[kind]}" for kind in KINDS if _at_an_end(best[kind], ladder, [kind])]
        if _at_an_end(chosen.rate, ladder, list(KINDS)):
            edges.insert(0, "the chosen rate")
        title, default, ended = METHODS[method].title, METHODS[method].learning_rate, sum(p.ended for p in ladder)
        made.append(Choice(title, chosen, best, default, tuple(edges), ended, len(ladder)))
    return made


def undecided(found: Sequence[Point]) -> list[str]:
    """Titles of the grid's methods without a whole point."""
    tried, decided = {p.method for p in found}, {p.method for p in found if p.whole}
    return [method.title for name, method in METHODS.items() if name in tried - decided]


def _best_of_arm(ladder: Sequence[Point], kind: bool) -> float:
    return min((p for p in ladder if not p.missing[kind]), key=lambda p: (p.errors[kind].value, p.rate)).rate


def _at_an_end(rate: float, ladder: Sequence[Point], kinds: Sequence[bool]) -> bool:
    """Whether no lower rate, or no higher one, was given to all of these arms. Of a single rate that says nothing."""
    rates = [p.rate for p in ladder if all(p.missing[kind] != NO_TRIAL for kind in kinds)]
    return len(rates) > 1 and rate in (rates[0], rates[-1])


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
