"""Whole runs with a real Ray: the same command resumes, nothing is lost and nothing runs twice."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest
from commands import COUNTING, ROOT, Finished, command, environment, exported, run_farm, wait_for

from farm.ledger import scan
from farm.site import drain_patience

pytestmark = pytest.mark.ray
STUDY = f"study={COUNTING}"
EXACT = ("trial_id", "epoch", "train_loss", "value", "config_factor", "config_seed")


def rows(results: Path) -> list[tuple[Any, ...]]:
    """The columns of the row table that no clock or host produced, sorted."""
    return sorted(tuple(row[c] for c in EXACT) for row in exported(results, "counting", "epochs"))


def start(directory: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a run as the leader of a process group of its own."""
    return subprocess.Popen(
        [*command(STUDY, *arguments), f"results={directory / 'results'}"],
        cwd=directory,
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def highest_commit(ledger: Path) -> int:
    """Highest epoch that any trial of a ledger has committed."""
    return max((p.epoch for p in scan.scan(ledger).values()), default=0)


def running(ledger: Path) -> int:
    """Attempts that have begun and not ended."""
    return sum(r["how"] == "lost" for r in scan.attempt_records(ledger))


SLOW = ("sweep.factor=[1,2,3,4]", "trial.epochs=25", "trial.seconds=0.15", "commit_seconds=0", "cpus=2")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, ...]]:
    """Rows of the slow study when nothing interrupts it."""
    directory = tmp_path_factory.mktemp("undisturbed")
    run = start(directory, *SLOW)
    assert run.communicate(timeout=240)[0].count("completed") == 4
    return rows(directory / "results")


def test_a_study_runs_once_and_then_not_again(farm: Callable[..., Finished], tmp_path: Path) -> None:
    first = farm(STUDY, "cpus=2")
    assert (first.code, first.err) == (0, "")
    again = farm(STUDY, "cpus=2")
    assert (again.code, "counting: 2 done" in again.out) == (0, True)
    assert again.cpu_seconds < 3
    more = farm(STUDY, "cpus=2", "sweep.factor=[1,2,3]")
    assert (more.code, "counting: 2 done, 1 new" in more.out) == (0, True)
    assert [r["attempt"] for r in exported(tmp_path / "results", "counting", "attempts")] == [1, 1, 1]


def test_a_ray_without_a_place_for_its_files_is_one_line(farm: Callable[..., Finished]) -> None:
    done = farm(STUDY, "cpus=1", variables={"TMPDIR": "/proc/x"})
    assert (done.code, done.err) == (3, "farm: Ray: /proc/x cannot be made; $TMPDIR says where its files go\n")


def test_a_temporary_directory_too_deep_for_sockets_is_told(farm: Callable[..., Finished], tmp_path: Path) -> None:
    (deep := tmp_path / ("x" * 90)).mkdir()
    done = farm(STUDY, "cpus=1", variables={"TMPDIR": str(deep)})
    assert (done.code, "; TMPDIR=/tmp is short enough\n" in done.err, "Traceback" in done.err) == (3, True, False)


def test_a_killed_driver_loses_and_repeats_nothing(tmp_path: Path, undisturbed: list[tuple[Any, ...]]) -> None:
    chance, kills = random.Random(int(os.environ.get("FARM_TEST_SEED", "4"))), 0
    for _ in range(4):
        run = start(tmp_path, *SLOW)
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.communicate(timeout=chance.uniform(3, 10))
            continue
        os.killpg(run.pid, signal.SIGKILL)
        run.communicate()
        kills += 1
    run = start(tmp_path, *SLOW)
    run.communicate(timeout=240)
    assert (run.returncode, kills >= 2) == (0, True)
    assert rows(tmp_path / "results") == undisturbed


