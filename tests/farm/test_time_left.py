"""The time left of a run, against runs on a made-up clock whose end is known."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Callable

import pytest
from commands import COUNTING

from farm import config as configuration
from farm import plan as planning
from farm.plan import Plan, Trial
from farm.time_left import TimeLeft, _Work

START = 5.0
"""Seconds from the begin of an attempt to its first epoch."""


def plan_of(*words: str, seconds: Callable[[Trial], float] | None = None, epochs_done: int = 0) -> Plan:
    """A plan of new trials, or of partial ones, with estimates where `seconds` gives them."""
    config = configuration.load([*words])
    made = planning.make(config, planning.specs(config, "", "NVIDIA H200"), {}, ())
    state = "partial" if epochs_done else "new"
    trials = [dataclasses.replace(t, state=state, epoch=epochs_done) for t in made.trials]
    if seconds:
        trials = [dataclasses.replace(t, seconds=seconds(t)) for t in trials]
    return dataclasses.replace(made, trials=tuple(trials))


class Clock:
    """A clock that is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def simulated(
    plan: Plan, slots: int, epoch_seconds: Callable[[Trial], float]
) -> tuple[list[tuple[float, float]], float]:
    """Runs the plan, longest first, on so many slots: (time, estimate) after each epoch that gives one, and the end."""
    clock = Clock()
    left = TimeLeft(plan, clock)
    waiting = list(plan.longest_first)
    events: list[tuple[float, int, Trial, int]] = []  # when, order, trial, epoch
    found, number = [], 0

    def begin() -> None:
        nonlocal number
        if waiting:
            trial = waiting.pop(0)
            left.started(trial.label)
            number += 1
            heapq.heappush(events, (clock.now + START + epoch_seconds(trial), number, trial, trial.epoch + 1))

    for _ in range(slots):
        begin()
    while events:
        clock.now, order, trial, epoch = heapq.heappop(events)
        left.progress(trial.label, epoch)
        if epoch == trial.spec.parameters["epochs"]:
            left.ended(trial.label, "completed")
            begin()
        else:
            heapq.heappush(events, (clock.now + epoch_seconds(trial), order, trial, epoch + 1))
        if (seconds := left.seconds) is not None:
            found.append((clock.now, seconds))
    return found, clock.now


def error(found: list[tuple[float, float]], end: float, after: float) -> float:
    """The largest relative error of what was said from a time on, against what was then left; less than 5 s is none."""
    return max(
        (abs(said - (end - now)) / (end - now) for now, said in found if now >= after and end - now > 5), default=0.0
    )


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_arms_of_very_different_length_are_foreseen_after_seconds(slots: int) -> None:
    """Problem 4: M=32 has nine times the work of M=1 and runs first; its epochs alone would foresee thrice the time."""
    plan = plan_of("problem=4", "trial.precision=bf16")
    work = {t.id: planning.work_left(t) for t in plan.trials}
    found, end = simulated(plan, slots, lambda t: 0.0178 * work[t.id] / 100)
    assert found[0][0] < 30
    assert error(found, end, 30) < 0.02


def test_a_resumed_run_is_foreseen_from_its_second_epoch_on() -> None:
    plan = plan_of(f"study={COUNTING}", "trial.epochs=200", "sweep.factor=[1,2]", epochs_done=150)
    found, end = simulated(plan, 2, lambda t: 0.5)
    assert error(found, end, START + 1.0) < 0.1


def test_many_short_trials_are_foreseen_with_their_starts() -> None:
    plan = plan_of(f"study={COUNTING}", "trial.epochs=3", f"sweep.factor={list(range(100, 600))}")
    found, end = simulated(plan, 2, lambda t: 1.0)
    assert error(found, end, 2 * START) < 0.05


def test_estimates_tell_before_the_first_pace() -> None:
    plan = plan_of(f"study={COUNTING}", "trial.epochs=100", "sweep.factor=[1]", seconds=lambda t: 300.0)
    left = TimeLeft(plan, Clock())
    assert left.seconds == 300
    left.started(plan.trials[0].label)
    assert left.seconds == 300


def test_nothing_is_said_before_anything_tells_and_after_all_has_ended() -> None:
    plan, clock = plan_of(f"study={COUNTING}", "trial.epochs=2", "sweep.factor=[1,2]"), Clock()
    left = TimeLeft(plan, clock)
    assert left.seconds is None
    for label in ("factor=1", "factor=2"):
        left.started(label)
        clock.now += 2
        left.progress(label, 1)
        assert left.seconds
        left.ended(label, "failed")
    assert left.seconds is None


def test_a_trial_that_begins_again_is_counted_again() -> None:
    plan, clock = plan_of(f"study={COUNTING}", "trial.epochs=10", "sweep.factor=[1]"), Clock()
    left = TimeLeft(plan, clock)

    def attempt(first: int, last: int, how: str) -> None:
        left.started(plan.trials[0].label)
        for epoch in range(first, last + 1):
            clock.now += 1
            left.progress(plan.trials[0].label, epoch)
        if how:
            left.ended(plan.trials[0].label, how)

    attempt(1, 6, "interrupted")
    assert left.seconds is None
    attempt(5, 8, "")
    assert left.seconds == pytest.approx(2.0, rel=0.5)
    left.ended(plan.trials[0].label, "completed")
    assert left.seconds is None


def test_a_trial_without_steps_counts_when_it_has_ended() -> None:
    plan, clock = plan_of("problem=3", "profile=smoke"), Clock()
    trials = [dataclasses.replace(plan.trials[0], label=name) for name in "ab"]
    left = TimeLeft(dataclasses.replace(plan, trials=tuple(trials)), clock)
    for work in left._trials.values():
        work.steps = 0
    left.started("a")
    left.progress("a", 3)
    assert left.seconds is None
    clock.now = 8.0
    left.ended("a", "completed")
    assert left.seconds == pytest.approx(8.0)


def test_an_ended_trial_costs_the_same_among_thousands(monkeypatch: pytest.MonkeyPatch) -> None:
    left = TimeLeft(plan_of(f"study={COUNTING}", f"sweep.factor={list(range(100, 1100))}"))
    asked: list[_Work] = []
    real = _Work.left.fget
    assert real is not None
    monkeypatch.setattr(_Work, "left", property(lambda work: asked.append(work) or real(work)))
    left.started("factor=500")
    left.ended("factor=500", "completed")
    assert left.seconds is not None
    assert {id(w) for w in asked} == {id(left._trials["factor=500"])}
