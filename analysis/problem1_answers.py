"""What came of problem 1's ten arms: losses, accuracies, training times, and the comparisons made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis import stats
from analysis.arms import UNTIMED, Arm, arms
from analysis.load import Data
from analysis.options import Options
from analysis.outcomes import device_of, pieced_together, remark
from analysis.provenance import distinct, span
from analysis.stats import Estimate
from analysis.words import escape
from trials.methods import METHODS

KINDS = {False: "L2", True: "L2 + dropout"}
"""The two arms of each method, by the parameter dropout."""


@dataclass(frozen=True)
class Result:
    """One arm's numbers over its completed trials, all of the last epoch.

    `running_loss` is the mean while training (dropout active), `eval_loss` the training set's in eval mode
    afterwards, both in nats; `accuracy` is the test set's, a fraction. `epoch_seconds` are of training alone,
    without the first epoch of each attempt: one mean for each seed, or with one seed one value for each epoch;
    `seed_seconds` are always one mean for each seed. Times that were `pieced` together from several devices count only
    where there are no others, those of an arm that is not timed never. `lacking` says why seeds have not completed.
    """

    arm: Arm
    method: str
    dropout: bool
    completed: tuple[str, ...]
    running_loss: Estimate
    eval_loss: Estimate
    accuracy: Estimate
    eval_losses: tuple[float, ...]
    accuracies: tuple[float, ...]
    epoch_seconds: tuple[float, ...]
    seed_seconds: tuple[float, ...]
    seconds: Estimate
    total_seconds: Estimate
    epochs: int
    device: str
    pieced: bool
    remark: str
    lacking: str

    @property
    def title(self) -> str:
        """ "Adam", with what else varies in the study: "Adam, learning_rate=0.001"."""
        return ", ".join(part for part in (METHODS[self.method].title, self.arm.variation) if part)

    @property
    def n(self) -> int:
        """Completed trials (seeds)."""
        return len(self.completed)

    @property
    def whole(self) -> bool:
        """Whether all planned seeds have completed."""
        return self.n == len(self.arm.trials)

    @property
    def caveat(self) -> str:
        """What to say behind its numbers, in Markdown: " (1 of 3 seeds diverged at epoch 3)", "" for a whole arm."""
        return f" ({escape(self.lacking)})" if self.lacking else ""

    @property
    def time_remark(self) -> str:
        """What to say of its times."""
        return "; ".join(filter(None, [self.remark, UNTIMED if self.n and not self.arm.timed else ""]))


@dataclass(frozen=True)
class Pair:
    """One method (and variation) with L2 and with L2 + dropout, either of which may be missing.

    `time_ratio` is dropout's training time over L2's, `accuracy_gain` dropout's test accuracy less L2's and
    `loss_gain` L2's training loss in eval mode less dropout's; all NaN where they cannot be compared.
    """

    title: str
    plain: Result | None
    dropout: Result | None
    time_ratio: Estimate
    accuracy_gain: Estimate
    loss_gain: Estimate


@dataclass(frozen=True)
class Best:
    """The arm that stands first of several, and the runner-up, None where no other has completed a trial.

    `arms` have completed trials, of those `planned`.
    """

    first: Result
    second: Result | None
    excluded: bool
    """Whether chance is excluded: the interval of its lead over each of the others is known and above zero, and all of
    them have all their seeds, since those that diverged may have been the worst."""
    arms: int
    planned: int

    @property
    def among(self) -> str:
        """ " (of the 3 of 5 arms that have completed trials)"; empty where those are all of the plan's."""
        short = self.arms < self.planned
        return f" (of the {self.arms} of {self.planned} arms that have completed trials)" if short else ""


@dataclass(frozen=True)
class Answers:
    """Numbers for the written answers; None and empty where there are none. Keys are False (L2), True (dropout)."""

    setup: dict[str, str]
    pairs: list[Pair]
    best_running: dict[bool, Best | None]
    best_eval: dict[bool, Best | None]
    best_accuracy: Best | None
    scaling: list[dict[str, Any]]
    seeds: int
    epochs: int | None
    varied: bool
    confidence: float
    startup: tuple[float, float]
    """Least and most that building a timed trial's steps took, in seconds; NaN where not known."""


