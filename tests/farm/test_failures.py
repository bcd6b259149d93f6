"""Each kind of failure is recognised and has its own action."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from attempts import attempt, directory, request
from commands import COUNTING, ROOT, Finished, environment, exported

from farm import failures
from farm.attempt import Request
from farm.errors import CHILD_FAULT
from farm.failures import POLICIES, Infrastructure, kind_of
from farm.forkclient import ForkClient, remove_files
from farm.killed import record_killed
from farm.ledger import scan
from farm.ledger.store import Attempt
from farm.slurm import node
from trials import process
from trials.data import DataError
from trials.ranks import RankFailed, RankOutOfMemory, Told
from trials.spec import Spec

STUDY = f"study={COUNTING}"


def memory_error() -> MemoryError:
    try:
        bytearray(2**62)
    except MemoryError as error:
        return error
    raise AssertionError


def loader_error(how: str) -> RuntimeError:
    """What torch raises when a loader's process is gone."""
    error = RuntimeError("DataLoader worker (pid(s) 4711) exited unexpectedly")
    error.__cause__ = RuntimeError(f"DataLoader worker (pid 4711) {how}")
    return error


def in_a_rank(error: BaseException) -> RankFailed:
    return RankFailed("rank 1: its traceback", Told.of(error))


class DistanceError(Exception):
    """A user's own, and none of torch.distributed."""


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 EiB."), "cuda_oom"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "cuda_oom"),
        (RuntimeError("CUDA error: out of memory"), "cuda_oom"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "cuda_oom"),
        (RankFailed("rank 0: torch.OutOfMemoryError: CUDA out of memory\n…\nValueError: no smaller batch"), "bug"),
        (RankOutOfMemory("rank 1: CUDA out of memory", 3), "cuda_oom"),
        (memory_error(), "host_oom"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "host_oom"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"), "host_oom"),
        (torch.distributed.DistBackendError("NCCL error in: ProcessGroupNCCL.cpp:2384"), "nccl"),
        (RankFailed("rank 0: RuntimeError: NCCL error: unhandled system error"), "nccl"),
        (RankFailed("rank 1 ended with exit code -9", exit_code=-9), "killed"),
        (RankFailed("rank 1 ended with exit code -6", exit_code=-6, backend="nccl"), "nccl"),
        (RankFailed("rank 1 ended with exit code -6", exit_code=-6), "bug"),
        (RankFailed("rank 1 ended with exit code -11", exit_code=-11, backend="nccl"), "bug"),
        (in_a_rank(OSError(errno.ENOSPC, "No space left on device")), "storage"),
        (in_a_rank(memory_error()), "host_oom"),
        (in_a_rank(torch.distributed.DistNetworkError("Connection reset by peer")), "nccl"),
        (in_a_rank(loader_error("is killed by signal: Killed. ")), "killed"),
        (in_a_rank(ValueError("a bug")), "bug"),
        (DistanceError("points are too far apart"), "bug"),
        (loader_error("is killed by signal: Killed. "), "killed"),
        (loader_error("is killed by signal: Bus error. "), "killed"),
        (loader_error("is killed by signal: Segmentation fault. "), "bug"),
        (loader_error("exited unexpectedly with exit code 3. Details are lost"), "bug"),
        (Infrastructure("CUDA is absent"), "device"),
        (RuntimeError("CUDA error: unspecified launch failure"), "device"),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), "device"),
        (OSError(errno.ENOSPC, "No space left on device"), "storage"),
        (OSError(errno.ESTALE, "Stale file handle"), "storage"),
        (OSError(errno.EREMOTEIO, "Remote I/O error"), "storage"),
        (DataError("CIFAR-10: there is no folder /data"), "storage"),
        (in_a_rank(DataError("CIFAR-10: there is no folder /data")), "storage"),
        (OSError(errno.EMFILE, "Too many open files"), "resources"),
        (RuntimeError("can't start new thread"), "resources"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "resources"),
        (RuntimeError("unable to write to file </torch_7_8_9>: No space left on device (28)"), "resources"),
        (RuntimeError("unable to allocate shared memory(shm) for file </torch_7>: Success (0)"), "resources"),
        (RuntimeError("No CUDA GPUs are available"), "device"),
        (RuntimeError("CUDA error: initialization error"), "device"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"), "device"),
        (OSError(errno.ESHUTDOWN, "Cannot send after transport endpoint shutdown"), "storage"),
        (PermissionError(errno.EACCES, "Permission denied", "/somewhere/else"), "bug"),
        (FileNotFoundError(errno.ENOENT, "No such file"), "bug"),
        (RuntimeError("CUDA error: device-side assert triggered"), "bug"),
        (RuntimeError("size mismatch"), "bug"),
        (SystemExit(3), "bug"),
    ],
)
def test_each_kind_is_recognised(error: BaseException, kind: str) -> None:
    assert kind_of(error) == kind


