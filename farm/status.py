"""`farm status`: what a study's trials do now, read from the ledger alone, so from any machine that sees it.

Epochs are those of the newest commit (at most commit_seconds= old). A trial runs where its newest attempt has no
end and belongs to the driver that holds the lock.
"""

from __future__ import annotations

import dataclasses
import heapq
import os
import shutil
import socket
import subprocess
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from farm import study
from farm.config import Config
from farm.ledger.durable import read_json, read_manifest
from farm.ledger.lock import living_holder
from farm.ledger.scan import (
    DONE,
    attempt_directories,
    attempt_records,
    commit_epoch,
    commit_seconds,
    commits,
    directories,
    has_finished,
    newest_first,
)  # fmt: skip
from farm.plan import STATES, Plan, Trial, work_left
from farm.slurm.submit import site_nodes
from trials.spec import ModuleError, steps_of, work_of

ORDER = ("running", "failed", "unschedulable", "partial", "new", "done")


@dataclass(frozen=True)
class Driver:
    """The process that runs the study now."""

    pid: int
    host: str
    since: str
    run: str | None = None
    """Its id in the records of its attempts; None of a farm of before 2026-11-30, whose lock does not have it."""

    def runs(self, attempt: Mapping[str, Any]) -> bool:
        """Whether an attempt's record is of this driver; without the id, whether it is of one with this pid."""
        named = str(attempt.get("driver", ""))
        return named.partition("-")[0] == str(self.pid) if self.run is None else named == self.run


@dataclass(frozen=True)
class TrialStatus:
    """One trial: `state` is the plan's, or "running". `seconds_left` None: nothing tells."""

    id: str
    label: str
    state: str
    status: str
    epoch: int
    epochs: int
    gpus: float
    seconds_left: float | None
    host: str = ""
    gpu_ids: str = ""
    started_at: str = ""
    error: str = ""
    log: str = ""


@dataclass(frozen=True)
class GpuUse:
    """One GPU of this machine as nvidia-smi sees it: utilisation in percent, memory in MiB."""

    index: int
    utilisation: float
    memory_used: float
    memory_total: float


@dataclass(frozen=True)
class Status:
    """A study now. `gpu_hours_spent` is of all attempts in the ledger, failed too; `seconds_left` is wall-clock."""

    study: str
    driver: Driver | None
    trials: tuple[TrialStatus, ...]
    gpu_hours_spent: float
    gpu_hours_left: float | None
    seconds_left: float | None
    gpus_held: float
    gpus_here: tuple[GpuUse, ...]
    finished_outside: int = 0
    """Finished trials in the ledger that the grid does not hold."""
    with_finished: bool = False
    """Whether the grid takes in what has finished besides and differs only in what is swept."""

    @property
    def counts(self) -> dict[str, int]:
        """Trials in each state, those that occur, running ones first."""
        found = Counter(t.state for t in self.trials)
        return {s: found[s] for s in ("running", *STATES) if found[s]}

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self) | {"counts": self.counts}


def status(config: Config, now: datetime | None = None) -> Status:
    """Look at a study's ledger."""
    now = now or datetime.now(UTC)
    driver = driver_at_work(config.ledger, now)
    plan = study.make_plan(config, site_nodes(config))
    folders = directories(config.ledger)
    trials = _with_work(plan, [_trial(t, folders.get(t.id), driver, now) for t in plan.trials], folders)
    known = {t.id for t in trials}
    held = sum(t.gpus for t in trials if t.state == "running")
    here = driver is not None and driver.host == socket.gethostname() and held
    open_trials = [t for t in trials if t.state in ("running", "partial", "new")]
    return Status(
        study=plan.study,
        driver=driver,
        trials=trials,
        gpu_hours_spent=_spent(plan, folders, now, {t.id for t in trials if t.state == "running"}),
        gpu_hours_left=_total(
            [None if t.seconds_left is None else t.seconds_left * t.gpus / 3600 for t in open_trials if t.gpus]
        ),
        seconds_left=_wall_clock(open_trials),
        gpus_held=held,
        gpus_here=gpu_use() if here else (),
        finished_outside=sum(has_finished(p) for i, p in folders.items() if i not in known),
        with_finished=config.with_finished,
    )


def driver_at_work(ledger: Path, now: datetime) -> Driver | None:
    """The living driver that holds the lock."""
    holder = living_holder(ledger, now.timestamp())
    if not holder:
        return None
    return Driver(holder["pid"], str(holder.get("host")), str(holder.get("since")), holder.get("run"))


def _trial(trial: Trial, folder: Path | None, driver: Driver | None, now: datetime) -> TrialStatus:
    shown = TrialStatus(
        id=trial.id,
        label=trial.label,
        state=trial.state,
        status=trial.status,
        epoch=trial.epoch,
        epochs=trial.epoch if trial.status == "completed" else steps_of(trial.spec.module, trial.spec.parameters),
        gpus=trial.bundle.gpu,
        seconds_left=trial.seconds,
        error=trial.reason,
        log=trial.log,
    )
    attempts = attempt_directories(folder) if folder is not None else []
    if trial.state == "done" or driver is None or not attempts or (attempts[-1] / "end.json").exists():
        return shown
    begun = read_json(attempts[-1] / "attempt.json") or {}
    if not driver.runs(begun):
        return shown
    return dataclasses.replace(
        shown,
        state="running",
        host=str(begun.get("host", "")),
        gpu_ids=str(begun.get("gpu_ids", "")),
        started_at=str(begun.get("started_at", "")),
        seconds_left=_running_left(trial, attempts, _age(str(begun.get("started_at", "")), now)),
        error="",
        log="",
    )


