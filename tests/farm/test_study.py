"""One run of a study, from preflight to export."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import COUNTING, ROOT, command, environment, exported, run_farm, wait_for

from farm import config as configuration
from farm import study
from farm.ledger import scan
from trials.spec import ModuleError

STUDY = f"study={COUNTING}"
SIGNALLED_IN_PREFLIGHT = """
import os, signal, sys
from farm import cli, study
check = study._check_results
study._check_results = lambda config: (os.kill(os.getpid(), int(sys.argv[1])), check(config))
code = cli.main(["run", *sys.argv[2:]])
print("Ray was started" if "ray" in sys.modules else "no Ray")
sys.exit(code)
"""
SIGNALLED_AT_THE_FIGURES = """
import os, signal, sys
from analysis import report
from farm import cli
make = report.write_main_results
report.write_main_results = lambda *arguments: (os.kill(os.getpid(), int(sys.argv[1])), make(*arguments))[1]
sys.exit(cli.main(["run", *sys.argv[2:]]))
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGHUP, 75), (signal.SIGINT, 130)]
)
def test_a_signal_during_preflight_starts_nothing(tmp_path: Path, number: signal.Signals, code: int) -> None:
    results = tmp_path / "results"
    words = [sys.executable, "-c", SIGNALLED_IN_PREFLIGHT, str(int(number)), STUDY, f"results={results}"]
    variables = environment() | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, capture_output=True, text=True, env=variables, timeout=60)
    assert (done.returncode, done.stderr) == (code, "")
    assert ("counting: 2 new" in done.stdout, "no Ray" in done.stdout) == (True, True)
    assert list(scan.attempt_records(results / "counting")) == []
    assert [r["state"] for r in exported(results, "counting", "plan")] == ["new", "new"]
    again = run_farm(tmp_path, STUDY, "executor=inline")
    assert (again.code, len(exported(results, "counting", "epochs"))) == (0, 6)


def test_sigusr1_again_and_again_until_a_run_has_ended_drains_it(tmp_path: Path) -> None:
    words = [*command(STUDY), f"results={tmp_path / 'results'}"]
    with subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "counting: 2 new\n"
        while run.poll() is None:
            run.send_signal(signal.SIGUSR1)
            time.sleep(0.001)
        assert run.returncode == 75, run.stdout.read()
    assert run_farm(tmp_path, STUDY, "executor=inline").code == 0
    assert len(exported(tmp_path / "results", "counting", "epochs")) == 6


@pytest.mark.parametrize("output", ["nobody reads it any more", "its disk is full"])
def test_a_run_outlives_its_standard_output(tmp_path: Path, output: str) -> None:
    words = [*command(STUDY, "executor=inline"), f"results={tmp_path / 'results'}"]
    with open("/dev/full", "w") as full:
        stdout = subprocess.PIPE if output.startswith("nobody") else full
        with subprocess.Popen(words, env=environment(), stdout=stdout, stderr=subprocess.PIPE, text=True) as run:
            if run.stdout is not None:
                run.stdout.close()
            assert run.stderr is not None
            assert run.stderr.read() == ""
    assert run.returncode == 0
    attempts = exported(tmp_path / "results", "counting", "attempts")
    assert [r["how"] for r in attempts] == ["completed", "completed"]


