"""The measured numbers that problem 2's written answers are filled with."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis import stats
from analysis.load import Data
from analysis.options import Options
from analysis.problem2_grid import MODES
from analysis.problem2_numbers import (
    GIGA,
    all_reduce_ceiling,
    bandwidth,
    copy_ceiling,
    ring_bytes,
    root_bytes,
    speedup,
    split,
    why_not,
)
from analysis.problem2_protocol import images, repeated, settings
from analysis.problem2_setups import SHEET_GPUS, Cell, Group
from analysis.provenance import span
from analysis.stats import Estimate
from analysis.words import counted


@dataclass(frozen=True)
class Compared:
    """Weak and strong scaling by one kind of time.

    Their speedups need the epoch of one GPU and are None without it; `ratio`, of strong scaling's epoch to weak's, does
    not, and is the speedups' ratio turned round.
    """

    ratio: Estimate
    weak: Estimate | None
    strong: Estimate | None

    @property
    def remark(self) -> str:
        """What to say of the two speedups where strong scaling's is not the worse one, or may not be."""
        if not self.ratio.has_interval:
            return "" if self.ratio.value > 1 else "here not the worse one"
        if self.ratio.high < 1:
            return "here the better one"
        return "" if self.ratio.low > 1 else "a difference that may be chance"


@dataclass(frozen=True)
class Pair:
    """Weak and strong scaling of one number of GPUs, at one number on the ladder.

    `whole` is by epochs as they are, `training` by the same without waiting for data.
    """

    gpus: int
    batch: int
    whole: Compared
    training: Compared
    boots: int
    """Machines, or starts of one, that the two and one GPU's epoch are of; 0: not known."""


@dataclass(frozen=True)
class Talk:
    """Communication of one set-up: seconds an epoch by subtraction and by the profiler, and the traffic (GB/s)."""

    gpus: int
    batch: int
    seconds: Estimate
    profiled: Estimate
    ring: Estimate
    share: float
    mark: str
    """Why there is no bandwidth; empty where there is one."""


Speedup = tuple[int, int, Estimate]
"""GPUs, batch on each, and the speedup of weak scaling."""


@dataclass(frozen=True)
class ModeAnswers:
    """Of one mode in one group. `full` are the rungs that did not fit on one GPU, with the peak: one a seed at most.

    `alone` are the rungs that were measured on one GPU, `tried` is the largest that it was given, `beyond` says that a
    larger one has more images than there are; `no_alone` is why nothing was measured on one. `smallest` is the smallest
    batch with a speedup. `best` and `worst` are of whole epochs, `best_training` and `worst_training` of epochs without
    the wait for data.
    """

    name: str
    best: Speedup | None
    worst: Speedup | None
    best_training: Speedup | None
    worst_training: Speedup | None
    pairs: list[Pair]
    talks: list[Talk]
    full: list[tuple[int, str]]
    alone: list[int]
    tried: int
    smallest: int
    beyond: bool
    no_alone: str
    waiting: float
    host: tuple[int, int, float, float] | None
    """Two batches whose steps take about as long though one has several times the images, and those milliseconds."""
    ceilings: dict[int, tuple[float, float]]


@dataclass(frozen=True)
class Answers:
    """Everything the templates say of one group."""

    label: str
    on_gpu: bool
    timed: bool
    profiled: bool
    setup: dict[str, list[str]]
    """The values of each parameter that the protocol states; of the plan where nothing has run."""
    images: str
    repeated: tuple[int, int] | None
    """Most images that an epoch of DDP had twice, so that each rank got as many, and the set's; None where none."""
    modes: dict[str, ModeAnswers]
    gradient_megabytes: float
    traffic: dict[int, tuple[float, float]]
    iterations: dict[int, dict[int, int]]
    cotenants: int | None
    """Most other processes on the GPUs when a trial began; None where no row knows."""
    cotenants_of_all: bool
    """Whether all rows know."""
    clocks: tuple[float, float]
    meets: bool
    """Whether DDP's ranks met before each step, as they do since its revision 2."""
    launches: tuple[float, float]
    """Least and most that handing over one kernel took the host, right after an epoch, in seconds."""
    refused: list[str]
    single: bool
    """Whether no set-up was measured more than once, so that nothing has an interval."""

    @property
    def iterated(self) -> list[int]:
        """The numbers of GPUs that have iterations at some batch."""
        return sorted({gpus for counts in self.iterations.values() for gpus in counts})

    @property
    def compares(self) -> bool:
        """Whether its times are results, and of GPUs."""
        return self.on_gpu and self.timed


