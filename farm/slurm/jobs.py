"""Slurm jobs of a farm with elastic workers: their names, their states as squeue tells them, and what to say of them.

All that has to be known about a worker is in its job's name, CLUSTER-KIND-ID: squeue alone brings a farm's state back.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FORMAT = "%A|%T|%r|%N|%j"
SQUEUE = ("squeue", "--me", "--noheader", "--states=all", f"--format={FORMAT}")
ANSWER_SECONDS = 90.0
ROOM = ("Resources", "Priority", "None", "")
ENDS = {
    "COMPLETED": "left ahead of its walltime",
    "CANCELLED": "was cancelled by somebody else than the farm",
    "TIMEOUT": "was killed at its walltime",
    "PREEMPTED": "was preempted",
    "NODE_FAIL": "lost its node",
    "BOOT_FAIL": "got a node that did not boot",
    "OUT_OF_MEMORY": "was killed for memory (slurm.memory_gib=)",
    "FAILED": "lost its Ray, or could not start it",
    "DEADLINE": "was killed at its deadline",
    "REVOKED": "was taken back",
}
"""States in which a job has ended. All others, of which Slurm has many, hold a node or a place in the queue."""


@dataclass(frozen=True)
class Job:
    """One worker's job as Slurm has it. `instance` is the name by which Ray's autoscaler knows it."""

    number: int
    state: str
    reason: str
    node: str
    kind: str
    instance: str

    @property
    def alive(self) -> bool:
        """Whether it holds a node, or will."""
        return self.state not in ENDS and self.state != "COMPLETING"

    @property
    def over(self) -> bool:
        """Whether it has ended and its node is free again."""
        return self.state in ENDS

    @property
    def pending(self) -> bool:
        """Whether it waits in the queue."""
        return self.state == "PENDING"


def new_name(cluster: str, kind: str) -> str:
    """A job name that nobody has."""
    return f"{cluster}-{kind}-{secrets.token_hex(4)}"


def parse(text: str, cluster: str) -> list[Job]:
    """The workers of one farm in squeue's answer, oldest first; other jobs are passed over."""
    jobs = []
    for line in text.splitlines():
        number, state, reason, node, name = [*line.split("|", 4), "", "", "", ""][:5]
        front, _, instance = name.rpartition("-")
        owner, _, kind = front.rpartition("-")
        if owner == cluster and number.isdigit():
            jobs.append(Job(int(number), state, reason, node, kind, instance))
    return sorted(jobs, key=lambda j: j.number)


def news(before: Mapping[int, Job], now: Mapping[int, Job], ours: set[int], logs: Path) -> list[str]:
    """What a user should hear of since the last look. `ours` are the jobs that the farm itself has ended."""
    lines = []
    for number, job in now.items():
        old = before.get(number)
        if number not in ours and old != job:
            lines += _told(job, old, logs)
    gone = [j for n, j in before.items() if n not in now and n not in ours and not j.over]
    return [*lines, *(f"job {j.number} ({j.kind}) is not in the queue any more" for j in gone)]


def _told(job: Job, old: Job | None, logs: Path) -> list[str]:
    who = f"job {job.number} ({job.kind})"
    if job.pending:
        same = old is not None and old.pending and waiting(old.reason, 0) == waiting(job.reason, 0)
        return [] if same else [f"{who} {waiting(job.reason, job.number)}"]
    if job.state != (old.state if old is not None else "") and job.alive:
        return [f"{who} runs on {job.node}" if job.state == "RUNNING" else f"{who} is {job.state} (Slurm's word)"]
    if job.over and old is not None and not old.over:
        log = f"; its log is {logs / f'{job.number}.log'}" if job.state in ("FAILED", "OUT_OF_MEMORY") else ""
        reason = f" (Slurm: {job.state}{'' if job.reason in ROOM else f', {job.reason}'})"
        return [f"{who} {ENDS.get(job.state, 'ended')}{reason}; a trial that ran there goes on elsewhere{log}"]
    return []


def waiting(reason: str, number: int) -> str:
    """Why a job has not started, in words that say who can change it."""
    if reason in ROOM:
        return "waits for room" if reason in ("Resources", "Priority") else "is in the queue"
    if reason.startswith("JobHeld"):
        return f"is held (Slurm: {reason}); scontrol release {number} lets it go on"
    if reason.startswith(("QOS", "Assoc", "Max")):
        return f"waits for a limit of your account's (Slurm: {reason})"
    return f"is held back by Slurm: {reason}"


def joined_file(number: int | str) -> str:
    """Name of the file by which a worker says that its Ray runs."""
    return f"joined-{number}"


def joined(shared: Path, number: int) -> bool:
    """Whether a worker's Ray was ever up. A listing is fresh where a look at one name may be cached (NFS)."""
    return joined_file(number) in os.listdir(shared)


def ask(spool: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run one of Slurm's commands outside the image: farm/slurm/head.sh.j2 answers. Raises TimeoutError."""
    request = spool / secrets.token_hex(6)
    request.mkdir()
    (request / "words").write_bytes(b"".join(w.encode() + b"\0" for w in words))
    request.rename(request.with_suffix(".ask"))
    done = request.with_suffix(".done")
    deadline = time.monotonic() + ANSWER_SECONDS
    while done.name not in os.listdir(spool):  # a listing is fresh where a look at one name may be cached (NFS)
        if time.monotonic() > deadline:
            raise TimeoutError(f"{words[0]}: no answer within {ANSWER_SECONDS:g} s")
        time.sleep(0.05)
    code, out, err = (int((done / "code").read_text()), (done / "out").read_text(), (done / "err").read_text())
    shutil.rmtree(done, ignore_errors=True)
    return subprocess.CompletedProcess(words, code, out, err)