def study_arms(data: Data) -> list[Arm]:
    """The study's arms in the sheet's order of methods, L2 before dropout.

    The learning rate names an arm only where one method has several: else it belongs to the method.
    """
    rates = data.plan[["config_method", "config_learning_rate"]].drop_duplicates()
    several = bool(rates["config_method"].duplicated().any())
    named = ("method", "dropout") if several else ("method", "dropout", "learning_rate")
    found = arms(data.plan, lambda v: f"{METHODS[str(v['method'])].title}, {KINDS[bool(v['dropout'])]}", named)
    order = list(METHODS)
    return sorted(found, key=lambda a: (bool(a.values["dropout"]), order.index(str(a.values["method"]))))


def results(data: Data, options: Options) -> list[Result]:
    """One result an arm, in the arms' order."""
    return [_result(data, arm, options) for arm in study_arms(data)]


def _result(data: Data, arm: Arm, options: Options) -> Result:
    done = set(data.ended("completed")) & set(data.rows["trial_id"])
    completed = tuple(i for i in arm.trials if i in done)
    mixed = pieced_together(data, completed)
    timed = ([i for i in completed if i not in mixed] or list(completed)) if arm.timed else []
    last = [data.rows_of([i]).sort_values("epoch").iloc[-1] for i in completed]
    losses = {name: [float(r[name]) for r in last] for name in ("train_loss", "train_eval_loss")}
    accuracies = [1 - float(r["test_error"]) for r in last]
    seconds = epoch_seconds(data, timed)
    return Result(
        arm=arm,
        method=str(arm.values["method"]),
        dropout=bool(arm.values["dropout"]),
        completed=completed,
        running_loss=stats.mean(losses["train_loss"], options.confidence).within(0.0),
        eval_loss=stats.mean(losses["train_eval_loss"], options.confidence).within(0.0),
        accuracy=stats.mean(accuracies, options.confidence).within(0.0, 1.0),
        eval_losses=tuple(losses["train_eval_loss"]),
        accuracies=tuple(accuracies),
        epoch_seconds=tuple(seconds),
        seed_seconds=tuple(seed_seconds(data, timed)),
        seconds=stats.mean(seconds, options.confidence).within(0.0),
        total_seconds=stats.mean(
            [float(data.rows_of([i])["train_seconds"].sum()) for i in timed], options.confidence
        ).within(0.0),
        epochs=max((int(r["epoch"]) for r in last), default=0),
        device=device_of(data, arm),
        pieced=bool(mixed) and len(mixed) == len(completed),
        remark=remark(data, arm, completed, mixed),
        lacking=remark(data, arm, completed, set()),
    )


def epoch_seconds(data: Data, trial_ids: Sequence[str]) -> list[float]:
    """Training seconds of an epoch: a mean for each trial, or of a single trial each epoch's own."""
    if len(trial_ids) == 1:
        return [float(v) for v in _warm(data, trial_ids)["train_seconds"]]
    return seed_seconds(data, trial_ids)


def seed_seconds(data: Data, trial_ids: Sequence[str]) -> list[float]:
    """Mean training seconds of an epoch, of each trial."""
    return [float(v) for v in _warm(data, trial_ids).groupby("trial_id")["train_seconds"].mean()]


def _warm(data: Data, trial_ids: Sequence[str]) -> pd.DataFrame:
    """Rows without the first epoch of every attempt, which warms up caches and clocks."""
    rows = data.rows_of(list(trial_ids)).sort_values("epoch")
    return rows[rows.duplicated(["trial_id", "attempt"])]


def pairs(found: Sequence[Result], options: Options) -> list[Pair]:
    """Both arms of each method and variation, in order."""
    keys = list(dict.fromkeys((r.method, r.arm.variation) for r in found))
    order = sorted(keys, key=lambda k: list(METHODS).index(k[0]))
    by_kind = {(r.method, r.arm.variation, r.dropout): r for r in found}
    return [_pair(by_kind.get((*key, False)), by_kind.get((*key, True)), options) for key in order]


