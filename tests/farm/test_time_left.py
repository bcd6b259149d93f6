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
    plan: Plan, slots: int, epoch_seconds: Callable[[Trial], float], start: float = START, end: float = 0.0
) -> tuple[list[tuple[float, float]], float]:
    """Runs the plan, longest first, on so many slots: (time, estimate) whenever one is given, and the end.

    As Tune does, each trial hands on its last epoch every second, and the last one with its end.
    """
    clock = Clock()
    left = TimeLeft(plan, clock)
    waiting = list(plan.longest_first)
    events: list[tuple[float, int, Trial, float]] = []  # when, order, trial, when it began
    found: list[tuple[float, float]] = []

    def begin(order: int) -> None:
        if waiting:
            trial = waiting.pop(0)
            left.started(trial.label)
            heapq.heappush(events, (clock.now + 1.0, order, trial, clock.now))

    for order in range(slots):
        begin(order)
    while events:
        clock.now, order, trial, began = heapq.heappop(events)
        epochs = trial.spec.parameters["epochs"]
        assert isinstance(epochs, int)
        epoch = min(trial.epoch + int((clock.now - began - start + 1e-9) / epoch_seconds(trial)), epochs)
        if epoch > trial.epoch and clock.now - began > start:
            left.progress(trial.label, epoch)
        until = began + start + (epochs - trial.epoch) * epoch_seconds(trial) + end
        if clock.now >= until - 1e-9:
            left.ended(trial.label, "completed")
            begin(order)
        else:
            heapq.heappush(events, (min(clock.now + 1.0, until), order, trial, began))
        if (seconds := left.seconds) is not None:
            found.append((clock.now, seconds))
    return found, clock.now


def error(found: list[tuple[float, float]], end: float, after: float) -> float:
    """The largest error of what was said from a time on, as a part of what was then left, or of the last 30 s."""
    return max(abs(said - (end - now)) / max(end - now, 30) for now, said in found if now >= after)


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_arms_of_very_different_length_are_foreseen_after_seconds(slots: int) -> None:
    """Problem 4: M=32 has nine times the work of M=1 and runs first; its epochs alone would foresee thrice the time."""
    plan = plan_of("problem=4", "trial.precision=bf16")
    work = {t.id: planning.work_left(t) for t in plan.trials}
    found, end = simulated(plan, slots, lambda t: 0.0178 * work[t.id] / 100)
    assert found[0][0] < 30
    assert error(found, end, 30) < 0.15  # epochs of 10 s, seen a second late at most
    assert error(found, end, 120) < 0.05


def test_a_resumed_run_is_foreseen_from_its_second_epoch_on() -> None:
    plan = plan_of(f"study={COUNTING}", "trial.epochs=200", "sweep.factor=[1,2]", epochs_done=150)
    found, end = simulated(plan, 2, lambda t: 0.5)
    assert error(found, end, START + 2.0) < 0.15


def test_many_short_trials_are_foreseen_with_their_starts() -> None:
    plan = plan_of(f"study={COUNTING}", "trial.epochs=3", f"sweep.factor={list(range(100, 600))}")
    found, end = simulated(plan, 2, lambda t: 1.0)
    assert error(found, end, 2 * START) < 0.05


@pytest.mark.parametrize("estimate", [None, 4.0])
def test_trials_of_a_second_are_foreseen_where_some_report_twice(estimate: float | None) -> None:
    plan = plan_of(
        f"study={COUNTING}", "trial.epochs=3", f"sweep.factor={list(range(100, 400))}",
        seconds=None if estimate is None else lambda t: estimate,
    )  # fmt: skip
    found, end = simulated(plan, 1, lambda t: 0.1 + 0.001 * (t.spec.parameters["factor"] % 50), start=0.5, end=0.3)
    assert error(found, end, 60) < 0.1


def test_a_long_epoch_takes_nothing_from_the_pace_of_those_before() -> None:
    plan = plan_of(f"study={COUNTING}", "trial.epochs=10", "sweep.factor=[1]")
    found, end = simulated(plan, 1, lambda t: 60.0)
    assert error(found, end, START + 120.0) < 0.1


def test_a_trial_that_waits_for_another_attempt_holds_no_place() -> None:
    plan, clock = plan_of(f"study={COUNTING}", "trial.epochs=10", f"sweep.factor={list(range(1, 11))}"), Clock()
    left = TimeLeft(plan, clock)
    first, second, *_ = (t.label for t in plan.longest_first)
    for label, steps in ((first, 2), (second, 10)):
        left.started(label)
        for step in range(1, steps + 1):
            clock.now += 10
            left.progress(label, step)
        if label == first:
            left.waits_again(first)
    left.ended(second, "completed")
    assert left.seconds == pytest.approx(880, rel=0.01)  # 8 whole trials, and 8 epochs of the first


def test_the_wait_before_another_attempt_is_nobodys_start() -> None:
    plan, clock = plan_of(f"study={COUNTING}", "trial.epochs=10", f"sweep.factor={list(range(101, 201))}"), Clock()
    left = TimeLeft(plan, clock)
    first, *others = (t.label for t in plan.longest_first)

    def attempt(label: str, wait: float, epochs: int) -> None:
        left.started(label)
        clock.now += wait
        for epoch in range(1, epochs + 1):
            clock.now += 1
            left.progress(label, epoch)

    attempt(first, 1, 3)
    left.waits_again(first)
    attempt(first, 16, 10)
    left.ended(first, "completed")
    assert left.seconds == pytest.approx(99 * 11, rel=0.05)
    left.waits_again(others[0])
    left.ended(others[0], "interrupted")  # an actor that died as it was given the trial
    assert left.seconds == pytest.approx(98 * 11, rel=0.05)


def test_estimates_tell_before_the_first_pace() -> None:
    plan = plan_of(f"study={COUNTING}", "trial.epochs=100", "sweep.factor=[1]", seconds=lambda t: 300.0)
    left = TimeLeft(plan, Clock())
    assert left.seconds == 300
    left.started(plan.trials[0].label)
    assert left.seconds == 300


def test_nothing_is_said_before_anything_tells_and_after_all_has_ended() -> None:
    plan, clock = plan_of(f"study={COUNTING}", "trial.epochs=3", "sweep.factor=[1,2]"), Clock()
    left = TimeLeft(plan, clock)
    assert left.seconds is None
    for label in ("factor=1", "factor=2"):
        left.started(label)
        for step in (1, 2):
            clock.now += 2
            left.progress(label, step)
        assert left.seconds
        left.ended(label, "failed")
    assert left.seconds is None


def test_a_first_step_tells_nothing_for_it_has_the_start_in_it() -> None:
    """Inline the first trial imports torch: with that in its pace, 20 s of steps were said to take 3 min."""
    plan, clock = plan_of(f"study={COUNTING}", "trial.epochs=100", "sweep.factor=[1,2]"), Clock()
    left = TimeLeft(plan, clock)
    left.started("factor=1")
    clock.now += 3
    left.progress("factor=1", 1)
    assert left.seconds is None
    clock.now += 0.2
    left.progress("factor=1", 2)
    assert left.seconds == pytest.approx(198 * 0.2 + 3, rel=0.1)


def test_a_first_step_of_an_hour_tells() -> None:
    plan, clock = plan_of(f"study={COUNTING}", "trial.epochs=10", "sweep.factor=[1]"), Clock()
    left = TimeLeft(plan, clock)
    left.started(plan.trials[0].label)
    clock.now += 3600
    left.progress(plan.trials[0].label, 1)
    assert left.seconds == pytest.approx(9 * 3600)


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