def test_a_run_outlives_its_standard_error(tmp_path: Path) -> None:
    words = command(STUDY, "executor=inline", "trial.end=failed", "sweep.factor=[1,2]")
    with subprocess.Popen(
        [*words, f"results={tmp_path / 'results'}"], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as run:
        assert run.stderr is not None
        run.stderr.close()  # both trials print a traceback there
        assert run.stdout is not None
        run.stdout.read()
    assert run.returncode == 1
    assert [r["how"] for r in exported(tmp_path / "results", "counting", "attempts")] == ["failed", "failed"]


def test_a_mistake_keeps_its_exit_code_where_nobody_reads_what_is_said(tmp_path: Path) -> None:
    with subprocess.Popen(command("probelm=4"), env=environment(), stderr=subprocess.PIPE) as run:
        assert run.stderr is not None
        run.stderr.close()
    assert run.returncode == 2


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_run_needs_no_standard_streams(tmp_path: Path, closed: str) -> None:
    words = [*command(STUDY, "executor=inline", "trial.end=failed"), f"results={tmp_path / 'results'}"]
    script = f'"$@" {closed}'
    done = subprocess.run(["bash", "-c", script, "bash", *words], env=environment(), stdout=subprocess.PIPE)
    assert done.returncode == 1
    assert [r["how"] for r in exported(tmp_path / "results", "counting", "attempts")] == ["failed", "failed"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT])
def test_a_signal_while_the_figures_are_made_does_not_end_a_run_that_is_complete(
    tmp_path: Path, number: signal.Signals
) -> None:
    words = [sys.executable, "-c", SIGNALLED_AT_THE_FIGURES, str(int(number)), STUDY, "executor=inline"]
    variables = environment() | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*words, f"results={tmp_path}"], capture_output=True, text=True, env=variables, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "report/figures/train_loss.png" in done.stdout
    assert not list((tmp_path / "counting").glob("drain-*"))


def test_a_signal_between_two_attempts_begins_no_other(tmp_path: Path) -> None:
    words = command(STUDY, "executor=inline", "trial.end=storage", "sweep.factor=[1]", "back_off_seconds=60")
    with subprocess.Popen([*words, f"results={tmp_path}"], env=environment(), stdout=subprocess.PIPE, text=True) as run:
        wait_for(lambda: [r["how"] for r in scan.attempt_records(tmp_path / "counting")] == ["interrupted"])
        run.send_signal(signal.SIGTERM)
        out, _ = run.communicate(timeout=30)
    assert (run.returncode, [r["how"] for r in exported(tmp_path, "counting", "attempts")]) == (75, ["interrupted"]), (
        out
    )


def test_a_bug_is_met_once_a_run_where_results_are_damaged_too(tmp_path: Path) -> None:
    words = (STUDY, "executor=inline", "sweep.factor=[1]", "extra=[{factor: 2, end: failed}]")
    assert run_farm(tmp_path, *words).code == 1
    ledger = tmp_path / "results" / "counting"
    (rows,) = ledger.glob("trials/*/done/rows.parquet")
    rows.write_bytes(rows.read_bytes()[:-9])
    for table in (ledger / "export").glob("*.*"):
        table.unlink()
    done = run_farm(tmp_path, *words, "retry=failed")
    assert ("set aside" in done.err, done.code) == (True, 1), done.out
    hows = [r["how"] for r in exported(tmp_path / "results", "counting", "attempts")]
    assert sorted(hows) == ["completed", "completed", "failed", "failed"]


def test_a_work_that_fails_is_told_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import counting

    monkeypatch.setattr(counting, "work", lambda parameters: parameters["nope"], raising=False)
    with pytest.raises(ModuleError, match=r"counting\.work: KeyError: 'nope'"):
        study.run(configuration.load([STUDY, "executor=inline", f"results={tmp_path}"]), [])
    assert list(scan.attempt_records(tmp_path / "counting")) == []


def test_keep_weights_says_what_had_finished_without_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"study={COUNTING}", "executor=inline", f"results={tmp_path}", "sweep.factor=[1,2]"]
    study.run(configuration.load([*words, "seeds=[0]"]), words)
    assert "weights" not in capsys.readouterr().err
    study.run(configuration.load([*words, "seeds=[0,1]", "keep=weights"]), words)
    assert "keep=weights: 2 trials finished before, and hold no weights" in (capsys.readouterr().err)
    study.run(configuration.load([*words, "seeds=[1]", "keep=weights"]), words)
    assert "weights" not in capsys.readouterr().err