def _pair(plain: Result | None, dropout: Result | None, options: Options) -> Pair:
    one = plain or dropout
    assert one is not None
    time = accuracy = loss = stats.NOTHING
    if plain and dropout and plain.n and dropout.n:
        accuracy = stats.difference(dropout.accuracies, plain.accuracies, options.confidence)
        loss = stats.difference(plain.eval_losses, dropout.eval_losses, options.confidence)
        if plain.device and plain.device == dropout.device and not (plain.pieced or dropout.pieced):
            time = stats.ratio(dropout.seed_seconds, plain.seed_seconds, options.confidence)
    return Pair(one.title, plain, dropout, time, accuracy, loss)


def answers(data: Data, found: Sequence[Result], options: Options) -> Answers:
    """Gather the numbers. Only arms with completed trials give any."""
    shown = [r for r in found if r.n]
    of = {kind: [r for r in found if r.dropout == kind] for kind in KINDS}
    timed = data.trials["trial_id"].isin([i for r in shown if r.arm.timed for i in r.completed])
    return Answers(
        setup=_setup(data),
        pairs=pairs(found, options),
        best_running={kind: best(data, of[kind], "train_loss", options) for kind in KINDS},
        best_eval={kind: best(data, of[kind], "train_eval_loss", options) for kind in KINDS},
        best_accuracy=best(data, found, "test_error", options),
        scaling=scaling(data, shown),
        seeds=min((r.n for r in shown), default=0),
        epochs=epochs_run(found),
        varied=any(r.arm.variation for r in found),
        confidence=options.confidence,
        startup=span(data.trials[timed], "startup_seconds"),
    )


def epochs_run(found: Sequence[Result]) -> int | None:
    """The epochs of the completed trials; None where those differ, or where there are none."""
    epochs = {r.epochs for r in found if r.n}
    return epochs.pop() if len(epochs) == 1 else None


def best(data: Data, found: Sequence[Result], column: str, options: Options) -> Best | None:
    """The arm with the lowest mean of a column in the last epoch, of those with completed trials.

    It is picked after looking, so the intervals of its leads hold together (Bonferroni over the k − 1 other arms): for
    a wrong answer, one of the k − 1 arms that are not the best has to beat the one that is.
    """
    shown = [r for r in found if r.n]
    ranked = sorted(((_last(data, r, column), r) for r in shown), key=lambda pair: float(np.mean(pair[0])))
    if not ranked:
        return None
    (values, first), *others = ranked
    if not others:
        return Best(first, None, False, 1, len(found))
    together = 1 - (1 - options.confidence) / len(others)
    leads = [stats.difference(theirs, values, together) for theirs, _ in others]
    excluded = all(r.whole for r in shown) and all(lead.has_interval and lead.low > 0 for lead in leads)
    return Best(first, others[0][1], excluded, len(shown), len(found))


def _last(data: Data, result: Result, column: str) -> list[float]:
    return [float(data.rows_of([i]).sort_values("epoch")[column].iloc[-1]) for i in result.completed]


def scaling(data: Data, found: Sequence[Result]) -> list[dict[str, Any]]:
    """How inverted dropout and weight scaling differed, the worst over each arm's seeds; arms with dropout only."""
    if "weight_scaling_difference" not in data.trials:
        return []
    records = []
    for r in found:
        trials = data.trials[data.trials["trial_id"].isin(r.completed)]
        measured = trials[trials["weight_scaling_difference"].notna()]
        if r.dropout and len(measured):
            names = [c for c in measured if str(c).startswith("weight_scaling_")]
            records.append({"method": r.title, "n": len(measured)} | {str(c): measured[c].max() for c in names})
    return records


def _setup(data: Data) -> dict[str, str]:
    """Values of the plan's config columns as text, "" for one that is not there."""
    names = ["dataset", "batch_size", "epochs", "weight_decay", "precision", "train_examples", "test_examples"]
    values = {name: distinct(data.plan, f"config_{name}") for name in names}
    return values | {"steps": distinct(data.rows, "steps"), "samples": distinct(data.rows, "samples")}