def answers(data: Data, group: Group, options: Options) -> Answers:
    """Gather the numbers of a group."""
    rows = data.rows[data.rows["trial_id"].isin(group.trials)]
    sizes = rows["gradient_bytes"].dropna() if "gradient_bytes" in rows else rows.iloc[:0, 0]
    size = float(sizes.iloc[0]) if len(sizes) else math.nan
    counts = sorted({*SHEET_GPUS, *(key.gpus for key in group.cells)})
    others = rows["cotenants"] if "cotenants" in rows else pd.Series(None, rows.index, dtype=float)
    setup = settings(rows if len(rows) else data.plan)
    return Answers(
        label=group.label,
        on_gpu=group.machine.on_gpu,
        timed=group.timed,
        profiled=group.profiled,
        setup=setup,
        images=images(rows, setup["train_examples"]),
        repeated=repeated(rows),
        modes={m: _mode(group, m, options) for m in MODES if group.has(m, "weak") or group.has(m, "strong")},
        gradient_megabytes=size / 1e6,
        traffic={g: (ring_bytes(g, size) / 1e6, root_bytes(g, size) / 1e6) for g in counts if g > 1},
        iterations=_iterations(group),
        cotenants=int(others.max()) if others.notna().any() else None,
        cotenants_of_all=bool(others.notna().all()),
        clocks=span(rows, "clock_sm_mhz"),
        meets=len(rows) > 0 and bool(((rows["config_mode"] == "ddp") & (rows["config_revision"] >= 2)).any()),
        launches=span(rows, "launch_seconds"),
        refused=[f"{_words(c)}: {c.note}" for c in group.cells.values() if c.note.startswith("refused")],
        single=max((len(c.rows) for c in group.cells.values()), default=0) == 1,
    )


def _words(cell: Cell) -> str:
    k = cell.key
    return f"{MODES[k.mode]}, {k.scaling} scaling, {counted(k.gpus, 'GPU')}, batch {k.batch}"


def _iterations(group: Group) -> dict[int, dict[int, int]]:
    """Iterations of an epoch in weak scaling, by batch and number of GPUs."""
    found: dict[int, dict[int, int]] = {}
    for key, cell in sorted(group.cells.items(), key=lambda item: (item[0].batch, item[0].gpus)):
        if key.scaling == "weak" and cell.measured:
            found.setdefault(key.batch, {})[key.gpus] = cell.iterations
    return found


def _mode(group: Group, mode: str, options: Options) -> ModeAnswers:
    several = [g for g in group.gpu_counts(mode, "weak") if g > 1]
    batches = group.batches(mode, "weak")
    speedups, training = (
        [
            (g, b, s)
            for g in several
            for b in batches
            if (s := _speedup(group, group.cell(mode, "weak", g, b), options, column))
        ]
        for column in ("whole", "training")
    )
    waits = [c for k, c in group.cells.items() if (k.mode, k.scaling) == (mode, "weak") and c.usable]
    shares = [float((c.values("data_seconds") / c.whole).mean()) for c in waits]
    one = [c for k, c in group.cells.items() if k.mode == mode and k.gpus == 1]
    return ModeAnswers(
        name=MODES[mode],
        best=max(speedups, key=_value, default=None),
        worst=min(speedups, key=_value, default=None),
        best_training=max(training, key=_value, default=None),
        worst_training=min(training, key=_value, default=None),
        pairs=_pairs(group, mode, several, options),
        talks=[t for g in several for b in batches if (t := _talk(group, mode, g, b, options))],
        full=sorted((c.key.batch, c.full) for c in one if c.full),
        alone=sorted(c.key.batch for c in one if c.measured),
        tried=max((c.key.batch for c in one if not c.note.startswith("skipped")), default=0),
        smallest=min((b for _, b, _ in speedups), default=0),
        beyond=any(c.note.startswith("skipped") for c in one),
        no_alone=group.cell(mode, "weak", 1, batches[0]).note,
        waiting=max(shares, default=math.nan),
        host=_host(group, mode),
        ceilings={g: c for g in several if math.isfinite((c := _ceilings(group, mode, g))[0])},
    )


