"""Ray's autoscaler on Slurm: a node provider whose nodes are jobs. It runs in the head's autoscaler process.

cluster.yaml names it as `provider: {type: external, module: farm.slurm.SlurmNodeProvider}`. Ray calls it on several
threads. A node's id is the last part of its job's name, so a queued job can be given another's identity.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray.autoscaler.node_provider import NodeProvider
from ray.autoscaler.tags import (
    NODE_KIND_HEAD,
    NODE_KIND_WORKER,
    STATUS_UP_TO_DATE,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)

from farm.slurm.jobs import SQUEUE, Job, ask, joined, new_name, news, parse

HEAD = "head"
REFUSED_SECONDS = 30.0
FAULTY = ("FAILED", "OUT_OF_MEMORY", "BOOT_FAIL")
LONGEST_DELAY_SECONDS = 600.0
GATHER_SECONDS = 0.5
SAME_SECONDS = 1.0


class SlurmNodeProvider(NodeProvider):
    """Jobs as nodes. `provider_config` holds `shared`, the farm's private directory, and `logs`."""

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        super().__init__(provider_config, cluster_name)
        self._lock = threading.RLock()
        self._shared = Path(provider_config["shared"])
        self._spool = self._shared / "spool"
        self._logs = Path(provider_config["logs"])
        self._jobs: dict[int, Job] = {}
        self._ours: set[int] = set()
        self._refused: dict[str, tuple[float, str]] = {}  # kind: until when (monotonic), why
        self._failed: dict[str, int] = {}
        self._seen = 0.0
        self._order = threading.Condition()
        self._waiting: list[int] = []
        self._adopt()

    def _adopt(self) -> None:
        """Workers of a head before this one never rejoin; jobs that still wait in the queue join this one."""
        self._look(tell=False)
        self._ours |= {n for n, job in self._jobs.items() if not job.alive}  # the end of a head before this one
        for job in self._alive():
            if job.pending:
                self._say(f"job {job.number} ({job.kind}) is still in the queue and is taken over")
            else:
                self._cancel(job, "belonged to a head that is gone, and is cancelled")

    # What Ray calls.

    def non_terminated_nodes(self, tag_filters: dict[str, str]) -> list[str]:
        """Ids of the head and of all workers that run or wait. Raises where Slurm does not answer."""
        with self._lock:
            self._look()
            return [HEAD, *(job.instance for job in self._alive())]

    def is_running(self, node_id: str) -> bool:
        """Whether the node's job has started."""
        job = self._job(node_id)
        return node_id == HEAD or (job is not None and job.state == "RUNNING")

    def is_terminated(self, node_id: str) -> bool:
        """Whether the node's job is over."""
        return node_id != HEAD and self._job(node_id) is None

    def node_tags(self, node_id: str) -> dict[str, str]:
        """Head or worker, and its kind."""
        job = self._job(node_id)
        return {
            TAG_RAY_NODE_KIND: NODE_KIND_HEAD if node_id == HEAD else NODE_KIND_WORKER,
            TAG_RAY_USER_NODE_TYPE: HEAD if node_id == HEAD else (job.kind if job else ""),
            TAG_RAY_NODE_STATUS: STATUS_UP_TO_DATE,
        }

    def create_node_with_resources_and_labels(
        self, node_config: dict[str, Any], tags: dict[str, str], count: int, resources: Any, labels: Any
    ) -> None:
        """Submit `count` jobs. Raises RuntimeError with Slurm's words where it refuses; Ray asks again."""
        kind = tags[TAG_RAY_USER_NODE_TYPE]
        until, reason = self._refused.get(kind, (float("-inf"), ""))
        if time.monotonic() < until:
            raise RuntimeError(reason)
        with self._turn(resources.get("GPU", 0)):
            for _ in range(count):
                self._submit(kind, node_config["script"])

    def terminate_node(self, node_id: str) -> None:
        """Cancel the node's job. Of jobs that still wait, the youngest goes, and the others keep their places."""
        with self._lock:
            job = self._job(node_id)
            if job is None:
                return
            if not job.pending:
                self._cancel(job, "is ended: no trial runs there")
                return
            youngest = max((j for j in self._alive() if j.pending and j.kind == job.kind), key=lambda j: j.number)
            if youngest.number != job.number and self._takes_the_name_of(youngest, job):
                job = youngest
            self._cancel(job, "is withdrawn: no trial waits for it")
            self._seen = 0.0

    # How it is done.

    def _takes_the_name_of(self, youngest: Job, job: Job) -> bool:
        """Give a queued job the identity of a younger one; False where it has just started, and keeps its own.

        Slurm renames running jobs too, whose workers have told Ray the old name: MinTmpDiskNode, which is 0 anyway,
        can be set in the queue only, and Slurm then leaves the name as it is (seen with 22.05).
        """
        name = f"{self.cluster_name}-{job.kind}-{youngest.instance}"
        words = ("scontrol", "update", f"JobId={job.number}", "MinTmpDiskNode=0", f"JobName={name}")
        if ask(self._spool, *words).returncode:
            return False
        self._jobs[job.number] = replace(job, instance=youngest.instance)
        return True

    @contextmanager
    def _turn(self, gpus: int) -> Iterator[None]:
        """Ray asks for several kinds at once, on a thread each: the largest is submitted first."""
        with self._order:
            self._waiting.append(gpus)
        time.sleep(GATHER_SECONDS)
        with self._order:
            self._order.wait_for(lambda: gpus == max(self._waiting))
            try:
                yield
            finally:
                self._waiting.remove(gpus)
                self._order.notify_all()

    def _submit(self, kind: str, script: str) -> None:
        name = new_name(self.cluster_name, kind)
        answer = ask(self._spool, "sbatch", "--parsable", f"--job-name={name}", script)
        if answer.returncode:
            said = " ".join(answer.stderr.split())
            if said != self._refused.get(kind, (0.0, ""))[1]:
                self._say(f"Slurm refuses a job of kind {kind}: {said}; asked again every {REFUSED_SECONDS:g} s")
            self._refused[kind] = (time.monotonic() + REFUSED_SECONDS, said)
            raise RuntimeError(said)
        self._refused.pop(kind, None)
        number = int(answer.stdout.split(";")[0])
        with self._lock:
            self._jobs[number] = Job(number, "PENDING", "None", "", kind, name.rpartition("-")[2])
        self._say(f"job {number} ({kind}) is submitted for a trial that waits")

    def _look(self, tell: bool = True) -> None:
        """Ask Slurm what became of the jobs."""
        if time.monotonic() - self._seen < SAME_SECONDS:
            return
        answer = ask(self._spool, *SQUEUE)
        if answer.returncode:
            raise RuntimeError(f"squeue: {answer.stderr.strip()}")
        self._seen = time.monotonic()
        now = {job.number: job for job in parse(answer.stdout, self.cluster_name)}
        for line in news(self._jobs, now, self._ours, self._logs) if tell else []:
            self._say(line)
        for job in now.values():
            self._judge(job, self._jobs.get(job.number))
        self._jobs = now

    def _judge(self, job: Job, before: Job | None) -> None:
        """Where a worker ends before it joined (no image there, no GPUs given), the next waits, longer each time."""
        if not job.over or before is None or before.over or job.number in self._ours:
            return
        if joined(self._shared, job.number):
            self._failed.pop(job.kind, None)
            return
        if job.state not in FAULTY:
            return
        count = self._failed[job.kind] = self._failed.get(job.kind, 0) + 1
        delay = min(REFUSED_SECONDS * 2 ** (count - 1), LONGEST_DELAY_SECONDS)
        reason = f"job {job.number} failed as it started; its log is {self._logs / f'{job.number}.log'}"
        self._refused[job.kind] = (time.monotonic() + delay, reason)
        self._say(f"no job of kind {job.kind} for {delay:g} s: {reason}")

    def _alive(self) -> list[Job]:
        return [j for j in self._jobs.values() if j.alive and j.number not in self._ours]

    def _job(self, node_id: str) -> Job | None:
        with self._lock:
            return next((j for j in self._alive() if j.instance == node_id), None)

    def _cancel(self, job: Job, why: str) -> None:
        answer = ask(self._spool, "scancel", str(job.number))
        if answer.returncode:
            raise RuntimeError(f"scancel {job.number}: {answer.stderr.strip()}")
        self._ours.add(job.number)
        self._say(f"job {job.number} ({job.kind}) {why}")

    def _say(self, text: str) -> None:
        with (self._logs / "jobs.log").open("a") as log:
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