class NoRoom(torch.utils.data.Dataset[int]):
    """Cannot be read but for a full disk."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/dev/shm/x")


def test_a_full_disk_under_a_loader_is_a_failure_of_storage() -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        next(iter(torch.utils.data.DataLoader(NoRoom(), num_workers=1)))
    assert caught.value.errno is None  # all that torch passes on is text
    assert kind_of(caught.value) == "storage"
    assert kind_of(in_a_rank(caught.value)) == "storage"


def test_the_table_of_failures_names_them_all() -> None:
    rows = [line.split("|")[1].strip() for line in (failures.__doc__ or "").splitlines() if line.startswith("| ")]
    assert set(rows) - {"kind", "---"} == set(POLICIES)


@pytest.mark.parametrize(
    ("end", "how", "failure", "state"),
    [
        ("oom", "oom", "cuda_oom", "done"),
        ("diverged", "diverged", "divergence", "done"),
        ("failed", "failed", "bug", "failed"),
        ("storage", "interrupted", "storage", "partial"),
        ("nccl", "interrupted", "nccl", "partial"),
        ("host_oom", "interrupted", "host_oom", "partial"),
    ],
)
def test_each_kind_is_recorded_and_has_its_action(tmp_path: Path, end: str, how: str, failure: str, state: str) -> None:
    wanted = request(tmp_path, end=end)
    assert attempt(wanted).failure == failure
    (record,) = scan.attempt_records(tmp_path)
    assert (record["how"], record["failure"]) == (how, failure)
    assert scan.progress(directory(wanted)).state == state


def test_out_of_memory_beside_another_process_is_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "memory_of_others", lambda *devices: (20 * 2**30, 80 * 2**30))
    wanted = request(tmp_path, end="oom")
    end = attempt(wanted)
    assert (end.how, end.failure, end.error_class) == ("interrupted", "device", "MemoryTaken")
    assert "other processes hold 20.0 of the GPU's 80.0 GiB" in end.error
    assert scan.progress(directory(wanted)).state == "partial"


@pytest.mark.parametrize(
    ("end", "tries"), [("nccl", 5), ("storage", 5), ("host_oom", 2), ("failed", 1), ("oom", 1), ("diverged", 1)]
)
def test_a_run_tries_again_as_often_as_the_kind_deserves(
    farm: Callable[..., Finished], tmp_path: Path, end: str, tries: int
) -> None:
    words = ("executor=inline", "sweep.factor=[1]", "retries=4", "back_off_seconds=0")
    done = farm(STUDY, *words, f"trial.end={end}")
    assert len(exported(tmp_path / "results", "counting", "attempts")) == tries
    assert done.code == (0 if end in ("oom", "diverged") else 1)
    assert ("(log: " in done.out) == (done.code == 1)


def claimed(wanted: Request) -> Attempt:
    return Attempt.claim(Path(wanted.ledger), Spec(**wanted.spec), wanted.info)


@pytest.fixture
def wanted(tmp_path: Path) -> Request:
    return dataclasses.replace(request(tmp_path), info={"driver": "1-a"})


def test_pauses_grow_fourfold_up_to_a_minute(wanted: Request) -> None:
    pauses = []
    for _ in range(6):
        pauses.append(failures.back_off(directory(wanted), "1-a", 1.0))
        claimed(wanted).end("interrupted", {"failure": "nccl"})
    assert pauses == [0, 1, 4, 16, 60, 60]


def test_another_run_does_not_wait_for_the_failures_of_the_last(wanted: Request) -> None:
    claimed(wanted).end("interrupted", {"failure": "nccl"})
    assert failures.back_off(directory(wanted), "2-b", 1.0) == 0


def test_an_attempt_without_an_end_is_lost_and_named_with_its_log(wanted: Request) -> None:
    lost = claimed(wanted)
    (lost.path / "log.txt").write_text("what it said")
    (record,) = scan.attempt_records(Path(wanted.ledger))
    assert (record["how"], record["failure"]) == ("lost", "lost")
    found = scan.progress(directory(wanted))
    assert ("attempt 1 recorded no end" in found.error, found.log) == (True, str(lost.path / "log.txt"))


def test_the_end_of_a_killed_process_says_who_killed_it(wanted: Request) -> None:
    ends = [record_killed(wanted, claimed(wanted).number, -signal.SIGKILL, by) for by in (False, True)]
    assert [e["failure"] for e in ends] == ["killed", "host_oom"]
    assert "ran out of memory" in ends[1]["error"]
    assert not failures.is_hopeless(directory(wanted), "1-a")
    record_killed(wanted, claimed(wanted).number, -signal.SIGKILL, True)
    assert failures.is_hopeless(directory(wanted), "1-a")


@pytest.mark.parametrize("counted", [True, False])
def test_memory_is_spoken_of_only_where_the_kernel_may_have_killed(
    wanted: Request, counted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda path: "nr_free_pages 7\noom_kill 3\n" if counted else "")
    said = record_killed(wanted, 0, -signal.SIGKILL)["error"]
    assert said.startswith("the trial's process was killed by SIGKILL")
    assert ("memory" in said) != counted
    assert failures.kernel_kills() == (3 if counted else 0)


def test_a_stop_that_the_driver_did_not_ask_for_is_a_preemption(wanted: Request) -> None:
    assert attempt(wanted, stop_at=1).failure == "preempted"
    Path(wanted.ledger, "drain-1-a").touch()
    assert attempt(wanted, stop_at=2).failure == ""


@pytest.mark.parametrize(
    ("code", "state"),
    [
        (-signal.SIGSEGV, "failed"),
        (-signal.SIGABRT, "failed"),
        (3, "failed"),
        (0, "failed"),
        (-signal.SIGBUS, "new"),
        (-signal.SIGTERM, "new"),
        (CHILD_FAULT, "new"),
    ],
)
def test_a_trial_that_crashed_has_failed_and_one_that_was_killed_has_not(
    wanted: Request, code: int, state: str
) -> None:
    end = record_killed(wanted, claimed(wanted).number, code)
    assert (end["how"], end["failure"]) == (("failed", "bug") if state == "failed" else ("killed", "killed"))
    assert scan.progress(directory(wanted)).state == state


def test_a_process_that_ends_before_the_trial_begins_is_no_bug(wanted: Request) -> None:
    assert record_killed(wanted, 0, 1)["how"] == "killed"


def test_the_farms_own_failure_in_an_attempts_process_is_told_apart() -> None:
    run = f"test-failures-{os.getpid()}"
    client = ForkClient(run)
    client._send({"request": {"no": "request"}})
    assert client.messages(60) == [{"exit": CHILD_FAULT}]
    client.close()
    remove_files(run)


@pytest.mark.ray
def test_a_crash_is_not_tried_again(farm: Callable[..., Finished], tmp_path: Path) -> None:
    done = farm(STUDY, "cpus=1", "sweep.factor=[1]", "trial.end=crashed", "back_off_seconds=0")
    (record,) = exported(tmp_path / "results", "counting", "attempts")
    assert (done.code, record["how"], record["failure"]) == (1, "failed", "bug")
    assert "killed by SIGSEGV" in done.out


@pytest.mark.parametrize(
    "error",
    [
        RankFailed("rank 1 ended with exit code -9", exit_code=-9),
        loader_error("is killed by signal: Killed. "),
        in_a_rank(loader_error("is killed by signal: Killed. ")),
    ],
)
def test_a_rank_or_a_loader_that_the_kernel_killed_was_short_of_memory(
    error: Exception, kernel: list[int], tmp_path: Path
) -> None:
    failures.attempt_begins(str(tmp_path))
    assert kind_of(error) == "killed"
    kernel[0] += 1
    assert kind_of(error) == "host_oom"
    assert kind_of(loader_error("is killed by signal: Bus error. ")) == "killed"
    failures.attempt_begins(str(tmp_path))
    assert kind_of(error) == "killed"


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many processes the kernel has killed for want of memory, to be raised by the test."""
    kills = [3]
    monkeypatch.setattr(failures, "kernel_kills", lambda: kills[0])
    monkeypatch.setattr(failures, "_begun", None)
    return kills


