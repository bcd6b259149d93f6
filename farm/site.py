"""What a site is: its Slurm, its node types, its image. farm/conf/site/*.yaml fills these keys in.

Paths may hold $USER and other variables of the submitting user's environment. Imports neither torch nor Ray.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from farm.errors import UsageError
from trials.spec import parameter

NO_LOG = "the farm says where a job's log is"
NO_VARIABLES = "a job starts without the variables of your shell; slurm.modules=['export NAME=value'] sets one"
FARMS_OWN = {
    "output": NO_LOG,
    "error": NO_LOG,
    "export": NO_VARIABLES,
    "export-file": NO_VARIABLES,
    "wrap": "the farm's own script is the job",
    "array": "one job runs the whole study",
    "job-name": "the farm knows its jobs by their names",
    "signal": "slurm.signal_seconds= says how long before its end a job drains",
}
"""Options of sbatch that the batch scripts rely on, and why another's would break them."""
SHORT = {"-o": "output", "-e": "error", "-a": "array", "-J": "job-name"}
GRACE_SECONDS = 60.0
"""How long a drain waits for its trials beyond the `drain_seconds` that they may take to finish an epoch."""


@dataclass
class NodeType:
    """One kind of node at a site."""

    cpus: int = parameter(1, "CPUs that a job may have of such a node", unit="CPUs", minimum=1)
    gpus: int = parameter(0, "GPUs of such a node", unit="GPUs", minimum=0)
    memory_gib: int = parameter(4, "memory that a job may have of such a node", unit="GiB", minimum=1)


@dataclass
class Slurm:
    """How `farm submit` and `farm up` use a site's Slurm and image."""

    account: str = parameter("", "account to charge")
    account_required: bool = parameter(False, "the site takes no job without an account")
    partition: str = parameter("", "partition")
    qos: str = parameter("", "quality of service")
    gpu_type: str = parameter("", "kind of GPU, in the site's own word: rtx8000, h200")
    gpu_models: dict[str, str] = field(
        default_factory=dict, metadata={"help": "for timed trials: each gpu_type's model, as nvidia-smi names it"}
    )
    gres: str = parameter("gpu:{gpu_type}:{gpus}", "how the site writes GPUs of a node")
    constraint: str = parameter("", "node features to ask for; {gpu_type} is replaced")
    cpus_per_node: int | None = parameter(None, "CPUs of a node to ask for (else its share)", unit="CPUs", minimum=1)
    memory_gib: int | None = parameter(None, "memory of a node to ask for (else its share)", unit="GiB", minimum=1)
    options: list[str] = field(default_factory=list, metadata={"help": "further sbatch options, as --name=value"})
    modules: list[str] = field(default_factory=list, metadata={"help": "shell lines before anything: module load …"})
    image: str | None = parameter(None, "the .sif; without one the checkout's own Python runs")
    container: str = parameter("apptainer", "the command that runs it", choices=("apptainer", "singularity"))
    container_options: list[str] = field(default_factory=list, metadata={"help": "further options of its `exec`"})
    binds: list[str] = field(default_factory=list, metadata={"help": "directories that the image shall see"})
    code: str = parameter("/opt/farm", "the farm inside the image; a path on shared storage is bound and used instead")
    python: str = parameter("/opt/venv/bin/python", "Python inside the image")
    temporary: str = parameter("/tmp", "node-local directory for Ray's sockets and logs; keep it short")
    signal_seconds: int = parameter(180, "the run drains so long before its limit", unit="s", minimum=60)
    logical_gpus: bool = parameter(False, "GPUs are counted only: a test cluster without any")
    max_workers: int = parameter(16, "elastic workers: jobs at a time", unit="jobs", minimum=1)
    idle_minutes: float = parameter(5.0, "elastic workers: one that is idle so long ends", unit="min", minimum=0)
    head_cpus: int = parameter(2, "CPUs of the job of `farm up`", unit="CPUs", minimum=1)
    head_memory_gib: int = parameter(8, "memory of the job of `farm up`", unit="GiB", minimum=2)
    head_options: list[str] = field(default_factory=list, metadata={"help": "its further sbatch options"})
    node_types: dict[str, NodeType] = field(default_factory=dict, metadata={"help": "kinds of nodes, by name"})


def expand(text: str) -> str:
    """The text with $VARIABLES and ~ of this process replaced; raises `UsageError` where one is not set."""
    expanded = os.path.expanduser(os.path.expandvars(text))
    if "$" in expanded:
        names = list(dict.fromkeys(re.findall(r"\$(?:\w+|\{[^}]*\})", expanded)))
        unset = f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} not set here"
        raise UsageError(f"{text}: {unset if names else 'a $ in it names no variable'}")
    return expanded


