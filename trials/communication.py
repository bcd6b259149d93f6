"""What the profiler saw of communication between GPUs: how long which kind ran, and how much of it hid nothing.

Kernels and copies are intervals on each device's time line. Their union counts a moment once, whether two
kernels overlap in it or the profiler lists one piece of work under two names.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch.profiler import ProfilerActivity

from trials.spec import Row

Interval = tuple[float, float]
KINDS: dict[str, str] = {
    "all_reduce": r"all_?reduce",
    "broadcast": r"broadcast",
    "reduce": r"(?<!all)(?<!all_)reduce(?!_?scatter)",
    "peer_copy": r"memcpy ptop|memcpy peer",
}
"""Names of kernels, copies and collectives, in lower case. Of reduce_kernel and the like see `kind_of`."""


def kind_of(name: str, *, on_gpu: bool) -> str | None:
    """The kind of communication that a kernel, copy or collective is, or None for any other.

    NCCL's kernels are called ncclDevKernel_AllReduce_Sum_f32_RING_LL and the like, gloo's work gloo:all_reduce. Any
    other name with "reduce" in it is arithmetic (torch's own sums).
    """
    lower = name.lower()
    if "memcpy" not in lower and not lower.startswith("nccl" if on_gpu else "gloo:"):
        return None
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, lower)), None)


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """Disjoint intervals, in order, that cover the same moments."""
    merged: list[Interval] = []
    for start, stop in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


def length(intervals: Iterable[Interval]) -> float:
    """How long a union of intervals is, in their unit."""
    return sum(stop - start for start, stop in union(intervals))


def uncovered(intervals: Sequence[Interval], cover: Sequence[Interval]) -> float:
    """How much of the first union lies outside the second."""
    return length([*intervals, *cover]) - length(cover)


def seconds_by_kind(events: Iterable[Any], *, on_gpu: bool) -> dict[str, float]:
    """Seconds of each kind, of all together, and of what ran while nothing else did (`exposed`).

    Of several devices the one with the most communication counts. `events` are torch.profiler's, whose times are
    microseconds. `exposed` exists on GPUs only: a CPU's time line has no kernels.
    """
    wanted = torch.autograd.DeviceType.CUDA if on_gpu else torch.autograd.DeviceType.CPU
    devices: dict[int, dict[str, list[Interval]]] = defaultdict(lambda: defaultdict(list))
    for event in events:
        if event.device_type != wanted or (on_gpu and event.is_user_annotation):  # spans what it annotates
            continue
        kind = kind_of(event.name, on_gpu=on_gpu)
        if kind is None and not on_gpu:
            continue
        device = int(event.device_index) if on_gpu else 0
        devices[device][kind or "other"].append((event.time_range.start, event.time_range.end))
    best = max(devices.values(), key=lambda kinds: length(_all(kinds)), default={})
    found = {kind: length(best.get(kind, [])) / 1e6 for kind in KINDS}
    found["communication"] = length(_all(best)) / 1e6
    if on_gpu:
        found["exposed"] = uncovered(_all(best), best.get("other", [])) / 1e6
    return found


def _all(kinds: dict[str, list[Interval]]) -> list[Interval]:
    return [i for kind, found in kinds.items() if kind != "other" for i in found]


def profiled(work: Callable[[], None], *, on_gpu: bool) -> dict[str, float]:
    """Run `work` under the profiler; `seconds_by_kind` of what it did."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # it would write lines of its own into the trial's log
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on_gpu else [])
    with torch.profiler.profile(activities=activities) as profile:
        work()
        if on_gpu:
            torch.cuda.synchronize()
    return seconds_by_kind(profile.events(), on_gpu=on_gpu)


def columns(found: Sequence[dict[str, float]], factor: float) -> Row:
    """Columns of a row from what each process saw, times `factor` (iterations of an epoch over those profiled).

    Of several processes the one with the most communication counts.
    """
    if not found:
        return {}
    most = max(found, key=lambda kinds: kinds["communication"])
    return {f"profiled_{kind}_seconds": seconds * factor for kind, seconds in most.items()}
