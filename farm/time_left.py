"""When a run will be over, told by what its own trials have taken so far."""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from farm.plan import Plan
from trials.spec import steps_of

MANY = 200
"""With more trials waiting, how the last ones fall onto the places hardly matters, and is not worth its time."""

LONGEST_START_SECONDS = 60.0
"""A first step that came sooner may have been a start for the most part: torch's import, compiling, capturing."""


@dataclass
class _Work:
    """A trial of the run: `length` is what it had left when the run began, after `first` of its `steps` (0: unknown).

    `marked` is when its attempt began, or last reported. `again` says of an attempt after a failure that it begins with
    a wait and with steps that were seen before, so that its first report tells nothing.
    """

    length: float
    first: int
    steps: int
    step: int
    open: bool = True
    reported: bool = False
    again: bool = False
    marked: float = 0.0

    @property
    def unreported(self) -> bool:
        """Whether a start is still to come, or not over."""
        return self.open and not self.reported

    @property
    def one_step(self) -> float:
        """Length of a step; all of it where the steps are not known."""
        return self.length / max(self.steps - self.first, 1)

    @property
    def left(self) -> float:
        """What is left of its length."""
        if not self.open:
            return 0.0
        return self.one_step * (self.steps - self.step) if self.steps > self.first else self.length


class TimeLeft:
    """Follows a run's trials by their labels.

    A trial takes a start and, from its first step on, so many seconds for a unit of its length (`Plan.lengths`): both
    are means over what this run has seen. Until it has seen a step after a start, the lengths' own unit counts where
    that is seconds; else whole trials tell, or first steps that are longer than starts.
    """

    def __init__(self, plan: Plan, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        lengths, self._in_seconds = plan.lengths
        self._trials = {
            t.label: _Work(lengths[t.id], t.epoch, steps_of(t.spec.module, t.spec.parameters), t.epoch)
            for t in plan.longest_first
        }
        # kept as trials change: summed up anew for each line that is printed, ten thousand trials would take minutes
        self._left = self._all = sum(w.left for w in self._trials.values())
        self._unreported = len(self._trials)
        self._waiting = dict(self._trials)
        self._running: dict[str, _Work] = {}
        self._most = 1
        self._paced = _Pace()
        self._starts = _Pace()
        self._seen_whole = False

    def started(self, label: str) -> None:
        """An attempt at a trial begins, its first or another."""
        work = self._trials[label]
        with self._counted(work):
            work.open, work.reported, work.marked = True, False, self._clock()
        self._waiting.pop(label, None)
        self._running[label] = work
        self._most = max(self._most, len(self._running))

    def progress(self, label: str, step: int) -> None:
        """A trial has come so far, which may be told again and again."""
        work = self._trials[label]
        if work.steps and not (work.reported and step == work.step):
            self._advance(work, min(step, work.steps))

    def waits_again(self, label: str) -> None:
        """A trial whose attempt has ended will have another."""
        work = self._trials[label]
        self._running.pop(label, None)
        with self._counted(work):
            work.reported, work.again = False, True
        self._waiting[label] = work

    def ended(self, label: str, how: str) -> None:
        """An attempt has ended: "completed" with all its steps done, in any other way with what it has reported."""
        work = self._trials[label]
        if how == "completed":
            self._seen_whole = True
            self._advance(work, work.steps, whole=True)
        with self._counted(work):
            work.open = False
        self._running.pop(label, None)
        self._waiting.pop(label, None)

    @property
    def seconds(self) -> float | None:
        """Seconds until the last trial ends if as many run at once as have so far; None where nothing tells yet."""
        pace = self._pace
        if pace is None or not (self._waiting or self._running) or self._left <= 1e-9 * self._all:
            return None
        start = max(self._starts.seconds - self._starts.work * pace, 0.0) / max(self._starts.number, 1)
        if len(self._waiting) > MANY:
            return (self._left * pace + self._unreported * start) / self._most
        now = self._clock()
        running = [_running_left(w, pace, start, now) for w in list(self._running.values())]
        ends = running + [0.0] * (self._most - len(running))
        heapq.heapify(ends)
        for work in list(self._waiting.values()):  # the longest first, each where a place becomes free
            heapq.heapreplace(ends, ends[0] + work.left * pace + start)
        return max(ends)

    @property
    def _pace(self) -> float | None:
        """Seconds for a unit of length: no more than all time over all work, for a start takes no less than none."""
        work = self._starts.work + self._paced.work
        most = (self._starts.seconds + self._paced.seconds) / work if work else math.inf
        if self._paced.work:
            return min(self._paced.seconds / self._paced.work, most)
        if self._in_seconds:
            return min(1.0, most)
        tells = self._seen_whole or self._starts.seconds > LONGEST_START_SECONDS * self._starts.number
        return most if work and tells else None

    def _advance(self, work: _Work, step: int, whole: bool = False) -> None:
        before, now = work.left, self._clock()
        with self._counted(work):
            work.step = step
            if work.reported or not work.again:
                pace = self._paced if work.reported else self._starts
                pace.add(before if whole else max(before - work.left, 0.0), now - work.marked)
            work.reported, work.marked = True, now

    @contextmanager
    def _counted(self, work: _Work) -> Iterator[None]:
        """A trial is changed; what is summed up over all follows."""
        left, unreported = work.left, work.unreported
        yield
        self._left += work.left - left
        self._unreported += work.unreported - unreported


def _running_left(work: _Work, pace: float, start: float, now: float) -> float:
    """Seconds; what has passed since its last report counts up to a step."""
    start = 0.0 if work.reported else start
    return max(work.left * pace + start - min(now - work.marked, work.one_step * pace + start), 0.0)


@dataclass
class _Pace:
    """Work that was seen done, in how many seconds, in how many parts."""

    work: float = 0.0
    seconds: float = 0.0
    number: int = 0

    def add(self, work: float, seconds: float) -> None:
        self.work, self.seconds, self.number = self.work + work, self.seconds + seconds, self.number + 1
