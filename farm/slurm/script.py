"""Batch scripts, as a pure function of what a job is: an allocation, a head, a worker."""

from __future__ import annotations

import functools
import shlex
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from farm.errors import UsageError
from farm.site import head_patience

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class SlurmJob:
    """What every job of the farm's says to Slurm and to the image. Paths are absolute."""

    name: str
    code: str
    python: str
    gpus: int
    cpus: int
    memory_gib: int
    time: str
    commit: str = "unknown"
    temporary: str = "/tmp"
    signal_seconds: int = 180
    logical_gpus: bool = False
    account: str = ""
    partition: str = ""
    qos: str = ""
    constraint: str = ""
    gres: str = ""
    extra: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    image: str | None = None
    container: str = "apptainer"
    container_options: tuple[str, ...] = ()
    binds: tuple[str, ...] = ()

    def _options(self, nodes: int, log: str, *flags: str) -> list[str]:
        """What stands after #SBATCH, quoted as sbatch reads it (quotes group, as in a shell)."""
        named = {
            "job-name": self.name,
            "account": self.account,
            "partition": self.partition,
            "qos": self.qos,
            "constraint": self.constraint,
            "gres": self.gres if self.gpus else "",
            "nodes": str(nodes),
            "ntasks-per-node": "1",
            "cpus-per-task": str(self.cpus),
            "mem": f"{self.memory_gib}G",
            "time": self.time,
            "signal": f"B:USR1@{self.signal_seconds}",
            "output": log,
            "export": "NIL",
        }
        lines = [f"--{name}={shlex.quote(value)}" for name, value in named.items() if value]
        return [*lines, *flags, *map(_option, self.extra)]


@dataclass(frozen=True, kw_only=True)
class BatchJob(SlurmJob):
    """One allocation that runs one study. `arguments` are those of `farm/run.py`, `chosen` the ids in its `trial=`."""

    arguments: tuple[str, ...]
    ledger: str
    nodes: int
    chosen: tuple[str, ...] = ()
    start_seconds: int = 600

    @property
    def options(self) -> list[str]:
        """What stands after #SBATCH."""
        return self._options(self.nodes, f"{_percent(self.ledger)}/slurm/%j.log", "--open-mode=append", "--requeue")


@dataclass(frozen=True, kw_only=True)
class NodeJob(SlurmJob):
    """The job of one Ray node of a farm with elastic workers: its head, or a worker of one kind.

    `shared` is the farm's private directory, `logs` the directory of its logs. `nice` lets larger workers go first.
    """

    role: str
    cluster: str
    kind: str
    shared: str
    logs: str
    nice: int = 0

    @property
    def options(self) -> list[str]:
        """What stands after #SBATCH. A worker that is preempted ends: Ray asks for another one."""
        flags = ["--open-mode=append", "--requeue" if self.role == "head" else "--no-requeue"]
        log = "head.log" if self.role == "head" else "%j.log"
        return self._options(1, f"{_percent(self.logs)}/{log}", *flags, *([f"--nice={self.nice}"] if self.nice else []))

    @property
    def patience_seconds(self) -> int:
        """How long the head waits for its studies to drain."""
        return head_patience(self.signal_seconds)


def render(job: BatchJob | NodeJob) -> str:
    """The script's text. Raises `UsageError` for what no quoting can carry through sbatch."""
    _check(job)
    place, template = (job.ledger, "batch") if isinstance(job, BatchJob) else (job.logs, job.role)
    if "\\" in place:
        raise UsageError(f"results: sbatch takes a backslash out of paths; {place!r} has one")
    return str(_templates().get_template(f"{template}.sh.j2").render(job=job))


@functools.cache
def _templates() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters["shell"] = lambda value: shlex.quote(str(value))
    return environment


def _percent(path: str) -> str:
    return path.replace("%", "%%")


def _option(text: str) -> str:
    """`--name=value` with the value quoted."""
    name, equals, value = text.partition("=")
    if not name.startswith("-") or any(c.isspace() for c in name):
        raise UsageError(f"slurm.options: {text!r} is not --name=value")
    return f"{name}={shlex.quote(value)}" if equals else name


def _check(job: SlurmJob) -> None:
    for field in fields(job):
        value = getattr(job, field.name)
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str) and any(ord(c) < 32 or ord(c) == 127 for c in text):
                raise UsageError(f"{field.name}: {text!r} holds a line break or another control character")
    for bind in job.binds:
        if "," in bind:
            raise UsageError(f"slurm.binds: {bind!r}: a comma separates binds; use a path without one")
