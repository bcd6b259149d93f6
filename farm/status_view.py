"""`farm status` as text: once, or again and again with --watch."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from farm.checks import counted, short_path
from farm.status import ORDER, Status, TrialStatus
from farm.view import QuietConsole, duration

WATCH_SECONDS = 2.0
START_SECONDS = 10.0
"""How long a watch that was started together with its run waits for that to begin."""
ROWS = 40


def show(status: Status, command: str) -> None:
    """Print it once."""
    QuietConsole(soft_wrap=True, highlight=False).print(_whole(status, command))


def watch(
    look: Callable[[], tuple[Status, str]], seconds: float = WATCH_SECONDS, patience: float = START_SECONDS
) -> Status:
    """Show it anew until the driver has gone: in place on a terminal, else a line whenever it has changed.

    `look` gives the study and its command. Where no driver is at work yet, one is waited for, `patience` seconds long.
    """
    looks = _looks(look, seconds, patience)
    current, command = next(looks)
    if current.driver is None:
        print(f"no run is at work; one that begins within {duration(patience)} is shown", file=sys.stderr, flush=True)
    if not sys.stdout.isatty():
        print(last := _headline(current), flush=True)
        for current, _ in looks:
            if (line := _headline(current)) != last:
                print(line, flush=True)
            last = line
        return current
    console = QuietConsole(highlight=False)
    with Live(_whole(current, command, in_place=True), auto_refresh=False, console=console) as live:
        for current, command in looks:
            live.update(_whole(current, command, in_place=True), refresh=True)
    return current


def _looks(look: Callable[[], tuple[Status, str]], seconds: float, patience: float) -> Iterator[tuple[Status, str]]:
    """Look after look, the last one when the driver that was seen has gone, or none has come."""
    latest, seen = time.monotonic() + patience, False
    while True:
        yield (found := look())
        seen = seen or found[0].driver is not None
        if found[0].driver is None and (seen or time.monotonic() >= latest):
            return
        time.sleep(seconds)


def _whole(status: Status, command: str, in_place: bool = False) -> Group:
    """Headline, the grid it speaks of, a line a trial, GPUs, failures.

    Shown in place, a terminal that is too short cuts it off below: there the long table comes last.
    """
    driver = status.driver
    who = f"pid {driver.pid} on {driver.host} since {driver.since[:19]}Z" if driver else "no driver at work"
    lines = [_headline(status), f"{command}  ({who})"]
    if n := status.finished_outside:
        hint = "farm status with the study's name alone takes in what differs only in what is swept"
        if status.with_finished:
            hint = "export/trials.parquet has them, and farm why ID says what sets one apart"
        lines.append(f"outside this grid: {counted(n, 'finished trial')}; {hint}")
    table, notes = Group(_table(status)), Group(*map(Text, [*_gpus(status), *_failures(status)]))
    return Group(*map(Text, lines), *([notes, table] if in_place else [table, notes]))


def _headline(status: Status) -> str:
    """ "problem4: 1 running, 3 done, 2 new, 4 GPUs held, 1.20 GPU-hours spent, about 12 min left"."""
    parts = [f"{n} {state}" for state, n in status.counts.items()] or ["no trials"]
    if status.gpus_held:
        parts.append(f"{counted(status.gpus_held, 'GPU')} held")
    if status.gpu_hours_spent:
        parts.append(f"{status.gpu_hours_spent:.2f} GPU-hours spent")
    if status.gpu_hours_left:
        parts.append(f"about {status.gpu_hours_left:.2f} GPU-hours to go")
    if status.seconds_left is not None:
        parts.append(f"about {duration(status.seconds_left)} left")
    return f"{status.study}: {', '.join(parts)}"


def _table(status: Status) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("trial", "id", "state", "epoch", "left", "GPUs", "where"):
        table.add_column(
            name, justify="right" if name in ("epoch", "left", "GPUs") else "left", no_wrap=name != "trial"
        )
    order = sorted(status.trials, key=lambda t: ORDER.index(t.state))
    for t in order[:ROWS]:
        state = f"{t.state} ({t.status})" if t.status not in ("", "completed") else t.state
        left = duration(t.seconds_left) if t.seconds_left is not None and t.state != "done" else ""
        where = t.host + (f" GPU {t.gpu_ids}" if t.gpu_ids else "")
        table.add_row(Text(t.label), t.id, state, _epochs(t), left, f"{t.gpus:g}", where)
    if len(order) > ROWS:
        table.add_row(f"… and {len(order) - ROWS} more")
    return table


def _epochs(trial: TrialStatus) -> str:
    return f"{trial.epoch}/{trial.epochs}" if trial.epochs else str(trial.epoch or "")


def _gpus(status: Status) -> Iterator[str]:
    for gpu in status.gpus_here:
        used = f"{gpu.memory_used / 1024:.1f} of {gpu.memory_total / 1024:.0f} GiB"
        yield f"GPU {gpu.index} here: {gpu.utilisation:.0f} % busy, {used}"


def _failures(status: Status) -> Iterator[str]:
    for t in status.trials:
        if t.error and t.state != "done":
            log = f" (log: {short_path(Path(t.log))})" if t.log else ""
            yield f"{t.state:<13} {t.label}: {t.error.strip().splitlines()[-1]}{log}"