def _running_left(trial: Trial, attempts: Sequence[Path], elapsed: float) -> float | None:
    """By the pace of this attempt's own epochs where it has committed any, else by the estimate."""
    epochs = steps_of(trial.spec.module, trial.spec.parameters)
    if epochs and (pace := _pace(attempts)) is not None:
        return max(pace * (epochs - _begun_at(attempts)) - elapsed, 0.0)
    return None if trial.seconds is None else max(trial.seconds - elapsed, 0.0)


def _pace(attempts: Sequence[Path]) -> float | None:
    """Seconds that an epoch of the newest attempt took, by what it has committed; None before that."""
    newest, begun_at = commits(attempts[-1]), _begun_at(attempts)
    if not newest or commit_epoch(newest[-1]) <= begun_at:
        return None
    seconds = float((read_manifest(newest[-1]) or {}).get("seconds") or 0)
    return seconds / (commit_epoch(newest[-1]) - begun_at) or None


def _begun_at(attempts: Sequence[Path]) -> int:
    """Epoch that the newest attempt goes on from: as its commits say, else by those that there are before them."""
    for commit in reversed(commits(attempts[-1])):
        if isinstance(epoch := (read_manifest(commit) or {}).get("from_epoch"), int):
            return epoch
    return max((commit_epoch(c) for a in attempts[:-1] for c in commits(a)), default=0)


def _with_work(plan: Plan, trials: Sequence[TrialStatus], folders: Mapping[str, Path]) -> tuple[TrialStatus, ...]:
    """The trials; those that no finished relative foretells, by their work at the pace of those that run.

    Only by what runs on as many GPUs: problem 2's trials on one say nothing of those on four.
    """
    planned = {t.id: t for t in plan.trials}
    rates: dict[float, list[float]] = defaultdict(list)
    try:
        for shown in trials:
            if shown.state == "running" and shown.epochs and (pace := _pace(attempt_directories(folders[shown.id]))):
                spec = planned[shown.id].spec
                rates[shown.gpus].append(pace * shown.epochs / work_of(spec.module, spec.parameters))
        return tuple(
            dataclasses.replace(shown, seconds_left=median(rates[shown.gpus]) * work_left(planned[shown.id]))
            if shown.seconds_left is None and shown.gpus in rates and shown.state in ("running", "new", "partial")
            else shown
            for shown in trials
        )
    except ModuleError:  # a run says so
        return tuple(trials)


def _spent(plan: Plan, folders: dict[str, Path], now: datetime, running: set[str]) -> float:
    """GPU-hours of every attempt in the ledger. One whose end nobody saw counts up to its last commit."""
    hours, planned = 0.0, {t.id: t.bundle.gpu for t in plan.trials}
    for identity, folder in folders.items():
        if planned.get(identity) == 0:
            continue
        known, gpus = 0.0, 0.0
        records = list(attempt_records(folder.parent.parent, folder))
        for record in records:
            seconds, gpus = float(record.get("seconds") or 0), planned.get(identity, _gpus(record))
            if record["how"] == "lost":
                attempt = folder / "attempts" / str(record["attempt"])
                live = identity in running and record is records[-1]
                seconds = _age(str(record.get("started_at", "")), now) if live else _last_commit_seconds(attempt)
            known += seconds
            hours += seconds * gpus / 3600
        hours += max(_stood_on(folder) - known, 0.0) * gpus / 3600  # of attempts whose commits have gone
    return hours


def _stood_on(folder: Path) -> float:
    """Seconds that led to a trial's results, or to its newest commit."""
    if (done := read_manifest(folder / DONE)) is not None:
        return float(done.get("seconds") or 0)
    newest = newest_first(attempt_directories(folder))
    return commit_seconds(newest[0]) if newest else 0.0


def _gpus(record: Mapping[str, Any]) -> int:
    """GPUs that an attempt saw."""
    return len(str(record.get("visible_devices") or "").split(",")) if record.get("gpu_ids") else 0


def _last_commit_seconds(attempt: Path) -> float:
    return max((float((read_manifest(c) or {}).get("seconds") or 0) for c in commits(attempt)), default=0.0)


def _wall_clock(trials: Sequence[TrialStatus]) -> float | None:
    """When the last trial ends if as many go on running at once as do now; None where that is not known."""
    running = [t.seconds_left for t in trials if t.state == "running"]
    waiting = [t.seconds_left for t in trials if t.state != "running"]
    if not running or None in running or None in waiting:
        return None
    ends = [s for s in running if s is not None]
    heapq.heapify(ends)
    for seconds in waiting:
        heapq.heapreplace(ends, ends[0] + (seconds or 0.0))
    return max(ends)


def _total(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) if len(known) == len(values) else None


def _age(started_at: str, now: datetime) -> float:
    try:
        return max((now - datetime.fromisoformat(started_at)).total_seconds(), 0.0)
    except ValueError:
        return 0.0


def gpu_use() -> tuple[GpuUse, ...]:
    """Utilisation and memory of this machine's GPUs by nvidia-smi; nothing where there is none."""
    if shutil.which("nvidia-smi") is None:
        return ()
    query = "--query-gpu=index,utilization.gpu,memory.used,memory.total"
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True, env=dict(os.environ))
        rows = [[float(v) for v in line.split(",")] for line in answer.stdout.splitlines() if line.strip()]
    except (subprocess.SubprocessError, OSError, ValueError):
        return ()
    return tuple(GpuUse(int(index), *rest) for index, *rest in rows)