def test_a_killed_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    smoke = ("problem=4", "profile=smoke", "trial.epochs=3", "trial.train_examples=512", "sweep.M=[1]")
    smoke = (*smoke, "extra=[]", "commit_seconds=0")
    calm, stormy = tmp_path / "calm", tmp_path / "stormy"
    for directory in (calm, stormy):
        directory.mkdir()
    whole = run_farm(calm, *smoke, "executor=inline")
    for epoch in (1, 2):
        run = subprocess.Popen(
            [*command(*smoke), f"results={stormy / 'results'}"],
            env=environment(),
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_for(lambda epoch=epoch: highest_commit(stormy / "results" / "problem4") >= epoch)
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    again = run_farm(stormy, *smoke)
    assert (whole.code, again.code) == (0, 0)
    nothing = run_farm(stormy, *smoke)
    assert (nothing.code, "problem4: 1 done" in nothing.out, nothing.cpu_seconds < 3) == (0, True, True)
    weights = [exported(d / "results", "problem4", "trials")[0]["weights_sha256"] for d in (calm, stormy)]
    assert weights[0] == weights[1]
    epochs = [r["epoch"] for r in exported(stormy / "results", "problem4", "epochs")]
    assert epochs == [1, 2, 3]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGHUP, 75), (signal.SIGINT, 130)]
)
def test_a_signal_drains_and_the_same_command_goes_on(tmp_path: Path, number: signal.Signals, code: int) -> None:
    arguments = (STUDY, "sweep.factor=[1,2,3]", "trial.epochs=60", "trial.seconds=0.1", "cpus=2")
    run = start(tmp_path, *arguments[1:])
    wait_for(lambda: running(tmp_path / "results" / "counting") == 2)
    os.killpg(run.pid, number)  # as `timeout` and a terminal do
    out, _ = run.communicate(timeout=60)
    assert (run.returncode, "Traceback" in out) == (code, False)
    ends = [r["how"] for r in exported(tmp_path / "results", "counting", "attempts")]
    assert ends == ["drained", "drained"]
    assert sum(line.startswith("drained ") for line in out.splitlines()) == 2, out
    states = sorted(r["state"] for r in exported(tmp_path / "results", "counting", "plan"))
    assert states == ["new", "partial", "partial"]
    if number == signal.SIGTERM:
        assert run_farm(tmp_path, *arguments).code == 0
        assert len(rows(tmp_path / "results")) == 180


def test_a_drain_may_take_longer_than_rays_own_handler_would_let_it(tmp_path: Path) -> None:
    """Ray's C++ takes SIGTERM too, and aborts the process 3 s after it."""
    words = ("sweep.factor=[1]", "trial.epochs=9", "trial.seconds=5", "drain_seconds=60", "commit_seconds=0", "cpus=2")
    run = start(tmp_path, *words)
    ledger = tmp_path / "results" / "counting"
    wait_for(lambda: highest_commit(ledger))
    begun, sent = highest_commit(ledger), time.monotonic()
    run.send_signal(signal.SIGTERM)
    said, _ = run.communicate(timeout=60)
    assert (run.returncode, "SIGTERM received" in said) == (75, False), said
    assert time.monotonic() - sent > 3
    assert highest_commit(ledger) == begun + 1


@pytest.mark.parametrize("executor", ["ray", "inline"])
def test_a_drain_in_the_last_epoch_of_the_last_trial_is_the_end_of_the_study(tmp_path: Path, executor: str) -> None:
    words = ("sweep.factor=[1]", "trial.epochs=2", "trial.seconds=3", "drain_seconds=60", "commit_seconds=0")
    run = start(tmp_path, *words, f"executor={executor}")
    wait_for(lambda: highest_commit(tmp_path / "results" / "counting") == 1)
    run.send_signal(signal.SIGTERM)
    said, _ = run.communicate(timeout=60)
    assert run.returncode == 0, said
    assert [r["how"] for r in exported(tmp_path / "results", "counting", "attempts")] == ["completed"]


@pytest.mark.parametrize(
    ("in_job", "signal_seconds", "drain_seconds", "waits"),
    [
        (False, 60, 0.0, 60.0),
        (False, 180, 165.0, 225.0),
        (True, 60, 5.0, 32.5),
        (True, 60, 30.0, 45.0),
        (True, 300, 5.0, 65.0),
        (True, 300, 150.0, 210.0),
        (True, 180, 165.0, 225.0),  # in a job of one's own, whose end the farm does not know
    ],
)
def test_a_drain_waits_for_its_trials_as_long_as_it_lets_them_go_on(
    monkeypatch: pytest.MonkeyPatch, in_job: bool, signal_seconds: int, drain_seconds: float, waits: float
) -> None:
    """A trial of problem 2 took 104 s to end its repetition; one that never ends is not waited for, nor Slurm's end."""
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    if in_job:
        monkeypatch.setenv("SLURM_JOB_ID", "1")
    from farm import launch
    from farm.view import View

    now = 1000.0
    monkeypatch.setattr(launch.time, "monotonic", lambda: now)
    view = mock.create_autospec(View, instance=True, frozen_running=1)
    patience = drain_patience(drain_seconds, signal_seconds)
    stopper = launch._DrainStopper(view, lambda: True, own=False, patience=patience)
    answers = []
    for after in (0.0, waits - 1, waits + 1):
        now = 1000.0 + after
        answers.append(stopper.stop_all())
    assert answers == [False, False, True]


