"""What can go wrong with an attempt, how each is recognised, and what is done about it.

| kind | recognised by | what follows |
| --- | --- | --- |
| cuda_oom | the message of CUDA or of one of its libraries | a result: rows so far, the peak, never tried again |
| divergence | the trial says so: its loss is not finite | a result, never tried again |
| bug | any other error of the trial, a crash (SIGSEGV), an exit code | `failed`; `retry=failed` runs it again |
| host_oom | MemoryError, or SIGKILL (or a rank's) while the kernel's count of them rose | tried again once a run |
| killed | SIGKILL or another signal that nobody here sent to the trial, a rank or a loader | tried again |
| nccl | errors of torch.distributed, NCCL in the message, SIGABRT of a rank that uses it | tried again |
| device | a GPU that is absent, of another model, that failed, or whose memory others hold | tried again |
| resources | the node is out of threads, open files or shared memory | tried again once a run |
| storage | errors of a file system: full, read-only, stale, quota, no permission, data gone | tried again |
| lost | no end was recorded: the node or all of the farm's processes on it died | goes on from the last commit |
| preempted | a request to end that is not the driver's: the node is being taken away | goes on elsewhere at once |

"Tried again": at most `retries=` times in a run, after a pause of `back_off_seconds=`, four times as long each time.
What a run leaves undone, the same command tries again, but for `bug`.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

from farm.errors import CHILD_FAULT, STORAGE_ERRORS
from farm.ledger.scan import attempt_directories, attempt_record
from trials.ranks import RankFailed, Told, is_out_of_memory

LONGEST_BACK_OFF_SECONDS = 60.0
FAULTS_OF_THE_MACHINE = ("interrupted", "killed", "lost")
"""Ends of attempts after which the trial is tried again."""
DEVICE_FAULTS = (
    "unspecified launch failure",
    "uncorrectable",
    "busy or unavailable",
    "launch timed out",
    "no longer on",
)
"""What follows "CUDA error:" where the GPU and not the program is at fault."""
NO_DEVICE = (
    "No CUDA GPUs are available",
    "CUDA error: initialization error",
    "CUDA unknown error",
    "CUDA driver initialization failed",
    "system not yet initialized",
    "CUBLAS_STATUS_NOT_INITIALIZED",
)
"""What CUDA says of a GPU that cannot be begun with."""
EXHAUSTED = (
    "can't start new thread",
    "Too many open files",
    "Resource temporarily unavailable",
    "unable to allocate shared memory",
    "unable to write to file </torch_",
)
"""What Python and torch say when the node has no more of something that all its processes share."""
NO_MEMORY_MONITOR = {"RAY_memory_monitor_refresh_ms": "0"}
"""For each Ray that the farm starts. Its monitor is on by default: where the node's memory is nearly full, it kills an
actor of its choice, and with it the attempt that this holds, which then has no end. The kernel kills the process that
uses most, and its count of such kills tells us."""
CRASHES = (signal.SIGSEGV, signal.SIGILL, signal.SIGFPE, signal.SIGABRT)
"""Signals that a program brings on itself. SIGBUS is none: a file that is mapped from NFS gives it too."""


@dataclass(frozen=True)
class Policy:
    """How an attempt with such a failure ends, and how often a run tries again (None: `retries=` alone decides)."""

    how: str
    most_retries: int | None = None


POLICIES = {
    "cuda_oom": Policy("oom", 0),
    "divergence": Policy("diverged", 0),
    "bug": Policy("failed", 0),
    "host_oom": Policy("interrupted", 1),
    "killed": Policy("killed"),
    "nccl": Policy("interrupted"),
    "device": Policy("interrupted"),
    "resources": Policy("interrupted", 1),
    "storage": Policy("interrupted"),
    "lost": Policy("lost"),
    "preempted": Policy("drained"),
}


class Infrastructure(Exception):
    """A failure of the machine and not of the trial: a device or a dataset that is not the one that was planned."""


def kind_of(error: BaseException) -> str:
    """Which of `POLICIES` an exception falls under."""
    if is_out_of_memory(error):
        return "cuda_oom"
    if isinstance(error, RankFailed) and error.exit_code is not None:
        # NCCL's watchdog ends a rank so when a collective fails or does not return in time.
        aborted = error.backend == "nccl" and error.exit_code == -signal.SIGABRT
        return "nccl" if aborted else kind_of_exit(error.exit_code, _kernel_has_killed())
    told = (error.told if isinstance(error, RankFailed) else None) or Told.of(error)
    text = told.text
    if "builtins.MemoryError" in told.classes or "DefaultCPUAllocator" in text or "Cannot allocate memory" in text:
        return "host_oom"
    if isinstance(error, Infrastructure) or "trials.ranks.MemoryTaken" in told.classes:
        return "device"
    if any(words in text for words in EXHAUSTED):
        return "resources"
    if "trials.data.DataError" in told.classes:  # the driver has read this dataset before it began
        return "storage"
    if told.errno in STORAGE_ERRORS or (isinstance(error, PermissionError) and _is_in_ledger(error.filename)):
        return "storage"
    if "torch.distributed.DistError" in told.classes or "NCCL" in text:
        return "nccl"
    if any(words in text for words in NO_DEVICE) or (
        "CUDA error:" in text and any(fault in text for fault in DEVICE_FAULTS)
    ):
        return "device"
    return _kind_of_loader(f"{text} {told.cause}") if "DataLoader worker (pid" in text else "bug"


def kind_of_exit(code: int, by_kernel: bool) -> str:
    """Which of `POLICIES` the end of a process without an exception falls under; `code` is negative for a signal.

    `by_kernel`: on this node the kernel has killed for want of memory meanwhile.
    """
    if by_kernel and code == -signal.SIGKILL:
        return "host_oom"
    return "bug" if (code >= 0 and code != CHILD_FAULT) or -code in CRASHES else "killed"


def _kind_of_loader(text: str) -> str:
    """The same of a loader: torch says in words how it went, and only in the error's cause."""
    code = 1 if "with exit code" in text else -signal.SIGKILL
    code = next((-n for n in signal.Signals if f"by signal: {signal.strsignal(n)}" in text), code)
    return kind_of_exit(code, _kernel_has_killed())


