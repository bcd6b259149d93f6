"""What is shown of a plan and of a run."""

from __future__ import annotations

import dataclasses

import pytest
from commands import COUNTING
from rich.console import Console

from farm import config as configuration
from farm import plan as planning
from farm.plan import Plan
from farm.view import View, print_plan

NAMES = ("[/x] open", "[red]vivid")


@pytest.fixture
def plan() -> Plan:
    """Two trials, whose labels look like Rich's markup."""
    config = configuration.load([f"study={COUNTING}"])
    made = planning.make(config, planning.specs(config, "", None), {}, ())
    trials = [dataclasses.replace(t, label=name) for t, name in zip(made.trials, NAMES, strict=True)]
    return dataclasses.replace(made, trials=tuple(trials))


def test_a_plan_shows_labels_as_they_are(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    print_plan(plan)
    shown = capsys.readouterr().out
    assert all(name in shown for name in NAMES)


def test_a_live_table_shows_labels_as_they_are(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    Console().print(View(plan, "live")._table())
    shown = capsys.readouterr().out
    assert all(name in shown for name in NAMES)


def test_time_left_is_of_what_has_not_ended(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    with View(plan, "plain") as view:
        for name in NAMES:
            view.started(name)
            view.progress(name, {"epoch": 1})
            view.ended(name, "failed")
    first, last = [line for line in capsys.readouterr().out.splitlines() if line.startswith("failed")]
    assert "left" in first
    assert "2 failed" in last
    assert "left" not in last