SIGNALLED_AS_RAY_TAKES_IT = """
import importlib, os, sys
from farm.private import use_own_token
use_own_token()  # Ray reads its mode as it is imported
number, place, *words = sys.argv[1:]
module, _, name = place.rpartition(".")
module = importlib.import_module(module)
take = getattr(module, name)
def taken(*arguments):
    found = take(*arguments)
    print("asked for the signal", flush=True)
    os.kill(os.getpid(), int(number))
    return found
setattr(module, name, taken)
from farm.cli import main
sys.exit(main(["run", *words]))
"""


@pytest.mark.parametrize(
    ("number", "taking"),
    [
        (signal.SIGTERM, "ray._private.utils.set_sigterm_handler"),
        (signal.SIGUSR1, "ray.tune.tune._setup_signal_catching"),
    ],
)
def test_a_signal_just_after_ray_would_take_it_for_itself_drains(
    tmp_path: Path, number: signal.Signals, taking: str
) -> None:
    words = [sys.executable, "-c", SIGNALLED_AS_RAY_TAKES_IT, str(int(number)), taking, STUDY, "cpus=2"]
    variables = environment() | {"PYTHONPATH": str(ROOT)}
    results = tmp_path / "results"
    done = subprocess.run([*words, f"results={results}"], env=variables, capture_output=True, text=True, timeout=120)
    assert (done.returncode, "asked for the signal" in done.stdout) == (75, True), done.stdout + done.stderr
    assert "drained" not in done.stdout, "no attempt was begun"
    answered = "stopping: no trial begins; the run ends as soon as Ray has started" in done.stderr
    assert answered == (number == signal.SIGTERM), "the other one comes when Ray has started"
    assert [r["state"] for r in exported(results, "counting", "plan")] == ["new", "new"]
    assert run_farm(tmp_path, STUDY, "executor=inline").code == 0
    assert len(rows(results)) == 6