def test_a_ledger_that_may_not_be_written_is_a_failure_of_storage(kernel: list[int], tmp_path: Path) -> None:
    failures.attempt_begins(str(tmp_path))
    denied = (errno.EACCES, "Permission denied")
    assert kind_of(PermissionError(*denied, str(tmp_path / "trials" / "x"))) == "storage"
    assert kind_of(PermissionError(*denied, "/elsewhere")) == "bug"
    assert kind_of(PermissionError(*denied)) == "bug"


@pytest.mark.parametrize("executor", ["inline", pytest.param("ray", marks=pytest.mark.ray)])
def test_a_rank_that_the_kernel_killed_is_tried_again_once(
    executor: str, farm: Callable[..., Finished], small_memory: Path, tmp_path: Path
) -> None:
    words = (f"executor={executor}", "cpus=1", "sweep.factor=[1]", "retries=3", "back_off_seconds=0")
    farm(STUDY, *words, "trial.end=rank_host_oom", variables={"FARM_TEST_CGROUP": str(small_memory)})
    attempts = exported(tmp_path / "results", "counting", "attempts")
    assert [r["failure"] for r in attempts] == ["host_oom"] * 2


@pytest.mark.ray
def test_a_ray_of_our_own_has_no_memory_monitor_that_kills_actors() -> None:
    code = (
        "import glob, os, pathlib, ray; from farm import launch; launch.connect(None, 1, 0, pathlib.Path.cwd()); "
        "session = ray._private.worker.global_worker.node.get_session_dir_path(); launch.disconnect(); "
        "print(pathlib.Path(session, 'logs', 'raylet.out').read_text())"
    )
    variables = {**environment(), "RAY_memory_monitor_refresh_ms": "250"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=variables, capture_output=True, text=True)
    assert "MemoryMonitor disabled" in done.stdout, done.stderr


def test_rays_on_slurm_have_no_memory_monitor_either() -> None:
    assert node._variables()["RAY_memory_monitor_refresh_ms"] == "0"


@pytest.fixture
def small_memory() -> Iterator[Path]:
    """A memory cgroup of 64 MiB, where this process may make one."""
    group = Path(f"/sys/fs/cgroup/memory/farm-test-{os.getpid()}")
    limit = "memory.limit_in_bytes"
    if not group.parent.is_dir():
        group, limit = Path(f"/sys/fs/cgroup/farm-test-{os.getpid()}"), "memory.max"
    try:
        group.mkdir()
        (group / limit).write_text(str(64 * 2**20))
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made here: {error}")
    yield group
    group.rmdir()


def test_the_kernels_kills_for_want_of_memory_are_counted(small_memory: Path) -> None:
    before = failures.kernel_kills()
    code = f"open('{small_memory}/cgroup.procs', 'w').write('0'); b'x' * 2**28"
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert failures.kernel_kills() > before
