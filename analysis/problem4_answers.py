"""The measured numbers that problem 4's written answers are filled with; None and empty where there are none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analysis import curves, stats
from analysis.load import Data
from analysis.options import Options
from analysis.outcomes import ArmOutcome, device_of
from analysis.provenance import distinct
from analysis.stats import Estimate
from analysis.words import escape

SOON = 3
"""Epochs after a drop of the learning rate that count as "at the drop"."""


@dataclass(frozen=True)
class Growth:
    """How an arm with M copies compares with the same arm at M=1: ratios of wall-clock times, whole and of training."""

    copies: int
    time: Estimate
    training: Estimate


@dataclass(frozen=True)
class Gain:
    """By how much the final error of `arm` (cutout, M > 1) is below that of M=1: a fraction, positive is better."""

    arm: ArmOutcome
    points: Estimate


@dataclass(frozen=True)
class Answers:
    """`plain` is question 2's baseline, of the reference variation or else of the first that has it.

    `baseline`, `control` (cutout, M=1) and `batch` (cutout, M > 1, by M) are of the reference variation.

    `cutout_gain` is a difference of final error (a fraction, positive is better): baseline less control.
    `copies_gains` is of the largest M that has results, and where its seeds are too few for an interval,
    before it of the largest M whose are not. `quickest` had every seed of the plan at the target in the
    shortest mean time; `ahead` took less, but seeds of it are missing. `schedules` maps an arm's name to its
    outcomes under each variation, for arms with several. `variation` names the reference variation where there are
    several, `ran` are the schedules of completed trials, `baseline_reached` is of any variation.
    """

    setup: dict[str, str]
    baseline: ArmOutcome | None
    plain: ArmOutcome | None
    control: ArmOutcome | None
    batch: list[ArmOutcome]
    cutout_gain: Estimate
    copies_gains: list[Gain]
    growth: list[Growth]
    quickest: ArmOutcome | None
    ahead: ArmOutcome | None
    schedules: dict[str, list[ArmOutcome]]
    variation: str
    ran: list[str]
    baseline_reached: bool
    drops: list[int]
    reached: int
    reached_at_drop: int
    trials: int
    seeds: int

    @property
    def of_variation(self) -> str:
        """ " of schedule=hoffer" in Markdown, behind what is of the reference variation; empty where there is one."""
        return f" of {escape(self.variation)}" if self.variation else ""


def answers(data: Data, found: Sequence[ArmOutcome], variation: str, options: Options) -> Answers:
    """Gather the numbers. Only arms with completed trials give any."""
    shown = [o for o in found if o.arm.variation == variation and o.n]
    baseline = next((o for o in shown if o.arm.name == "baseline"), None)
    cutouts = sorted((o for o in shown if o.arm.values.get("augmentation") == "cutout"), key=copies)
    control = next((o for o in cutouts if copies(o) == 1), None)
    batch = [o for o in cutouts if copies(o) > 1]
    drops = curves.learning_rate_drops(data.rows_of([i for o in shown for i in o.completed]))
    quickest, ahead = _quickest(data, shown)
    crossed = [c.epoch for o in shown for c in o.crossings if c.epoch is not None]
    return Answers(
        setup=_setup(data),
        baseline=baseline,
        plain=baseline or next((o for o in found if o.arm.name == "baseline" and o.n), None),
        control=control,
        batch=batch,
        cutout_gain=_gain(baseline, control, options),
        copies_gains=_copies_gains(control, batch, options),
        growth=_growth(data, control, batch, options),
        quickest=quickest,
        ahead=ahead,
        schedules=_schedules(found),
        variation=variation,
        ran=list(dict.fromkeys(str(o.arm.values["schedule"]) for o in found if o.n and "schedule" in o.arm.values)),
        baseline_reached=any(o.arm.name == "baseline" and o.to_target.reached for o in found),
        drops=drops,
        reached=len(crossed),
        reached_at_drop=sum(any(d <= epoch < d + SOON for d in drops) for epoch in crossed),
        trials=sum(o.n for o in shown),
        seeds=min((o.n for o in shown), default=0),
    )


def copies(outcome: ArmOutcome) -> int:
    """M of an arm."""
    return int(outcome.arm.values.get("M", 1))


def _setup(data: Data) -> dict[str, str]:
    """Values of the plan's config columns as text, "" for one that is not there."""
    names = [
        "dataset",
        "depth",
        "batch_size",
        "epochs",
        "precision",
        "cutout_length",
        "schedule",
        "learning_rate",
    ]
    names += ["momentum", "weight_decay", "shortcut", "train_examples", "validation_examples"]
    values = {name: distinct(data.plan, f"config_{name}") for name in names}
    return values | {"steps": distinct(data.rows, "steps")}


def _gain(before: ArmOutcome | None, after: ArmOutcome | None, options: Options) -> Estimate:
    if before is None or after is None:
        return stats.NOTHING
    return stats.difference(before.final_errors, after.final_errors, options.confidence)


def _copies_gains(control: ArmOutcome | None, batch: Sequence[ArmOutcome], options: Options) -> list[Gain]:
    gains = [Gain(o, _gain(control, o, options)) for o in batch if control]
    return [g for g in gains if g.points.has_interval][-1:] + [g for g in gains[-1:] if not g.points.has_interval]


def _growth(data: Data, control: ArmOutcome | None, batch: Sequence[ArmOutcome], options: Options) -> list[Growth]:
    """Ratios of times, of arms on the control's device alone."""
    if control is None or control.pieced or not (device := device_of(data, control.arm)):
        return []
    comparable = [o for o in batch if device_of(data, o.arm) == device and not o.pieced]
    alone = _training_seconds(data, control)
    return [
        Growth(
            copies(o),
            stats.ratio(o.times, control.times, options.confidence),
            stats.ratio(_training_seconds(data, o), alone, options.confidence),
        )
        for o in comparable
    ]


def _training_seconds(data: Data, outcome: ArmOutcome) -> list[float]:
    """Of each trial, without its evaluations; nothing where a row does not tell."""
    if "train_seconds" not in data.rows:
        return []
    sums = [float(data.rows_of([i])["train_seconds"].sum(skipna=False)) for i in outcome.completed]
    return sums if all(s > 0 for s in sums) else []


def _quickest(data: Data, shown: Sequence[ArmOutcome]) -> tuple[ArmOutcome | None, ArmOutcome | None]:
    """`Answers.quickest` and `Answers.ahead`; nothing where the arms ran on several devices, or were not timed."""
    if len({device_of(data, o.arm) for o in shown}) != 1 or not all(o.arm.timed for o in shown):
        return None, None
    there = sorted(
        (o for o in shown if o.to_target.reached == o.n and not o.pieced), key=lambda o: o.to_target.seconds.value
    )
    quickest = next((o for o in there if o.n == len(o.arm.trials)), None)
    return quickest, next((o for o in there[:1] if o is not quickest), None)


def _schedules(found: Sequence[ArmOutcome]) -> dict[str, list[ArmOutcome]]:
    names: dict[str, list[Any]] = {}
    for outcome in found:
        if outcome.n and outcome.arm.variation:
            names.setdefault(outcome.arm.name, []).append(outcome)
    return {name: several for name, several in names.items() if len(several) > 1}