def test_a_drain_does_not_reach_for_a_trials_loaders(tmp_path: Path) -> None:
    ledger = tmp_path / "results" / "problem2"
    words = ("problem=2", "profile=smoke", "sweep.mode=[dataparallel]", "sweep.gpus=[1]", "trial.train_examples=2048")
    words = (*words, "trial.first_batch=16", "trial.last_batch=64", "commit_seconds=0", "drain_seconds=0")
    run = subprocess.Popen(
        [*command(*words), f"results={tmp_path / 'results'}"], env=environment(), stdout=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    wait_for(lambda: highest_commit(ledger) >= 1)
    os.killpg(run.pid, signal.SIGTERM)
    assert run.wait(timeout=60) == 75
    assert [r["how"] for r in scan.attempt_records(ledger)] == ["drained"]


def test_the_second_driver_is_told_who_is_first(tmp_path: Path) -> None:
    first = start(tmp_path, "trial.epochs=200", "trial.seconds=0.1", "executor=inline")
    wait_for(lambda: running(tmp_path / "results" / "counting"))
    second = run_farm(tmp_path, STUDY)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    assert second.code == 3
    assert str(first.pid) in second.err
    assert socket.gethostname() in second.err


def test_a_driver_that_lost_its_lock_leaves_its_successors_run_alone(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """It is suspended, and again while its own request to drain is there: all the time that the second runs."""
    ledger = tmp_path / "results" / "counting"
    words = ("trial.epochs=5", "trial.seconds=1", "drain_seconds=60", "commit_seconds=0", "cpus=2")
    first = start(tmp_path, *words, "executor=inline")
    request.addfinalizer(first.kill)  # a suspended process would stay where an assertion fails
    wait_for(lambda: highest_commit(ledger))
    first.send_signal(signal.SIGSTOP)
    (held,) = (ledger / "lock").glob("*.json")  # as if its holder were on another host
    held.write_text(json.dumps(json.loads(held.read_text()) | {"boot_id": "elsewhere", "heartbeat_seconds": 0.1}))
    second = start(tmp_path, *words)
    wait_for(lambda: running(ledger) == 3)
    first.send_signal(signal.SIGCONT)
    wait_for(lambda: list(ledger.glob("drain-*")) or first.poll() is not None)
    first.send_signal(signal.SIGSTOP)
    said, _ = second.communicate(timeout=120)
    assert second.returncode == 0, said
    written = times_of_writing(ledger)
    first.send_signal(signal.SIGCONT)
    said, _ = first.communicate(timeout=60)
    assert ("another driver has taken this ledger over" in said, first.returncode in (0, 75)) == (True, True), said
    assert times_of_writing(ledger) == written
    assert list(ledger.glob("drain-*")) == []
    keys = [(r["config_factor"], r["epoch"]) for r in exported(tmp_path / "results", "counting", "epochs")]
    assert sorted(keys) == [(factor, epoch) for factor in (1, 2) for epoch in range(1, 6)]


def times_of_writing(ledger: Path) -> dict[Path, int]:
    """When each file was written that a run makes of a ledger."""
    return {p: p.stat().st_mtime_ns for name in ("export", "report") for p in (ledger / name).rglob("*.*")}


def test_each_trial_gets_exactly_its_gpus(farm: Callable[..., Finished], tmp_path: Path) -> None:
    axes = ("sweep.gpus=[1,2,4,0.5,8]", "sweep.factor=[1]", "resources.gpu=gpus", "resources.cpu=0.5")
    done = farm(STUDY, "gpus=4", "cpus=2", *axes)
    assert (done.code, "8 GPUs on one node; the largest node has 2 CPUs and 4 GPUs" in done.out) == (1, True)
    plan = {r["trial_id"]: r for r in exported(tmp_path / "results", "counting", "plan")}
    assert sorted((r["gpus"], r["state"]) for r in plan.values()) == [
        (0.5, "done"), (1, "done"), (2, "done"), (4, "done"), (8, "unschedulable"),
    ]  # fmt: skip
    for attempt in exported(tmp_path / "results", "counting", "attempts"):
        ids = attempt["gpu_ids"].split(",")
        assert len(set(ids)) == math.ceil(plan[attempt["trial_id"]]["gpus"])
        assert set(ids) <= {"0", "1", "2", "3"}
        assert attempt["visible_devices"] == attempt["gpu_ids"]


def test_more_gpus_than_are_visible_are_refused(tmp_path: Path) -> None:
    done = run_farm(tmp_path, STUDY, "gpus=2", variables=environment() | {"CUDA_VISIBLE_DEVICES": ""})
    assert (done.code, "CUDA_VISIBLE_DEVICES" in done.err, "Traceback" in done.err) == (3, True, False), done.err


def test_trials_that_need_more_than_half_the_gpus_take_turns(farm: Callable[..., Finished], tmp_path: Path) -> None:
    axes = ("sweep.factor=[1,2,3]", "trial.seconds=0.3", "resources.gpu=3", "resources.cpu=0.5")
    assert farm(STUDY, "gpus=4", "cpus=2", *axes).code == 0
    attempts = exported(tmp_path / "results", "counting", "attempts")
    spans = sorted((r["started_at"], r["ended_at"]) for r in attempts)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))


@pytest.mark.parametrize(("cpus", "first"), [(2, {12, 4}), (1, {2, 3})])
def test_the_longest_begin_first_where_several_run_at_once(
    farm: Callable[..., Finished], tmp_path: Path, cpus: int, first: set[int]
) -> None:
    assert farm(STUDY, f"cpus={cpus}", "sweep.epochs=[2,3,4,12]", "sweep.factor=[1]", "trial.seconds=0.1").code == 0
    begun = sorted(exported(tmp_path / "results", "counting", "attempts"), key=lambda r: str(r["started_at"]))
    epochs = {r["trial_id"]: r["config_epochs"] for r in exported(tmp_path / "results", "counting", "trials")}
    assert {epochs[r["trial_id"]] for r in begun[:2]} == first


def test_a_killed_trial_is_tried_again(farm: Callable[..., Finished], tmp_path: Path) -> None:
    done = farm(STUDY, "cpus=2", "trial.end=killed", "trial.end_epoch=3", "trial.once=true", "commit_seconds=0")
    assert done.code == 0
    assert [r["epoch"] for r in exported(tmp_path / "results", "counting", "epochs")] == [1, 2, 3] * 2
    attempts = exported(tmp_path / "results", "counting", "attempts")
    assert sorted({r["how"] for r in attempts}) == ["completed", "killed"]
    assert "SIGKILL" in next(r["error"] for r in attempts if r["how"] == "killed")


def test_a_trial_that_waits_for_its_next_attempt_is_not_called_running(farm: Callable[..., Finished]) -> None:
    words = (
        "trial.end=killed",
        "trial.end_epoch=3",
        "trial.once=true",
        "trial.seconds=0.3",
        "commit_seconds=0",
        "back_off_seconds=0",
        "view=plain",
    )
    done = farm(STUDY, "cpus=1", "sweep.factor=[1,2,3]", *words)
    assert done.code == 0, done.out
    running = [int(number) for number in re.findall(r"done, (\d+) running", done.out)]
    assert len(running) >= 3
    assert max(running) <= 1, done.out


