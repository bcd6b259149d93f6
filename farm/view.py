"""What the user sees while a study runs: a live table on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from farm import budget
from farm.plan import STATES, Plan, Trial
from farm.time_left import TimeLeft
from trials.spec import STATUSES

PLAIN_SECONDS = 10.0
QUIET_SECONDS = 60.0
"""After so long without a plain line one says that the run is at work."""
ROWS = 20
METRICS = ("validation_error", "test_error", "train_loss")


@dataclass
class _Line:
    trial: Trial
    state: str
    began: float | None = None
    ended: float | None = None
    progress: dict[str, Any] = field(default_factory=dict)

    @property
    def epochs(self) -> int:
        """Epochs that the trial will train, where its parameters say so."""
        value = self.trial.spec.parameters.get("epochs", 0)
        return value if isinstance(value, int) else 0

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return int(self.progress.get("epoch", self.trial.epoch))


class QuietConsole(Console):
    """Where nobody reads any more it raises BrokenPipeError as `print` does; rich would end the process with 1."""

    def on_broken_pipe(self) -> None:
        """Called while that error is handled."""
        raise


class View:
    """Keeps each trial's state by its label and shows it. Labels are unique within a plan."""

    def __init__(self, plan: Plan, mode: str = "auto", gpus: float = 0) -> None:
        self._lines = {t.label: _Line(t, t.state) for t in plan.trials}
        self._running: dict[str, _Line] = {}
        # kept as lines change: summed up anew for each line that is printed, ten thousand trials would take minutes
        self._numbers = Counter(line.state for line in self._lines.values())
        self._gpus = gpus
        self._time_left = TimeLeft(plan)
        self._printed, self._said = 0.0, time.monotonic()
        self._frozen: set[str] | None = None
        self._console = QuietConsole()
        live = sys.stdout.isatty() if mode == "auto" else mode == "live"
        self._live = Live(get_renderable=self._table, console=self._console, refresh_per_second=2) if live else None

    def __enter__(self) -> View:
        if self._live is not None:
            self._live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._live is not None:
            self._live.__exit__(*error)

    def say(self, text: str) -> None:
        """A line of its own."""
        self._said = time.monotonic()
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def started(self, label: str) -> None:
        """A trial begins."""
        self._time_left.started(label)
        with self._change(label) as line:
            line.state, line.began, line.ended = "running", line.began or time.monotonic(), None

    def progress(self, label: str, row: Mapping[str, Any]) -> None:
        """A trial has finished an epoch."""
        with self._change(label) as line:
            line.progress = dict(row)
        self._time_left.progress(label, line.epoch)
        if self._live is None and time.monotonic() - self._printed > PLAIN_SECONDS:
            self._printed = time.monotonic()
            self.say(self._summary())

    def tick(self) -> None:
        """Called now and then: epochs may take an hour, and a run that says nothing looks as if it hung."""
        if self._live is None and self._running and time.monotonic() - self._said > QUIET_SECONDS:
            self.say(self._summary())

    def ended(self, label: str, how: str) -> None:
        """A trial has ended."""
        self._time_left.ended(label, how)
        with self._change(label) as line:
            line.state, line.ended = how, time.monotonic()
        if self._live is None:
            seconds = line.ended - (line.began or line.ended)
            self.say(f"{how:<11} {label}  {_metrics(line.progress)}  {seconds:.1f} s  [{self._summary()}]")

    def waits_again(self, label: str) -> None:
        """A trial whose attempt has ended will have another."""
        self._time_left.waits_again(label)
        self._reopen(label)

    def given_back(self, label: str) -> None:
        """A trial that was to begin did not: a drain came before."""
        self._time_left.ended(label, "")
        self._reopen(label)

    def _reopen(self, label: str) -> None:
        with self._change(label) as line:
            line.state, line.ended = "partial" if line.epoch else "new", time.monotonic()

    def freeze(self) -> None:
        """Remember which trials run now: a drain waits for these and starts no others."""
        self._frozen = set(self._running)
        if self._frozen:
            self.say("stopping: an epoch that is nearly over is finished, any other given up; Ctrl-C ends at once")

    @property
    def frozen_running(self) -> bool:
        """Whether one of those still runs."""
        return any(label in self._running for label in self._frozen or ())

    @contextmanager
    def _change(self, label: str) -> Iterator[_Line]:
        """A trial's line, to be changed; what is summed up over all lines follows."""
        line = self._lines[label]
        self._numbers[line.state] -= 1
        yield line
        self._numbers[line.state] += 1
        if line.state == "running":
            self._running[label] = line
        else:
            self._running.pop(label, None)

    def _count(self, *states: str) -> int:
        return sum(self._numbers[state] for state in states)

    def _summary(self) -> str:
        done = self._count("done", *STATUSES)
        parts = [f"{done}/{len(self._lines)} done", f"{len(self._running)} running"]
        if failed := self._count("failed"):
            parts.append(f"{failed} failed")
        if interrupted := self._count("interrupted", "killed"):  # by the machine: the same command goes on with these
            parts.append(f"{interrupted} interrupted")
        if self._gpus:
            running = list(self._running.values())  # the live table is drawn by a thread of its own
            in_use = sum(line.trial.bundle.gpu for line in running)
            parts.append(f"{in_use:g}/{self._gpus:g} GPUs")
        if (left := self._time_left.seconds) is not None:
            parts.append(f"about {duration(left)} left")
        return ", ".join(parts)

    def _table(self) -> Table:
        table = Table(title=self._summary(), title_justify="left", box=None, pad_edge=False)
        for name in ("trial", "state", "epoch", "result", "GPUs", "time"):
            table.add_column(name, justify="left" if name in ("trial", "state", "result") else "right")
        order = sorted(self._lines.values(), key=_interest)
        for line in order[:ROWS]:
            seconds = (line.ended or time.monotonic()) - line.began if line.began else None
            table.add_row(
                Text(line.trial.label),
                line.state,
                f"{line.epoch}/{line.epochs}" if line.epochs else "",
                _metrics(line.progress),
                f"{line.trial.bundle.gpu:g}",
                duration(seconds) if seconds is not None else "",
            )
        if len(order) > ROWS:
            table.add_row(f"… and {len(order) - ROWS} more")
        return table


