"""The batch script of one allocation, as a pure function of what the job is."""

from __future__ import annotations

import functools
import shlex
from dataclasses import dataclass, fields
from pathlib import Path

from farm.errors import UsageError

TEMPLATE = Path(__file__).with_name("batch.sh.j2")


@dataclass(frozen=True)
class BatchJob:
    """One allocation that runs one study. Paths are absolute; `arguments` are those of `farm/run.py`."""

    name: str
    arguments: tuple[str, ...]
    ledger: str
    code: str
    python: str
    nodes: int
    gpus: int
    cpus: int
    memory_gib: int
    time: str
    commit: str = "unknown"
    temporary: str = "/tmp"
    signal_seconds: int = 180
    start_seconds: int = 600
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

    @property
    def options(self) -> list[str]:
        """What stands after #SBATCH, quoted as sbatch reads it (quotes group, as in a shell)."""
        output = f"{self.ledger.replace('%', '%%')}/slurm/%j.log"
        named = {
            "job-name": self.name,
            "account": self.account,
            "partition": self.partition,
            "qos": self.qos,
            "constraint": self.constraint,
            "gres": self.gres if self.gpus else "",
            "nodes": str(self.nodes),
            "ntasks-per-node": "1",
            "cpus-per-task": str(self.cpus),
            "mem": f"{self.memory_gib}G",
            "time": self.time,
            "signal": f"B:USR1@{self.signal_seconds}",
            "output": output,
            "export": "NIL",
        }
        lines = [f"--{name}={shlex.quote(value)}" for name, value in named.items() if value]
        return [*lines, "--open-mode=append", "--requeue", *map(_option, self.extra)]


def render(job: BatchJob) -> str:
    """The script's text. Raises `UsageError` for what no quoting can carry through sbatch."""
    from jinja2 import Environment, StrictUndefined

    _check(job)
    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.filters["shell"] = lambda value: shlex.quote(str(value))
    return environment.from_string(_template()).render(job=job)


@functools.cache
def _template() -> str:
    return TEMPLATE.read_text()


def _option(text: str) -> str:
    """`--name=value` with the value quoted."""
    name, equals, value = text.partition("=")
    if not name.startswith("-") or any(c.isspace() for c in name):
        raise UsageError(f"slurm.options: {text!r} is not --name=value")
    return f"{name}={shlex.quote(value)}" if equals else name


def _check(job: BatchJob) -> None:
    for field in fields(job):
        value = getattr(job, field.name)
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str) and any(ord(c) < 32 or ord(c) == 127 for c in text):
                raise UsageError(f"{field.name}: {text!r} holds a line break or another control character")
    if "\\" in job.ledger:
        raise UsageError(f"results: sbatch takes a backslash out of paths; {job.ledger!r} has one")
    for bind in job.binds:
        if "," in bind:
            raise UsageError(f"slurm.binds: {bind!r}: a comma separates binds; use a path without one")