def test_a_killed_trial_that_is_not_tried_again_is_named_with_its_log(farm: Callable[..., Finished]) -> None:
    done = farm(STUDY, "cpus=2", "trial.end=killed", "sweep.factor=[1]", "retries=0")
    assert done.code == 1
    assert "killed by SIGKILL" in done.out
    assert "attempts/1/log.txt)" in done.out


def test_a_trial_whose_node_is_taken_away_goes_on_at_once_and_no_retry_is_used_up(tmp_path: Path) -> None:
    words = ("sweep.factor=[1]", "trial.epochs=40", "trial.seconds=0.1", "cpus=2", "commit_seconds=0", "retries=0")
    run = start(tmp_path, *words)
    ledger = tmp_path / "results" / "counting"
    for times in (1, 2):  # Tune's own bound is one above `retries`
        wait_for(lambda: len(list(scan.attempt_records(ledger))) == times and highest_commit(ledger) >= 3 * times)  # noqa: B023
        newest = max(scan.attempt_records(ledger), key=lambda record: record["started_at"])
        os.kill(newest["pid"], signal.SIGTERM)  # as a scheduler does to all processes of a node
    out, _ = run.communicate(timeout=120)
    assert run.returncode == 0, out
    attempts = exported(tmp_path / "results", "counting", "attempts")
    assert [(r["how"], r["failure"]) for r in attempts] == [("drained", "preempted")] * 2 + [("completed", "")]
    assert attempts[1]["from_epoch"] >= 2
    assert [r["epoch"] for r in exported(tmp_path / "results", "counting", "epochs")] == list(range(1, 41))


def test_a_trial_that_fails_is_told_and_not_tried_again(farm: Callable[..., Finished], tmp_path: Path) -> None:
    failing = (STUDY, "cpus=2", "trial.end=failed", "sweep.factor=[1]")
    done = farm(*failing)
    assert (done.code, "ValueError: a bug in the trial" in done.out, "log.txt" in done.out) == (1, True, True)
    assert (farm(*failing).code, len(exported(tmp_path / "results", "counting", "attempts"))) == (1, 1)
    again = farm(*failing, "retry=failed")
    assert (again.code, len(exported(tmp_path / "results", "counting", "attempts"))) == (1, 2)
    assert "failed        seed=0: ValueError: a bug in the trial (log: " in again.out
    assert [r["state"] for r in exported(tmp_path / "results", "counting", "plan")] == ["failed"]


def test_a_machine_that_goes_on_failing_ends_the_retries(farm: Callable[..., Finished], tmp_path: Path) -> None:
    done = farm(STUDY, "cpus=2", "trial.end=storage", "sweep.factor=[1]", "retries=1")
    assert (done.code, "No space left on device" in done.out) == (1, True)
    assert [r["how"] for r in exported(tmp_path / "results", "counting", "attempts")] == ["interrupted"] * 2


def test_a_study_of_ones_own_needs_one_yaml_and_one_module(farm: Callable[..., Finished], tmp_path: Path) -> None:
    for name in ("counting.py", "counting.yaml"):
        shutil.copy(COUNTING.with_name(name), tmp_path / name)
    done = farm("study=counting.yaml", "cpus=2")
    assert (done.code, done.err) == (0, "")


def test_a_plan_runs_nothing(farm: Callable[..., Finished], tmp_path: Path) -> None:
    plan = farm(STUDY, "--dry-run", "--json")
    assert json.loads(plan.out)["counts"] == {"done": 0, "partial": 0, "new": 2, "failed": 0, "unschedulable": 0}
    assert not (tmp_path / "results").exists()


def test_a_run_whose_own_ray_has_died_ends_and_says_so(tmp_path: Path) -> None:
    run = start(tmp_path, "trial.epochs=600", "trial.seconds=0.2", "cpus=2", "commit_seconds=0")
    wait_for(lambda: highest_commit(tmp_path / "results" / "counting") >= 2)
    (raylet,) = [c for c in psutil.Process(run.pid).children() if "raylet/raylet" in " ".join(c.cmdline())]
    raylet.kill()
    out, _ = run.communicate(timeout=110)
    assert (run.returncode, "the Ray of this run has died" in out) == (1, True), out
    states = [r["state"] for r in exported(tmp_path / "results", "counting", "plan")]
    assert "partial" in states
    assert set(states) <= {"partial", "new"}
