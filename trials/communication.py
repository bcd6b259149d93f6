"""What the profiler saw of communication between GPUs: how long which kind ran, and how much of it hid nothing.

Kernels and copies are intervals on each device's time line. Their union counts a moment once, whether two
kernels overlap in it or the profiler lists one piece of work under two names.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.profiler import ProfilerActivity

from trials.spec import Row

Interval = tuple[float, float]
MICRO = 1e6
KINDS: dict[str, str] = {
    "all_reduce": r"all_?reduce",
    "broadcast": r"broadcast",
    "reduce": r"(?<!all)(?<!all_)reduce(?!_?scatter)",
    "peer_copy": r"memcpy ptop|memcpy peer",
}
"""Names of kernels, copies and collectives, in lower case. Of reduce_kernel and the like see `kind_of`."""
WAITS = frozenset({"Event Sync", "Stream Wait Event", "Stream Sync", "Context Sync"})
"""What a GPU's time line can list beside its work where torch records it: somebody waits for it."""


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


@dataclass(frozen=True)
class Profile:
    """Intervals on one GPU's time line (or a CPU's, of gloo's work), in microseconds.

    `collectives` are in the order of their starts, by kind; peer copies are among them. `other` is all else that a GPU
    did, as disjoint intervals; a CPU's time line has none.
    """

    collectives: dict[str, list[Interval]]
    other: list[Interval]
    on_gpu: bool

    @property
    def communication(self) -> list[Interval]:
        """Intervals of all kinds together."""
        return [interval for found in self.collectives.values() for interval in found]


def profile_of(events: Iterable[Any], *, on_gpu: bool) -> Profile:
    """What torch.profiler's events say; of several devices, the one with the most communication."""
    wanted = torch.autograd.DeviceType.CUDA if on_gpu else torch.autograd.DeviceType.CPU
    devices: dict[int, dict[str, list[Interval]]] = defaultdict(lambda: defaultdict(list))
    for event in events:
        if event.device_type != wanted or event.name in WAITS:
            continue
        if on_gpu and event.is_user_annotation:  # spans what it annotates
            continue
        kind = kind_of(event.name, on_gpu=on_gpu)
        if kind is None and not on_gpu:
            continue
        device = int(event.device_index) if on_gpu else 0
        devices[device][kind or "other"].append((event.time_range.start, event.time_range.end))
    profiles = [
        Profile({kind: sorted(found.get(kind, [])) for kind in KINDS}, union(found.get("other", [])), on_gpu)
        for found in devices.values()
    ]
    return max(profiles, key=lambda p: length(p.communication), default=Profile({k: [] for k in KINDS}, [], on_gpu))


def seconds(profile: Profile) -> dict[str, float]:
    """Seconds of each kind, of all together, and of what ran while nothing else did (`exposed`, on GPUs only)."""
    found = {kind: length(intervals) / MICRO for kind, intervals in profile.collectives.items()}
    found["communication"] = length(profile.communication) / MICRO
    if profile.on_gpu:
        found["exposed"] = uncovered(profile.communication, profile.other) / MICRO
    return found


def without_waiting(profiles: Sequence[Profile]) -> list[Profile] | None:
    """Profiles of several ranks, each collective cut to the time in which its data moved.

    A collective's kernel begins when its rank is ready and ends when all have the result: the rank that came last
    waited for nobody, so that its kernel, the shortest, is the collective itself, and what the others' kernels are
    longer at their beginning is waiting for it. None where the ranks saw different numbers of collectives, which then
    cannot be told apart.
    """
    if len({tuple(len(p.collectives[kind]) for kind in KINDS) for p in profiles}) != 1:
        return None
    cut: list[dict[str, list[Interval]]] = [{} for _ in profiles]
    for kind in KINDS:
        ranks = [p.collectives[kind] for p in profiles]
        moved = [min(stop - start for start, stop in same) for same in zip(*ranks, strict=True)]
        for found, intervals in zip(cut, ranks, strict=True):
            found[kind] = [(stop - m, stop) for (_, stop), m in zip(intervals, moved, strict=True)]
    return [replace(p, collectives=found) for p, found in zip(profiles, cut, strict=True)]


def profiled(work: Callable[[], object], *, on_gpu: bool) -> Profile:
    """Run `work` under the profiler. Nothing is to be timed in this process afterwards.

    CUPTI stays attached, and what launches kernels is slower by a tenth to a fifth until the process ends
    (github.com/pytorch/pytorch/issues/144455).
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # it would write lines of its own into the trial's log
    # A GPU's kernels and copies alone: the host's operations are three times as many, and cost seconds to read.
    activities = [ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]
    # acc_events: torch 2.11 warns without it that events are cleared between cycles. There is one cycle here.
    with torch.profiler.profile(activities=activities, acc_events=True) as profile:
        work()
        if on_gpu:
            torch.cuda.synchronize()
    return profile_of(profile.events(), on_gpu=on_gpu)


def columns(profiles: Sequence[Profile], factor: float) -> Row:
    """Columns of a row from what each process saw, times `factor` (iterations of an epoch over those profiled).

    Of several processes the one with the most communication counts, and of waiting for others the one that waited most.
    """
    moved = without_waiting(profiles) if len(profiles) > 1 else list(profiles)
    if not moved:
        return {}
    found = max(map(seconds, moved), key=lambda kinds: kinds["communication"])
    if len(profiles) > 1:
        whole, net = ([length(p.communication) / MICRO for p in ps] for ps in (profiles, moved))
        found["waiting"] = max(a - b for a, b in zip(whole, net, strict=True))
    return {f"profiled_{kind}_seconds": value * factor for kind, value in found.items()}