@dataclass(frozen=True)
class _Begun:
    """What the failures of the attempt in this process are held against."""

    ledger: Path
    kernel_kills: int


_begun: _Begun | None = None


def attempt_begins(ledger: str) -> None:
    """To be called in an attempt's process before it: what the kernel kills from now on may be the attempt's."""
    global _begun
    _begun = _Begun(Path(ledger), kernel_kills())


def _kernel_has_killed() -> bool:
    return _begun is not None and kernel_kills() > _begun.kernel_kills


def _is_in_ledger(filename: object) -> bool:
    return _begun is not None and Path(str(filename)).is_relative_to(_begun.ledger)


def kernel_kills() -> int:
    """How many processes the kernel has killed on this node for want of memory, since boot; 0 where it does not say."""
    return _kernels_count() or 0


def kernel_says() -> bool:
    """Whether the kernel counts what it kills for want of memory, so that what it has not counted it has not killed."""
    return _kernels_count() is not None


def _kernels_count() -> int | None:
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)


def recent(trial: Path, driver: object) -> list[str]:
    """Kinds of the failures of the machine that a trial's newest attempts under one driver fell to, newest first."""
    kinds: list[str] = []
    for attempt in reversed(attempt_directories(trial)):
        record = attempt_record(attempt)
        if record.get("driver") != driver or record["how"] not in FAULTS_OF_THE_MACHINE:
            break
        kinds.append(str(record.get("failure") or record["how"]))
    return kinds


def back_off(trial: Path, driver: object, first_seconds: float) -> float:
    """Seconds to wait before an attempt that follows failures of the machine in this run, growing fourfold."""
    failures = len(recent(trial, driver))
    return min(first_seconds * 4 ** (failures - 1), LONGEST_BACK_OFF_SECONDS) if failures else 0.0


def is_hopeless(trial: Path, driver: object) -> bool:
    """Whether the newest failure has met this trial as often in this run as its kind is tried again, and once more."""
    kinds = recent(trial, driver)
    policy = POLICIES.get(kinds[0]) if kinds else None
    return policy is not None and policy.most_retries is not None and kinds.count(kinds[0]) > policy.most_retries