def print_plan(plan: Plan) -> None:
    """The plan as a table, then what is worth saying, each thing once, then the counts."""
    console = QuietConsole(soft_wrap=True, highlight=False)
    table = Table(box=None, pad_edge=False)
    for name in ("trial", "id", "state", "CPUs", "GPUs", "GPU-hours"):
        table.add_column(name, justify="right" if name in ("CPUs", "GPUs", "GPU-hours") else "left")
    notes: dict[str, list[str]] = {}
    for trial in plan.trials:
        state = f"{trial.state} ({trial.status})" if trial.status not in ("", "completed") else trial.state
        shown, cpus, gpus = Text(trial.label), f"{trial.bundle.cpu:g}", f"{trial.bundle.gpu:g}"
        table.add_row(shown, trial.id, state, cpus, gpus, _hours(trial))
        if text := note(trial):
            notes.setdefault(text, []).append(trial.label)
    console.print(table)
    for text, labels in notes.items():
        console.print(f"{_some(labels)}: {text}", markup=False)
    console.print(", ".join([counts(plan, STATES), *budget.forecast(plan)]), markup=False)


def _hours(trial: Trial) -> str:
    """Estimated GPU-hours still to spend; "?" where no completed trial tells."""
    if trial.state == "done":
        return ""
    if trial.bundle.gpu == 0:
        return "0"
    return "?" if trial.gpu_hours is None else f"{trial.gpu_hours:.2f}"


def _some(labels: Sequence[str], most: int = 4) -> str:
    if len(labels) <= most:
        return ", ".join(labels)
    return f"{', '.join(labels[:most])} and {len(labels) - most} more"


def note(trial: Trial) -> str:
    """What is worth saying of a planned trial beside its state."""
    if trial.stale and trial.state == "done":
        return "done by other sources under the same REVISION"
    if trial.state == "partial":
        made = ", made by other sources under the same REVISION" if trial.stale else ""
        return f"goes on after epoch {trial.epoch}{made}"
    reason = trial.reason.splitlines()[-1] if trial.reason else ""
    return f"{reason}; its epochs were made by other sources under the same REVISION" if trial.stale else reason


def counts(plan: Plan, states: Sequence[str]) -> str:
    """ "3 done, 4 new", leaving out what is 0."""
    found = [(plan.count(s), s) for s in states]  # type: ignore[arg-type]
    return ", ".join(f"{n} {s}" for n, s in found if n) or "no trials"


def _interest(line: _Line) -> int:
    order = {"running": 0, "failed": 1, "interrupted": 1, "killed": 1, "partial": 2, "new": 3}
    return order.get(line.state, 4)


def _metrics(row: Mapping[str, Any]) -> str:
    found = [f"{name} {row[name]:.4f}" for name in METRICS if isinstance(row.get(name), float)]
    return ", ".join(found[:2])


def duration(seconds: float) -> str:
    """ "40 s", "12 min", "3.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
