"""How an epoch is timed: each iteration in parts, the device synchronised before a clock is read.

A GPU works behind the program's back: a clock that is read before the GPU has finished measures how fast work is
handed over, not how long it takes. So every reading here waits for the device first, and beside the wall clock of
each step stands what CUDA's own events say of it. A step whose wall clock is shorter than its events was measured
with a clock that did not wait; `check_clock` refuses it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from trials.spec import Row

PARTS = ("data", "copy", "step")
"""What an iteration consists of: waiting for the loader's batch (where there are several processes, for each one's),
moving it to the device, forward + backward + update (with the communication that they contain)."""
LAUNCHES = 5_000
"""Small kernels in a row by which the host's pace is measured: 50 ms where one takes 10 µs."""
SLACK = 0.95
"""Part of the events' time that the wall clock must show at least; events have a resolution of 0.5 µs."""


class WrongClock(Exception):
    """Wall clock and CUDA events contradict each other: the clock was read without waiting for the device."""


class WrongIterations(Exception):
    """An epoch has another number of iterations than its batch size gives."""


class Clock(Protocol):
    """What `timed_pass` reads. `mark` is a point in the device's own time, None where it has none."""

    def now(self) -> float:
        """Seconds, read when the device has finished all that it was given."""

    def mark(self) -> Any:
        """A point in the device's stream of work."""

    def between(self, start: Any, stop: Any) -> float | None:
        """Seconds between two marks by the device's clock."""


class DeviceClock:
    """The wall clock, read after all devices are synchronised, and CUDA events on the first of them."""

    def __init__(self, devices: Sequence[torch.device]) -> None:
        self.devices = [d for d in devices if d.type == "cuda"]

    def now(self) -> float:
        for device in self.devices:
            torch.cuda.synchronize(device)
        return time.perf_counter()

    def mark(self) -> Any:
        if not self.devices:
            return None
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.devices[0]))
        return event

    def between(self, start: Any, stop: Any) -> float | None:
        return None if start is None else start.elapsed_time(stop) / 1000


@dataclass
class Laps:
    """One or more passes over the data: seconds of each iteration's parts, in order, and of the whole.

    `device` is the step by CUDA events, empty on a CPU. `tail` is what the loader takes to say that it has no more
    (its workers end then), which is waiting for data too.
    """

    data: list[float] = field(default_factory=list)
    copy: list[float] = field(default_factory=list)
    step: list[float] = field(default_factory=list)
    device: list[float] = field(default_factory=list)
    tail: float = 0.0
    seconds: float = 0.0
    passes: int = 0

    @property
    def iterations(self) -> int:
        """Iterations of all passes."""
        return len(self.step)


def timed_pass(
    batches: Iterable[Any],
    move: Callable[[Any], Any],
    step: Callable[[Any], None],
    clock: Clock,
    laps: Laps,
    between: Callable[[], None] = lambda: None,
    meet: Callable[[], None] = lambda: None,
) -> None:
    """Go once through `batches`, adding to `laps`. `between` is called between iterations.

    The loader's start is part of the first wait. `meet` returns when every process has its batch on its device; that
    is waiting for data too, and not part of a step, whose collectives would otherwise show the slowest loader as
    communication. Marks are read at the end, when nothing waits on them.
    """
    marks: list[tuple[Any, Any]] = []
    began = last = clock.now()
    source: Iterator[Any] = iter(batches)
    while (batch := next(source, None)) is not None:
        fetched = clock.now()
        moved = move(batch)
        copied = clock.now()
        meet()
        met = clock.now()
        start = clock.mark()
        step(moved)
        marks.append((start, clock.mark()))
        done = clock.now()
        laps.data.append(fetched - last + met - copied)
        laps.copy.append(copied - fetched)
        laps.step.append(done - met)
        last = done
        between()
    del source
    ended = clock.now()
    laps.tail += ended - last
    laps.seconds += ended - began
    laps.passes += 1
    _wait(marks)
    laps.device += [s for s in (clock.between(a, b) for a, b in marks) if s is not None]


def _wait(marks: Sequence[tuple[Any, Any]]) -> None:
    """Marks can be read only when they have come to pass, whether or not the clock waited for them."""
    for _, stop in marks[-1:]:
        if isinstance(stop, torch.cuda.Event):
            stop.synchronize()


def check_clock(laps: Laps) -> None:
    """Raise `WrongClock` where steps took less by the wall clock than by the device's own."""
    wall, device = sum(laps.step), sum(laps.device)
    if wall < SLACK * device:
        raise WrongClock(
            f"{laps.iterations} steps took {wall:.4f} s by the wall clock and {device:.4f} s by CUDA events: "
            "the clock was read before the device had finished"
        )


def launch_seconds(devices: Sequence[torch.device], launches: int = LAUNCHES) -> float | None:
    """Host time to hand one small kernel to the first device, the mean of many in a row; None on a CPU.

    It takes longer than the kernel itself, so this is the host's pace, which is what steps of small batches follow.
    """
    clock = DeviceClock(devices)
    if not clock.devices:
        return None
    value = torch.zeros(1, device=clock.devices[0])
    value.add_(1)
    began = clock.now()
    for _ in range(launches):
        value.add_(1)
    return (clock.now() - began) / launches


def expected_iterations(examples: int, total_batch: int) -> int:
    """Iterations of an epoch whose last batch may be incomplete: 1563, 782 and 391 for 32, 64 and 128 of 50,000."""
    return math.ceil(examples / total_batch)


def check_iterations(found: int, examples: int, batch_per_gpu: int, gpus: int) -> None:
    """Raise `WrongIterations` where a pass had another number of iterations than so many images a GPU give."""
    expected = expected_iterations(examples, batch_per_gpu * gpus)
    if found != expected:
        raise WrongIterations(
            f"a pass had {found} iterations where {batch_per_gpu} images on each of {gpus} GPUs make {expected} of "
            f"{examples} images: is the batch the total and not each GPU's?"
        )


def summary(ranks: Sequence[Laps]) -> Row:
    """Seconds of one epoch (a mean pass) from the laps of each process, and how iterations are distributed.

    Parts are means over the processes, so that they add up to the epoch's wall clock, which is that of the slowest.
    """
    passes = ranks[0].passes
    row: Row = {"iterations": ranks[0].iterations // passes, "passes": passes}
    row["epoch_seconds"] = max(r.seconds for r in ranks) / passes
    for part in (*PARTS, "device"):
        laps = np.array([getattr(r, part) for r in ranks], dtype=float)
        if laps.size == 0:
            continue
        tail = float(np.mean([r.tail for r in ranks])) if part == "data" else 0.0
        row[f"{part}_seconds"] = (float(laps.sum()) / len(ranks) + tail) / passes
        row[f"{part}_p50_seconds"], row[f"{part}_p95_seconds"] = (float(q) for q in np.percentile(laps, [50, 95]))
    return row
