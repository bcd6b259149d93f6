"""The whole from one command: it goes on after a kill, ends at a drain, and says what is missing."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest
from attempts import attempt, request
from commands import COUNTING, ROOT, environment, exported
from terminals import closed_under

from farm import config as configuration
from farm.cli import main
from farm.config import Config
from farm.reproduce import Part, lacking, reproduce
from farm.study import make_plan

SLOW = ["executor=inline", "view=plain", "trial.epochs=12", "trial.seconds=0.1", "commit_seconds=0"]
CODE = f"""
import sys
from farm.reproduce import lacking, reproduce
code, parts = reproduce(sys.argv[1:], lambda config: print("reported", config.study), ["study={COUNTING}"] * 2)
print(*lacking(parts), sep="\\n")
sys.exit(code)
"""


VARIABLES = environment() | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(COUNTING.parent)])}


def start(results: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CODE, f"results={results}", *SLOW],
        env=VARIABLES,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for_commit(results: Path) -> None:
    deadline = time.monotonic() + 60
    while not list(results.glob("counting/trials/*/attempts/*/commit-2")):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_killed_in_the_middle_it_goes_on(tmp_path: Path) -> None:
    first = start(tmp_path)
    wait_for_commit(tmp_path)
    with contextlib.suppress(ProcessLookupError):
        os.kill(first.pid, signal.SIGKILL)  # the parent alone: its child dies with it
    first.communicate(timeout=10)
    again = start(tmp_path)
    out, _ = again.communicate(timeout=60)
    assert (again.returncode, out.count("reported counting")) == (0, 2), out
    attempts = exported(tmp_path, "counting", "attempts")
    assert sorted(a["how"] for a in attempts) == ["completed", "completed", "lost"]
    assert [a["from_epoch"] > 0 for a in attempts if a["attempt"] == 2] == [True]
    assert len(exported(tmp_path, "counting", "epochs")) == 24


def test_a_signal_drains_the_study_and_ends_it_all(tmp_path: Path) -> None:
    run = start(tmp_path)
    wait_for_commit(tmp_path)
    run.send_signal(signal.SIGTERM)
    out, _ = run.communicate(timeout=30)
    assert (run.returncode, out.count("==")) == (75, 2)  # the heading of the first study alone
    assert out.count("counting: 2 of 2 trials are missing (1 partial, 1 new)") == 2  # the one not begun too


def test_a_terminal_that_goes_drains_the_study_and_ends_it_all(tmp_path: Path) -> None:
    words = [sys.executable, "-c", CODE, f"results={tmp_path}", *SLOW]
    assert closed_under(words, lambda: wait_for_commit(tmp_path), VARIABLES, tmp_path) == 75
    assert [a["how"] for a in exported(tmp_path, "counting", "attempts")] == ["drained"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGHUP, 75), (signal.SIGINT, 130)])
def test_a_signal_that_finds_a_study_at_its_figures_ends_it_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    def completes(words: Sequence[str], received: list[int]) -> int:
        received.append(number)
        return 0

    monkeypatch.setattr("farm.reproduce._run", completes)
    found, parts = reproduce([f"results={tmp_path}"], lambda config: None, [f"study={COUNTING}"] * 2)
    assert (found, [p.exit_code for p in parts]) == (code, [0, code])
    found, parts = reproduce([f"results={tmp_path}"], lambda config: None, [f"study={COUNTING}"])
    assert (found, [p.exit_code for p in parts]) == (0, [0])  # nothing was left to begin


def test_what_failed_again_is_told_as_failed(tmp_path: Path) -> None:
    words = [f"results={tmp_path}", "executor=inline", "trial.end=failed", "retry=failed"]
    code, parts = reproduce(words, lambda config: None, [f"study={COUNTING}"])
    lines = list(lacking(parts))
    assert (code, lines[0]) == (1, "counting: 2 of 2 trials are missing (2 failed)")
    assert lines[-1].endswith(f"python farm/run.py study={COUNTING} {' '.join(words)}")
    assert "ValueError: a bug in the trial" in lines[1]


def test_a_study_named_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "problem=3", f"results={tmp_path}"]) == 2
    assert "farm run problem=3 runs one" in capsys.readouterr().err


def test_a_misspelt_word_ends_it_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "exeuctor=inline", f"results={tmp_path}"]) == 2
    assert not list(tmp_path.iterdir())


def test_results_that_cannot_be_made_are_exit_3_and_every_study_is_missing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, parts = reproduce(["results=/proc/nope", "executor=inline"], lambda c: None, [f"study={COUNTING}"])
    assert (code, "cannot be written" in capfd.readouterr().err) == (3, True)
    lines = list(lacking(parts))
    assert lines[0] == "counting: 2 of 2 trials are missing (2 new)"
    assert lines[-1].endswith(f"python farm/run.py study={COUNTING} results=/proc/nope executor=inline")


def part(results: Path, *overrides: str, code: int = 1) -> Part:
    words = ("study=counting.yaml", f"results={results}", *overrides)
    config: Config = configuration.load([f"study={COUNTING}", *words[1:]])
    return Part(words, config, code, make_plan(config))


def test_what_no_node_holds_is_said_with_what_it_takes(tmp_path: Path) -> None:
    lines = list(lacking([part(tmp_path, "resources.gpu=4", "gpus=1", "cpus=2")]))
    assert lines[0] == "counting: 2 of 2 trials are missing (2 unschedulable)"
    assert "needs 1 CPU and 4 GPUs on one node; the largest node has 2 CPUs and 1 GPU" in lines[1]
    assert lines[2].strip().startswith("it takes 4 GPUs on one node and a time that nothing here tells")
    words = f"study=counting.yaml results={tmp_path} resources.gpu=4 gpus=1 cpus=2"
    assert lines[2].endswith(f"python farm/run.py {words}, or farm submit {words} site=NAME")


def test_what_a_missing_trial_took_elsewhere_is_the_estimate(tmp_path: Path) -> None:
    reference = tmp_path / "reference"
    attempt(request(reference / "counting", factor=1, epochs=3))
    from farm.ledger.export import export

    path = export(reference / "counting", None, "counting").tables["trials"]
    pd.read_parquet(path).assign(seconds=1800.0, config_fingerprint="x").to_parquet(path)
    found = list(lacking([part(tmp_path / "here", "resources.gpu=2", "gpus=0")], reference))
    assert "2 GPUs on one node and about 2.00 GPU-hours (as measured on the reference machine)" in found[-1]


def test_failed_trials_are_run_again_by_retry(tmp_path: Path) -> None:
    for factor in (1, 2):
        attempt(request(tmp_path / "counting", factor=factor, end="failed"))
    lines = list(lacking([part(tmp_path, "trial.end=failed")]))
    assert "ValueError: a bug in the trial" in lines[1]
    assert lines[-1].endswith("retry=failed")


def test_nothing_missing_is_said(tmp_path: Path) -> None:
    for factor in (1, 2):
        attempt(request(tmp_path / "counting", factor=factor))
    assert list(lacking([part(tmp_path, code=0)] * 4)) == ["nothing is missing: every trial of every study is done"]


def test_reports_follow_each_study(tmp_path: Path) -> None:
    reported: list[str] = []
    small = [f"results={tmp_path}", "executor=inline", "view=plain"]
    code, _ = reproduce(small, lambda c: reported.append(c.study), [f"study={COUNTING}"])
    assert (code, reported) == (0, ["counting"])


def test_a_report_that_fails_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configuration.load([f"study={COUNTING}", f"results={tmp_path}"])

    def refused(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    def two_studies(overrides: list[str], report: Callable[[Config], None]) -> tuple[int, list[Part]]:
        report(config)
        report(config)
        return 0, [Part((), config, 1, make_plan(config))]

    monkeypatch.setattr("analysis.report.write_report", refused)
    monkeypatch.setattr("analysis.report.write_index", refused)
    monkeypatch.setattr("farm.reproduce.reproduce", two_studies)
    assert main(["reproduce", f"results={tmp_path}"]) == 3
    captured = capsys.readouterr()
    assert captured.err.count("Read-only file system") == 3
    assert "2 of 2 trials are missing" in captured.out