HOST_BOUND, ABOUT_AS_LONG = 0.15, 0.5
"""Where a step grows by less than the first as a part of what its images grow by, and by less than the second, it waits
for the host."""


def _host(group: Group, mode: str) -> tuple[int, int, float, float] | None:
    """The two largest batches of one GPU whose steps take about as long; None where the GPU decides throughout."""
    if not group.machine.on_gpu:
        return None
    cells = [c for c in (group.cell(mode, "weak", 1, b) for b in group.batches(mode, "weak")) if c.usable]
    medians = [(c.key.batch, 1e3 * float(c.values("step_p50_seconds").mean())) for c in cells]
    equal = [
        (a, b, s, t)
        for (a, s), (b, t) in itertools.pairwise(medians)
        if b >= 2 * a and t / s - 1 < min(HOST_BOUND * (b / a - 1), ABOUT_AS_LONG)
    ]
    return equal[-1] if equal else None


def _ceilings(group: Group, mode: str, gpus: int) -> tuple[float, float]:
    cells = [c for k, c in group.cells.items() if (k.mode, k.scaling, k.gpus) == (mode, "weak", gpus) and c.measured]
    return all_reduce_ceiling(group, cells) / GIGA, copy_ceiling(group, cells) / GIGA


def _value(speedup_: Speedup) -> float:
    return speedup_[2].value


def _speedup(group: Group, cell: Cell, options: Options, column: str = "whole") -> Estimate | None:
    one = group.cell(cell.key.mode, cell.key.scaling, 1, cell.key.batch)
    return None if why_not(group, cell, one) else speedup(cell, one, options.confidence, column)


def _pairs(group: Group, mode: str, several: Sequence[int], options: Options) -> list[Pair]:
    found = []
    for gpus in several:
        for batch in sorted({*group.batches(mode, "weak"), *group.batches(mode, "strong")}):
            weak, strong = (group.cell(mode, s, gpus, batch) for s in ("weak", "strong"))
            if not why_not(group, weak, strong):
                whole, training = (_compared(group, weak, strong, options, c) for c in ("whole", "training"))
                compared = [weak, strong, *([group.cell(mode, "weak", 1, batch)] if whole.weak or whole.strong else [])]
                boots = {boot for cell in compared for boot in cell.boots}
                found.append(Pair(gpus, batch, whole, training, len(boots)))
    return found


def _compared(group: Group, weak: Cell, strong: Cell, options: Options, column: str) -> Compared:
    ratio = stats.ratio(getattr(strong, column), getattr(weak, column), options.confidence)
    return Compared(ratio, *(_speedup(group, cell, options, column) for cell in (weak, strong)))


def _talk(group: Group, mode: str, gpus: int, batch: int, options: Options) -> Talk | None:
    parts = split(group, mode, gpus, batch, options.confidence)
    if parts.mark:
        return None
    rate: Any = bandwidth(group, mode, gpus, batch, options.confidence)
    return Talk(
        gpus,
        batch,
        parts.communication,
        parts.profiled,
        rate.ring.scaled(1 / GIGA),
        rate.share("ring"),
        rate.mark,
    )
