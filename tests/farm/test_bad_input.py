"""Bad input, typed as a user types it: a clear line, the right exit code, no traceback, nothing earned is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from attempts import attempt, directory, request
from commands import COUNTING, Finished, exported

SMOKE = ("problem=4", "profile=smoke")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("probelm=4",), 2, "nearest is problem"),
        (("problem",), 2, "problem=…"),
        (("problem=9",), 2, "the problems are 1, 2, 3, 4"),
        ((*SMOKE, "trial.epochs=ten"), 2, "trial.epochs"),
        ((*SMOKE, "trial.epochs=-1"), 2, "a number from 1 to 100000"),
        ((*SMOKE, "trial.epohcs=3"), 2, "nearest is trial.epochs"),
        ((*SMOKE, "sweep.M=[]"), 2, "sweep.M"),
        ((*SMOKE, "sweep.M=[0]"), 2, "a number from 1 to 1024"),
        ((*SMOKE, "sweep.M=[2"), 2, "not valid YAML"),
        ((*SMOKE, "trial.M=2"), 2, "sweep.M=[2] sets it"),
        ((*SMOKE, "trial.shortcut=projektion"), 2, "projection"),
        (("problem=1", "profile=smoke", "sweep.method=[adamw]"), 2, "adadelta"),
        ((*SMOKE, "ray_address=http://127.0.0.1:8265"), 2, "HOST:PORT"),
        ((*SMOKE, "data=cifar10", "data_root=/nowhere"), 3, "/nowhere"),
        (("problem=4", "resources.gpu=99", "hardware=H", "data_root=/nowhere"), 3, "/nowhere"),
        ((*SMOKE, "results=/proc/farm"), 3, "cannot be written"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(
    farm: Callable[..., Finished], words: tuple[str, ...], code: int, says: str
) -> None:
    done = farm(*words)
    assert (done.code, "Traceback" in done.err) == (code, False), done.err
    assert says in done.err, done.err
    assert len(done.err.strip().splitlines()) == 1, done.err


def test_a_mistake_costs_nothing_already_earned(farm: Callable[..., Finished], tmp_path: Path) -> None:
    earned = request(tmp_path / "results" / "counting")
    attempt(earned)
    before = sorted(p.stat().st_mtime_ns for p in directory(earned).rglob("*"))
    assert farm(f"study={COUNTING}", "sweep.factor=[0.5]").code == 2
    assert sorted(p.stat().st_mtime_ns for p in directory(earned).rglob("*")) == before
    assert farm(f"study={COUNTING}", "sweep.factor=[1]", "executor=inline").code == 0
    assert [r["attempt"] for r in exported(tmp_path / "results", "counting", "attempts")] == [1]


@pytest.mark.parametrize(
    "text", ["profiles: [smoke]", "profiles: {smoke: 3}", "trial:", "module: .x", "sweep: {factor: }"]
)
def test_a_mistake_in_a_study_file_is_told_without_a_traceback(
    farm: Callable[..., Finished], tmp_path: Path, text: str
) -> None:
    study = tmp_path / "mine.yaml"
    study.write_text(f"{text}\n" if text.startswith("module") else f"module: trials.problem4\n{text}\n")
    done = farm(f"study={study}", "profile=smoke")
    assert (done.code, "Traceback" in done.err) == (2, False), done.err
