"""The batch script of `farm submit` in real bash, from first line to last, with a fake Slurm, Ray and driver."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import ROOT

from farm.slurm.script import BatchJob, render

PYTHON = f"""#!/bin/bash
case $* in
    *farm.slurm.requeue*) exec {shlex.quote(sys.executable)} "$@" ;;
    *farm.slurm.node*)
        shared=$5
        echo 127.0.0.1:1 > "$shared/address"
        touch "$shared/ready-host"
        until [[ -e $shared/stop || -e $FAKE/head-dies ]]; do sleep 0.05; done ;;
    farm/run.py*) . "$FAKE/driver" ;;
esac
"""
DRAINING = """
trap 'touch "$FAKE/draining"' USR1
touch "$FAKE/runs"
until [[ -e $FAKE/draining ]]; do sleep 0.05; done
sleep 1.5
[[ -e ${RAY_AUTH_TOKEN_PATH%/token}/stop ]] || touch "$FAKE/drained"
exit 75
"""
JOB = BatchJob(
    name="farm-x", arguments=(), ledger="", code=str(ROOT), python="", nodes=1, gpus=0, cpus=1, memory_gib=1, time="10"
)  # fmt: skip
Start = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start the script with a driver of these lines of bash."""
    commands = {
        "python": PYTHON,
        "srun": '#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n',
        "scontrol": '#!/bin/bash\n[[ $1 == show ]] && echo host && exit\n'
        'echo "$@" >> "$FAKE/requeued"\n[[ ! -e $FAKE/slurm-refuses ]]\n',
    }  # fmt: skip
    for name, text in commands.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    job = dataclasses.replace(JOB, ledger=str(tmp_path / "ledger"), python=str(tmp_path / "python"))
    (tmp_path / "job.sh").write_text(render(job))
    variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "FAKE": str(tmp_path)}
    variables |= {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "host"}
    begun = []

    def run(driver: str) -> subprocess.Popen[str]:
        (tmp_path / "driver").write_text(driver)
        command = ["bash", str(tmp_path / "job.sh")]
        begun.append(
            subprocess.Popen(
                command, env=os.environ | variables, text=True, stdout=subprocess.PIPE, start_new_session=True
            )
        )
        return begun[-1]

    yield run
    for job_process in begun:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job_process.pid, signal.SIGKILL)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_second_signal_does_not_end_a_drain(start: Start, tmp_path: Path, number: signal.Signals) -> None:
    job = start(DRAINING)
    wait_for(tmp_path / "runs")
    job.send_signal(number)
    wait_for(tmp_path / "draining")
    job.send_signal(number)
    said, _ = job.communicate(timeout=30)
    assert (tmp_path / "drained").exists(), "Ray ended under the driver"
    assert "the run ended with 75, the job with 75" in said
    assert job.returncode == 75


@pytest.mark.parametrize("code", [0, 1, 2, 3])
def test_the_job_ends_as_its_driver_does(start: Start, tmp_path: Path, code: int) -> None:
    job = start(f"exit {code}")
    job.communicate(timeout=60)
    assert (job.returncode, (tmp_path / "requeued").exists()) == (code, False)


def test_a_head_that_dies_as_the_driver_connects_requeues_the_job(start: Start, tmp_path: Path) -> None:
    job = start('touch "$FAKE/head-dies"; exit 3')
    said, _ = job.communicate(timeout=60)
    assert (job.returncode, (tmp_path / "requeued").read_text()) == (75, "requeue 7\n"), said
    assert "goes back into the queue" in said
    assert "did NOT" not in said


def test_a_run_that_got_on_and_has_trials_left_requeues_the_job(start: Start, tmp_path: Path) -> None:
    export, commit = tmp_path / "ledger" / "export", tmp_path / "ledger/trials/a-0123456789ab/attempts/1/commit-4"
    export.mkdir(parents=True)
    pq.write_table(pa.table({"trial_id": ["a", "b"], "state": ["done", "partial"]}), export / "plan.parquet")
    job = start(f"mkdir -p {shlex.quote(str(commit))}; exit 1")
    said, _ = job.communicate(timeout=60)
    assert (job.returncode, (tmp_path / "requeued").read_text()) == (75, "requeue 7\n"), said


def test_a_job_that_slurm_does_not_take_back_says_so(start: Start, tmp_path: Path) -> None:
    (tmp_path / "slurm-refuses").touch()
    job = start("exit 75")
    said, _ = job.communicate(timeout=60)
    assert (job.returncode, "Slurm did NOT take it back" in said) == (75, True), said
