"""What is shown of a plan and of a run."""

from __future__ import annotations

import dataclasses
from collections import Counter

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


@pytest.mark.parametrize("how", ["completed", "oom", "failed", "partial", "interrupted"])
def test_the_summary_follows_each_trial(how: str) -> None:
    config = configuration.load([f"study={COUNTING}", "sweep.factor=[1,2,3,4]", "resources.gpu=0.3"])
    view = View(planning.make(config, planning.specs(config, "", None), {}, ()), "plain", gpus=1)
    first, second, *_ = view._lines
    for label in (first, second, first):  # the first begins again
        view.started(label)
    view.progress(second, {"epoch": 1})
    assert view._summary() == "0/4 done, 2 running, 0.6/1 GPUs"
    view.progress(second, {"epoch": 2})
    assert view._summary().startswith("0/4 done, 2 running, 0.6/1 GPUs, about")
    view.ended(first, how)
    said = {f: f"0/4 done, 1 running, 1 {f}" for f in ("failed", "interrupted")} | {"partial": "0/4 done, 1 running"}
    assert view._summary().startswith(f"{said.get(how, '1/4 done, 1 running')}, 0.3/1 GPUs, about")
    assert +view._numbers == Counter(line.state for line in view._lines.values())
    view.freeze()
    assert view.frozen_running
    view.ended(second, "completed")
    assert not view.frozen_running


def test_a_run_that_says_nothing_for_long_says_that_it_is_at_work(
    plan: Plan, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    view = View(plan, "plain")
    monkeypatch.setattr("farm.view.QUIET_SECONDS", 0)
    view.tick()
    assert capsys.readouterr().out == "", "nothing runs"
    view.started(NAMES[0])
    view.tick()
    assert capsys.readouterr().out == "0/2 done, 1 running\n"
    monkeypatch.setattr("farm.view.QUIET_SECONDS", 60)
    view.tick()
    assert capsys.readouterr().out == "", "it has just spoken"


def test_a_drain_says_what_becomes_of_the_epochs(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    view = View(plan, "plain")
    view.freeze()
    assert capsys.readouterr().out == "", "nothing runs"
    view.started(NAMES[0])
    view.freeze()
    assert "Ctrl-C ends at once" in capsys.readouterr().out
