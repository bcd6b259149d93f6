"""Signals in whole processes: the terminal that goes, and what was started to outlive it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commands import COUNTING, ROOT, command, environment, exported, wait_for
from terminals import closed_under

from farm.ledger import scan

WORDS = (f"study={COUNTING}", "executor=inline", "commit_seconds=0", "trial.seconds=0.05", "view=live")


def committed(ledger: Path) -> int:
    """Highest epoch that any trial has committed."""
    return max((p.epoch for p in scan.scan(ledger).values()), default=0)


def test_a_run_whose_terminal_goes_drains(tmp_path: Path) -> None:
    results = tmp_path / "results"
    words = command(*WORDS, "trial.epochs=400", f"results={results}")
    assert closed_under(words, lambda: wait_for(lambda: committed(results / "counting")), environment(), tmp_path) == 75
    assert [r["how"] for r in exported(results, "counting", "attempts")] == ["drained"]
    assert sorted(r["state"] for r in exported(results, "counting", "plan")) == ["new", "partial"]
    assert not list((results / "counting").glob("drain-*"))


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_run_under_nohup_heeds_no_hangup(tmp_path: Path, number: signal.Signals) -> None:
    words = ["nohup", *command(*WORDS, "trial.epochs=30", "sweep.factor=[1]"), f"results={tmp_path}"]
    with subprocess.Popen(words, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        wait_for(lambda: committed(tmp_path / "counting"))
        run.send_signal(number)
        assert run.wait(timeout=60) == (0 if number == signal.SIGHUP else 75)


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_during_a_drain_ends_it_at_once(tmp_path: Path, first: signal.Signals) -> None:
    """Whoever asked for the drain: what was committed stays, and the export is as it was."""
    ledger = tmp_path / "counting"
    words = (f"study={COUNTING}", "executor=inline", "commit_seconds=0", "trial.seconds=3", "drain_seconds=60")
    with subprocess.Popen(
        [*command(*words), f"results={tmp_path}"], env=environment(), text=True, stderr=subprocess.PIPE
    ) as run:
        wait_for(lambda: committed(ledger))
        run.send_signal(first)
        wait_for(lambda: list(ledger.glob("drain-*")))
        run.send_signal(signal.SIGINT)
        said = run.communicate(timeout=60)[1]
    assert (run.returncode, said, committed(ledger), (ledger / "export").exists()) == (130, "", 1, False)


def test_a_run_that_waits_for_one_beside_a_head_hands_a_hangup_on() -> None:
    code = """
import os, signal
from farm.slurm import there
with there._Signals() as signals:
    os.kill(os.getpid(), signal.SIGHUP)
    print(signals.run(["sleep", "60"]), *map(int, signals.seen))
"""
    variables = environment() | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, f"1 {int(signal.SIGHUP)}\n"), done.stderr
