"""What `farm status` says of a ledger, beside a run and without one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from attempts import attempt, directory, lose, request
from commands import COUNTING, command, environment
from rich.console import Console

from farm import config as configuration
from farm import status as looking
from farm import status_view, study
from farm.cli import main
from farm.ledger.lock import SILENT_SECONDS, LedgerLock
from farm.ledger.store import now
from farm.plan import Node
from farm.recall import following, last_grid

RUN = f"{os.getpid()}-x"
STUDY = [f"study={COUNTING}", "executor=inline", "trial.epochs=10"]


def look(results: Path, *more: str, later: float = 0.0) -> looking.Status:
    given = {word.partition("=")[0]: word for word in (*STUDY, f"results={results}", *more)}
    config = configuration.load([*given.values()])
    return looking.status(config, datetime.now(UTC) + timedelta(seconds=later))


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "counting"


@pytest.fixture
def half_done(ledger: Path) -> Iterator[Path]:
    """factor=1 has committed 5 epochs in 10 s under a driver that lives; factor=2 is new."""
    wanted = request(ledger, factor=1, epochs=10)
    attempt(wanted, stop_at=4)
    drive(lose(wanted, 1, seconds=10.0))
    with LedgerLock(ledger, run=RUN):
        yield ledger


def drive(path: Path) -> None:
    """Have an attempt be of a driver that this process is."""
    begun = {"driver": RUN, "host": "n1", "gpu_ids": "0,3", "started_at": now()}
    (path / "attempt.json").write_text(json.dumps(begun))


def test_an_empty_ledger_is_all_new(tmp_path: Path) -> None:
    found = look(tmp_path)
    assert (found.counts, found.driver, found.seconds_left) == ({"new": 2}, None, None)


def test_a_running_trial_is_told_with_its_place_and_pace(half_done: Path) -> None:
    found = look(half_done.parent, "resources.gpu=2", "gpus=4", later=10)
    first = found.trials[0]
    assert (first.state, first.epoch, first.epochs, first.host, first.gpu_ids) == ("running", 5, 10, "n1", "0,3")
    assert first.seconds_left == pytest.approx(10, abs=1)  # 10 epochs at 2 s each, less the 10 s that have passed
    assert found.gpus_held == 2
    assert found.gpu_hours_spent == pytest.approx(2 * 10 / 3600, rel=0.1)
    assert found.driver is not None
    assert found.driver.pid == os.getpid()


@pytest.mark.parametrize(("commit_seconds", "without"), [(0, ()), (3600, ("from_epoch", "earlier_seconds"))])
def test_a_resumed_trial_is_told_by_the_pace_of_what_it_has_done_itself(
    ledger: Path, commit_seconds: float, without: tuple[str, ...]
) -> None:
    """Its second commit takes away what it went on from. One of an older farm does not say where that was."""
    attempt(request(ledger, factor=1, epochs=20), stop_at=4)
    wanted = request(ledger, commit_seconds, factor=1, epochs=20)
    attempt(wanted, stop_at=9)
    drive(lose(wanted, 2, 10.0, *without))
    with LedgerLock(ledger, run=RUN):
        found = look(ledger.parent, "trial.epochs=20", later=10)
    assert found.trials[0].seconds_left == pytest.approx(20, abs=1)  # 10 epochs, at 2 s each of the last five


def test_a_dead_drivers_trial_is_not_running(half_done: Path) -> None:
    path = next((half_done / "lock").glob("*.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pid": 2**22 + 1}))
    found = look(half_done.parent)
    assert (found.driver, found.trials[0].state) == (None, "partial")


@pytest.mark.parametrize(
    ("run", "state"),
    [(RUN, "running"), (None, "running"), ("", "partial"), ("1-y", "partial")],
    ids=["its", "unknown", "none", "another"],  # RUN has this process's pid, and pytest-xdist's workers have their own
)
def test_a_trial_of_an_earlier_driver_with_the_same_pid_is_not_running(
    half_done: Path, run: str | None, state: str
) -> None:
    """In a container every driver may have the same pid. The lock of an older farm does not say which run it is of."""
    path = next((half_done / "lock").glob("*.json"))
    content = json.loads(path.read_text()) | {"run": run}
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    assert look(half_done.parent).trials[0].state == state


def test_a_driver_elsewhere_lives_while_its_heartbeat_is_fresh(half_done: Path) -> None:
    path = next((half_done / "lock").glob("*.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"boot_id": "another", "host": "n9"}))
    assert look(half_done.parent).driver is not None
    assert look(half_done.parent, later=SILENT_SECONDS + 5).driver is None


def left(*trials: tuple[str, float | None]) -> list[looking.TrialStatus]:
    return [looking.TrialStatus(str(i), "", state, "", 0, 0, 0, s) for i, (state, s) in enumerate(trials)]


def test_waiting_trials_follow_on_whichever_slot_is_free_first() -> None:
    assert looking._wall_clock(left(("running", 10), ("running", 4), ("new", 5), ("new", 5))) == 14
    assert looking._wall_clock(left(("running", 10), ("new", None))) is None
    assert looking._wall_clock(left(("new", 5))) is None


def test_a_failure_is_shown_with_its_log(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [f"study={COUNTING}", f"results={ledger.parent}", "executor=inline", "trial.end=failed"]
    main(["run", *arguments])
    end = next(ledger.glob("trials/*/attempts/1/end.json"))
    end.write_text(json.dumps(json.loads(end.read_text()) | {"log_path": "/somewhere/log.txt"}))
    capsys.readouterr()
    assert main(["status", f"study={COUNTING}", f"results={ledger.parent}"]) == 1
    out = capsys.readouterr().out
    assert "counting: 2 failed" in out
    assert "ValueError: a bug in the trial (log: /somewhere/log.txt)" in out


def test_shown_in_place_failures_come_before_the_long_table(ledger: Path) -> None:
    attempt(request(ledger, epochs=10, end="failed"))
    console = Console(width=200, record=True)
    console.print(status_view._whole(look(ledger.parent, "trial.end=failed"), "farm run", in_place=True))
    text = console.export_text()
    assert text.index("a bug in the trial") < text.index("epoch")


def test_watching_prints_no_json(tmp_path: Path) -> None:
    assert main(["status", f"study={COUNTING}", f"results={tmp_path}", "--watch", "--json"]) == 2


def test_the_grid_is_that_of_the_last_command(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = [f"study={COUNTING}", f"results={ledger.parent}"]
    main(["run", *place, "executor=inline", "sweep.factor=[5,6,7]"])
    capsys.readouterr()
    assert main(["status", *place, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (found["counts"], found["trials"][0]["label"]) == ({"done": 3}, "factor=5")
    assert "sweep.factor=[5,6,7]" in found["command"]
    main(["status", *place, "sweep.factor=[8]", "--json"])
    other = json.loads(capsys.readouterr().out)
    assert (other["counts"], other["finished_outside"]) == ({"new": 1}, 3)
    main(["status", *place, "sweep.factor=[8]"])
    assert "outside this grid: 3 finished trials; farm status with the study's name alone" in capsys.readouterr().out


def test_what_the_study_named_alone_leaves_out_is_not_said_to_be_in_it(
    ledger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = [f"study={COUNTING}", f"results={ledger.parent}"]
    for words in (["trial.epochs=4", "sweep.factor=[3]"], ["sweep.factor=[5]"]):
        main(["run", *place, "executor=inline", *words])
    capsys.readouterr()
    main(["status", *place])
    told = capsys.readouterr().out
    assert "outside this grid: 1 finished trial; export/trials.parquet has" in told
    assert "name alone" not in told


@pytest.mark.parametrize("too_much", ["resources.gpu=8", "max_gpu_hours=0 resources.gpu=8", "sweep.factor=[-1]"])
def test_a_grid_of_which_nothing_can_run_is_not_the_last_one(tmp_path: Path, too_much: str) -> None:
    place = [f"study={COUNTING}", f"results={tmp_path}"]
    main(["run", *place, "executor=inline", "sweep.factor=[5,6,7]"])
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.suffix in (".yaml", ".parquet")}
    assert main(["run", *place, "executor=inline", "device=auto", "gpus=0", *too_much.split()]) > 0
    assert {p: p.read_bytes() for p in before} == before
    assert looking.status(last_grid(place)[0]).counts == {"done": 3}


def test_nor_is_one_of_which_a_cluster_holds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "_execute_with_ray", lambda *arguments: [Node(cpu=2, gpu=0)])
    place = [f"study={COUNTING}", f"results={tmp_path}"]
    main(["run", *place, "executor=inline", "sweep.factor=[5]"])
    assert main(["run", *place, "ray_address=10.0.0.1:6379", "device=auto", "resources.gpu=8"]) == 1
    assert looking.status(last_grid(place)[0]).counts == {"done": 1}


def test_before_any_other_it_leaves_no_trace(tmp_path: Path) -> None:
    place = [f"study={COUNTING}", f"results={tmp_path}"]
    assert main(["run", *place, "executor=inline", "device=auto", "gpus=0", "resources.gpu=8"]) == 1
    assert not [p for p in tmp_path.rglob("*") if p.suffix in (".yaml", ".parquet")]


def test_what_an_earlier_command_finished_is_in_the_study_named_alone(tmp_path: Path) -> None:
    place = [f"study={COUNTING}", f"results={tmp_path}"]
    for factor in (5, 6):
        main(["run", *place, "executor=inline", f"sweep.factor=[{factor}]"])
    found = looking.status(last_grid(place)[0])
    assert (found.counts, found.finished_outside) == ({"done": 2}, 0)


def test_gpu_hours_of_all_attempts_in_the_ledger_are_spent(tmp_path: Path) -> None:
    for factor in (1, 9):
        wanted = request(tmp_path / "counting", factor=factor)
        attempt(wanted)
        first = directory(wanted) / "attempts" / "1"
        for name, more in (("attempt", {"gpu_ids": "0,1", "visible_devices": "0,1"}), ("end", {"seconds": 1800.0})):
            path = first / f"{name}.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | more))
    found = look(tmp_path, "trial.epochs=3", "sweep.factor=[1]", "resources.gpu=2", "gpus=2")
    assert (found.counts, found.gpu_hours_spent) == ({"done": 1}, 2.0)
    assert (found.trials[0].epoch, found.trials[0].epochs) == (3, 3)


@pytest.mark.parametrize("done", [False, True])
def test_gpu_hours_of_a_lost_attempt_stay_spent_when_the_trial_goes_on(tmp_path: Path, done: bool) -> None:
    wanted = request(tmp_path / "counting", factor=1, epochs=20)
    attempt(wanted, stop_at=4)
    lose(wanted, 1, 3600.0)
    attempt(wanted, stop_at=None if done else 9)
    found = look(tmp_path, "trial.epochs=20", "sweep.factor=[1]", "resources.gpu=2", "gpus=2")
    assert found.gpu_hours_spent == pytest.approx(2.0, abs=0.1)


def test_this_machines_size_is_held_against_no_trial(tmp_path: Path) -> None:
    assert look(tmp_path, "resources.gpu=64", "cpus=1", "gpus=0").counts == {"new": 2}


def test_watching_goes_on_until_the_run_has_ended(tmp_path: Path) -> None:
    slow = [f"study={COUNTING}", f"results={tmp_path}", "executor=inline", "trial.epochs=12", "trial.seconds=0.15"]
    quiet: dict[str, Any] = {"env": environment(), "cwd": tmp_path, "text": True, "stdout": subprocess.PIPE}
    run = subprocess.Popen(command(*slow, "commit_seconds=0"), **quiet)
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("counting/trials/*/attempts/1/attempt.json")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        watching = command(*slow[:2], "--watch", verb="status")
        environment_here = environment() | {"PYTHONPATH": str(COUNTING.parent.parent.parent)}
        done = subprocess.run(watching, **(quiet | {"env": environment_here}), timeout=60)
        lines = done.stdout.splitlines()
        assert lines[0].startswith("counting: 1 running, 1 new")
        assert lines[-1] == "counting: 2 done"
    finally:
        run.send_signal(signal.SIGKILL)
        run.communicate()


def test_a_watch_that_begins_before_its_run_shows_that_runs_grid(tmp_path: Path) -> None:
    place = [f"study={COUNTING}", f"results={tmp_path}"]
    variables = environment() | {"PYTHONPATH": str(COUNTING.parent.parent.parent)}
    quiet: dict[str, Any] = {"env": variables, "cwd": tmp_path, "text": True, "stdout": subprocess.PIPE}
    with subprocess.Popen(command(*place, "--watch", verb="status"), **quiet) as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline() == "counting: 2 new\n"
        words = ["executor=inline", "sweep.factor=[5,6,7]", "trial.epochs=12", "trial.seconds=0.15"]
        subprocess.run(command(*place, *words), **quiet, timeout=60, check=True)
        lines = watching.communicate(timeout=60)[0].splitlines()
    assert lines[0].startswith("counting: 1 running, 2 new")
    assert (lines[-1], watching.returncode) == ("counting: 3 done", 0)


def test_a_watch_keeps_to_the_grid_that_its_own_words_name(ledger: Path) -> None:
    place = [f"study={COUNTING}", f"results={ledger.parent}"]
    alone, named = following(place), following([*place, "sweep.factor=[8]"])
    assert [look()[0].sweep["factor"] for look in (alone, named)] == [[1, 2], [8]]
    main(["run", *place, "executor=inline", "sweep.factor=[5,6,7]"])
    assert [look()[0].sweep["factor"] for look in (alone, named)] == [[5, 6, 7], [8]]
    assert "sweep.factor=[5,6,7]" in alone()[1]


def test_a_watch_without_a_run_ends_after_a_while(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = status_view.watch(lambda: (look(tmp_path), ""), seconds=0.01, patience=0.05)
    assert found.counts == {"new": 2}
    shown = capsys.readouterr()
    assert (shown.out, "no run is at work" in shown.err) == ("counting: 2 new\n", True)


def test_gpus_of_this_machine_are_those_of_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "nvidia-smi"
    fake.write_text("#!/bin/sh\nprintf '0, 97, 40960, 143771\\n1, 0, 4, 143771\\n'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert [(g.index, g.utilisation, g.memory_used) for g in looking.gpu_use()] == [(0, 97, 40960), (1, 0, 4)]
    fake.write_text("#!/bin/sh\nexit 9\n")
    assert looking.gpu_use() == ()


def test_before_anything_has_finished_what_waits_is_foretold_by_what_runs(half_done: Path) -> None:
    found = look(half_done.parent, "resources.gpu=1", "gpus=1")
    assert found.trials[1].state == "new"
    assert found.trials[1].seconds_left == pytest.approx(20, abs=0.1)  # 10 epochs at the other's 2 s each
    assert found.seconds_left == pytest.approx(40, abs=1)
    assert found.gpu_hours_left == pytest.approx(40 / 3600, rel=0.05)
    other = look(half_done.parent, "resources.gpu=factor", "gpus=2")  # on one GPU and on two
    assert [t.seconds_left is None for t in other.trials] == [False, True]
    path = next((half_done / "lock").glob("*.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pid": 2**22 + 1}))
    assert look(half_done.parent, "resources.gpu=1", "gpus=1").gpu_hours_left is None


def test_of_a_key_that_an_older_farm_took_twice_the_last_counts(tmp_path: Path) -> None:
    place = [f"study={COUNTING}", f"results={tmp_path}"]
    (tmp_path / "counting").mkdir()
    (tmp_path / "counting" / "study.yaml").write_text("# farm run study=counting trial.epochs=3 trial.epochs=5\n")
    assert last_grid(place)[0].parameters["epochs"] == 5
