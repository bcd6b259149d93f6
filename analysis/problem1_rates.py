"""Where problem 1's default learning rates come from: a grid judged on held-out training images.

The rule stands before the grid is run: of the rates that both arms (L2, L2 + dropout) completed in all their trials,
the one with the lowest validation error in the last epoch, in the mean over both arms and seeds; of equals the lower.
One rate a method, so that dropout is all that differs between a method's arms.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis import stats
from analysis.arms import arms, varying
from analysis.load import Data
from analysis.options import Options
from analysis.outcomes import fate
from analysis.problem1_answers import KINDS
from analysis.stats import Estimate
from trials.methods import METHODS

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
