"""Problem 2's way up the ladder of batch sizes: rung by rung, repetition by repetition, until memory is full.

Then, on several GPUs, once more over what was measured, under the profiler. It comes last, and in processes that
measure nothing more, because one in which it has run hands over kernels more slowly ever after.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from trials import data_parallel, links, machine, process
from trials.data_parallel import Measured, Profiled, Setup
from trials.ranks import Given, Ranks, Task, is_out_of_memory, memory_taken
from trials.seeding import derived_seed
from trials.spec import Context, Row, Spec, State
from trials.splits import Images

if TYPE_CHECKING:
    from trials.problem2 import Parameters

SAME = (
    "mode", "gpus", "precision", "width", "workers", "pinned", "cudnn_benchmark", "learning_rate", "momentum",
    "weight_decay", "least_iterations", "profiled_iterations",
)  # fmt: skip
"""Parameters that a repetition is told as they are."""


class Climb:
    """The way up the ladder. Its state is how far it came: every repetition starts afresh, so nothing else is kept.

    `at` counts the repetitions that are done (of rungs that are skipped too), then the rungs that were profiled;
    `whole` are the rungs that were measured, `machine` is what it was on last (None in states older than this).
    """

    def __init__(self, p: Parameters, spec: Spec, context: Context, images: Images, common: Row) -> None:
        self.p, self.spec, self.context, self.images, self.common = p, spec, context, images, common
        self.points = [(rung, repeat) for rung in p.rungs() for repeat in range(1, p.repeats + 1)]
        before: State = context.state or {"at": 0, "rows": 0}
        self.at, self.number = int(before["at"]), int(before["rows"])
        self.whole: list[int] = list(before.get("whole", []))
        self.machine: list[str] | None = before.get("machine", [] if context.state is None else None)
        self._measure: Callable[[Setup], list[Measured]]
        self._profile: Callable[[Setup], list[Profiled]]
        self._all_reduce: Callable[[int, int], list[Row]]
        self._group: Ranks | None = None

    def state(self) -> State:
        """What a resumed trial goes on from."""
        return {"at": self.at, "rows": self.number, "whole": list(self.whole), "machine": self.machine}

    @property
    def finished(self) -> bool:
        """Whether nothing is left to be measured or profiled."""
        return self.at >= len(self.points) + len(self._to_profile)

    @property
    def _to_profile(self) -> list[int]:
        """Rungs that the profiler is to see: all that were measured, where there is communication."""
        return self.whole if self.p.gpus > 1 and self.p.profiled_iterations else []

    def start(self, stack: ExitStack) -> None:
        """Have this process, or one for each GPU, measure, and ranks profile, until the stack is closed."""
        stop, ddp = self.context.check_stop, self.p.mode == "ddp"

        def run(task: Task, *arguments: Any) -> list[Any]:
            if self._group is None or self._group.ended:  # by a rung that did not fit
                # Not forked from a process that has trained: torch's threads would not be there.
                count, method = (self.p.gpus, None) if ddp else (1, "spawn")
                ranks = Ranks(count, self.context.device, self.spec.threads, method, self.images)
                self._group = stack.enter_context(ranks)
            return self._group.run(task, *arguments, check_stop=stop)

        self._profile = lambda setup: run(data_parallel.profile, setup, Given)
        if ddp:
            self._measure = lambda setup: run(data_parallel.measure, setup, Given)
            self._all_reduce = lambda size, most: run(links.group_all_reduce, size, most)[0]
        else:
            self._measure = lambda setup: [data_parallel.measure(setup, self.images, stop)]
            on_gpu = self.context.device == "cuda"
            self._all_reduce = lambda size, most: links.process_all_reduce(self.p.gpus, size, most) if on_gpu else []

    def begun_on(self, gpus: list[Row]) -> list[Row]:
        """Rows of the GPUs and of what their links can do, once for each machine that the trial comes to."""
        here = [machine.boot_id(), *(str(row["uuid"]) for row in gpus)]
        before, self.machine = self.machine, here
        if before in (None, here):
            return []
        return [{"table": "gpus"} | row for row in gpus] + self._links()

    def _links(self) -> list[Row]:
        """What the links can do; one GPU has none."""
        if self.p.gpus == 1:
            return []
        rows = self._all_reduce(data_parallel.gradient_bytes(self.p.width), self.p.largest_message)
        return rows + (links.peer_copies(self.p.gpus) if self.context.device == "cuda" else [])

    def next_rows(self) -> list[Row]:
        """Rows of the next repetition; where its batch does not fit, also those of all larger ones."""
        if self.at >= len(self.points):
            rung = self._to_profile[self.at - len(self.points)]
            rows = [self._profiled(rung, repeat) for repeat in range(1, self.p.repeats + 1)]
            self.at += 1
            return rows
        rung, repeat = self.points[self.at]
        if (reason := self._not_measurable(rung)) is not None:
            return self._skip(reason)
        try:
            return [self._measured(rung, repeat)]
        except Exception as error:
            message, peak = _out_of_memory(error), self._peak(error)
        data_parallel.release_memory()  # here the error, and with it the frames that hold tensors, is gone
        row = self._row(rung, repeat) | {"result": "oom", "peak_memory_bytes": peak, "reason": message}
        self.at += 1
        return [row, *self._skip(f"a batch of {rung} was out of memory")]

    def _not_measurable(self, rung: int) -> str | None:
        there, each = len(self.images.labels), self.p.gpus if self.p.scaling == "weak" else 1
        if rung * each <= there:
            return None
        asked, be = ("1 image", "is") if rung == 1 else (f"{rung} images", "are")
        on_each = f" on each of {each} GPUs" if each > 1 else ""
        return f"{asked}{on_each} {be} more than the {there} there {'is' if there == 1 else 'are'}"

    def _skip(self, reason: str) -> list[Row]:
        """One row for each rung that is left, and the end of the ladder."""
        left = dict.fromkeys(rung for rung, _ in self.points[self.at :])
        done = {rung for rung, _ in self.points[: self.at]}
        rows = [self._row(rung, 1) | {"result": "skipped", "reason": reason} for rung in left if rung not in done]
        self.at = len(self.points)
        return rows

    def _measured(self, rung: int, repeat: int) -> Row:
        setup = self._setup(rung, repeat)
        found = data_parallel.columns(self._measure(setup))
        row = self._row(rung, repeat) | {"result": "measured"} | found
        if self.context.device == "cuda":
            row["clock_sm_mhz"] = machine.clock_sm_mhz(self.p.gpus)
        self.at += 1
        if repeat == self.p.repeats:
            self.whole.append(rung)
        return row

    def _profiled(self, rung: int, repeat: int) -> Row:
        setup = self._setup(rung, repeat)
        data_parallel.release_memory()  # of this process, which has measured
        found: Row = {}
        try:
            found = data_parallel.profiled_columns(setup, self._profile(setup), len(self.images.labels))
        except Exception as error:  # the profiler's own memory can be too much where the batch alone fits
            found["reason"] = _out_of_memory(error)
        return self._row(rung, repeat) | {"result": "profiled"} | found

    def _setup(self, rung: int, repeat: int) -> Setup:
        p = self.p
        return data_parallel.Setup(
            batch_per_gpu=rung if p.scaling == "weak" else rung // p.gpus,
            device=self.context.device,
            threads=self.spec.threads,
            seed=derived_seed(self.spec.seed, "repetition", rung, repeat),
            mean=tuple(self.context.dataset.mean),
            std=tuple(self.context.dataset.std),
            **{name: getattr(p, name) for name in SAME},
        )

    def _row(self, rung: int, repeat: int) -> Row:
        """What every row says, measured or not."""
        self.number += 1
        setup = self._setup(rung, repeat)
        row: Row = {"epoch": self.number, "batch": rung, "repeat": repeat, "examples": len(self.images.labels)}
        row |= {"batch_per_gpu": setup.batch_per_gpu, "total_batch": setup.total_batch}
        row |= {"gradient_bytes": data_parallel.gradient_bytes(self.p.width)}
        return row | {"buffer_bytes": data_parallel.buffer_bytes(self.p.width)} | self.common

    def _peak(self, error: BaseException) -> int:
        """The most that torch had allocated on one GPU when memory ran out."""
        own = process.peak_memory_bytes(self.context.device) if self.p.mode == "dataparallel" else 0
        return int(getattr(error, "peak_bytes", own))


def _out_of_memory(error: Exception) -> str:
    """The first line of an error that says that a batch does not fit. Any other is raised."""
    if not is_out_of_memory(error):
        raise error
    if (taken := memory_taken(error)) is not None:
        raise taken from error
    return str(error).splitlines()[0]