def absolute(key: str, text: str) -> str:
    """`expand`; raises `UsageError` also where the path is relative, as a job runs in another directory."""
    path = expand(text)
    if not path.startswith("/"):
        raise UsageError(f"{key}: {text}: an absolute path is expected")
    return path


def account(slurm: Slurm) -> str:
    """The account to charge. Raises `UsageError` without one where the site requires it."""
    if slurm.account_required and not slurm.account:
        raise UsageError("slurm.account: this site takes no job without one; slurm.account=ACCOUNT")
    return slurm.account


def check_options(key: str, options: list[str]) -> None:
    """Raise `UsageError` for an option that the scripts need as they set it, also short or abbreviated."""
    for option in options:
        word = option.partition("=")[0]
        long = word if word.startswith("--") else f"--{SHORT.get(word[:2], word)}"
        if name := next((n for n in FARMS_OWN if f"--{n}".startswith(long)), None):
            raise UsageError(f"{key}: {option}: --{name} is the farm's own: {FARMS_OWN[name]}")


def share(slurm: Slurm, gpus: int) -> NodeType:
    """CPUs and memory that belong to `gpus` GPUs of a node: the part of the smallest type that has them.

    Without GPUs it is all of a node that has none, or what belongs to one GPU of a node that has some.
    Raises `UsageError` where no node type has so many.
    """
    types = sorted(slurm.node_types.values(), key=lambda t: (t.gpus, t.cpus))
    fitting = [t for t in types if t.gpus >= gpus]
    if types and not fitting:
        raise UsageError(f"gpus_per_node={gpus}: the largest node of this site has {types[-1].gpus} GPUs")
    whole = fitting[0] if fitting else NodeType(cpus=max(gpus, 1), gpus=gpus, memory_gib=8 * max(gpus, 1))
    part = max(gpus, 1) / whole.gpus if whole.gpus else 1.0
    return NodeType(
        cpus=slurm.cpus_per_node or max(int(whole.cpus * part), 1),
        gpus=gpus,
        memory_gib=slurm.memory_gib or max(int(whole.memory_gib * part), 1),
    )


def check_time(time: str, signal_seconds: int) -> None:
    """Raise `UsageError` unless the walltime is one that Slurm reads and that leaves time to run before the drain."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d\d))?(?::(\d\d))?", time)
    if match is None or (time.isdigit() and len(time) > 3):  # YAML turns 30:00 without quotes into 1800
        raise UsageError(f"time={time}: minutes, HH:MM:SS or DAYS-HH:MM:SS is expected (in YAML, in quotes)")
    days, *parts = (int(p) if p else None for p in match.groups())
    first, second, third = parts
    if days is not None or third is not None:  # DAYS-HH[:MM[:SS]] or HH:MM:SS
        seconds = (days or 0) * 86400 + (first or 0) * 3600 + (second or 0) * 60 + (third or 0)
    else:  # MM[:SS]
        seconds = (first or 0) * 60 + (second or 0)
    if seconds < signal_seconds + 60:
        raise UsageError(f"time={time}: the run would drain {signal_seconds} s before its end, at once")


def check_drain(drain_seconds: float, signal_seconds: int) -> None:
    """Raise `UsageError` unless a drain leaves half of its time before the job's end for all else.

    A trial that hangs is waited for a while longer (`drain_patience`); then come export and requeue.
    """
    if drain_seconds > signal_seconds / 2:
        raise UsageError(
            f"drain_seconds={drain_seconds:g}: more than half of slurm.signal_seconds={signal_seconds}, which a job "
            "has from its drain to its end"
        )


def drain_patience(drain_seconds: float, signal_seconds: int) -> float:
    """Seconds that a drain waits for its trials, of which one may hang: `drain_seconds` and a minute.

    In a job it is at most half of what is then left, so that the run's end and the requeue come before Slurm's.
    """
    in_job = "SLURM_JOB_ID" in os.environ and drain_seconds <= signal_seconds / 2  # else it is none of the farm's own
    left = signal_seconds - drain_seconds if in_job else math.inf
    return drain_seconds + min(GRACE_SECONDS, left / 2)


def head_patience(signal_seconds: int) -> int:
    """Seconds that the head of `farm up` waits for its studies to drain; the rest of the job's time is for the requeue.

    It is longer than any `drain_patience`, which is (d + s) / 2 at most, and `check_drain` has d <= s / 2.
    """
    return max(signal_seconds - 30, math.ceil(0.75 * signal_seconds) + 5)


def image_path(slurm: Slurm) -> Path | None:
    """The .sif of the site, expanded."""
    return Path(expand(slurm.image)).absolute() if slurm.image else None


def no_image(path: Path) -> str:
    """Why there is no .sif at a path; empty where there is one."""
    if path.is_file():
        return ""
    return f"{path} is a directory, and no .sif" if path.is_dir() else f"{path} is not there"
