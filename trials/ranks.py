"""Processes of one trial, one for each GPU, joined by torch.distributed: what a task is given to, and what ends them.

All ranks run the same task at the same time. When one of them fails, the others wait for it inside a collective
for ever, so the first failure ends them all.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import shutil
import signal
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any

from trials.parent import end_with_parent

LOOK_SECONDS = 0.2
LEAST_TAKEN_BYTES = 4 * 2**30
"""Well above what a process holds outside torch's allocator."""
Task = Callable[..., Any]


@dataclass(frozen=True)
class Told:
    """What one process tells another of an exception, whose own class may not be one that can be pickled."""

    classes: tuple[str, ...]
    """Its class and all that this derives from, as `module.Name`."""
    text: str
    cause: str
    """The text of the exception that it was raised from."""
    errno: int | None

    @classmethod
    def of(cls, error: BaseException) -> Told:
        """What there is to tell of `error`."""
        classes = tuple(f"{c.__module__}.{c.__qualname__}" for c in type(error).__mro__)
        return cls(classes, str(error), str(error.__cause__ or ""), _errno(error))


def _errno(error: BaseException) -> int | None:
    """The number of an OSError; of one from a loader's process torch keeps only the class and the words."""
    if not isinstance(error, OSError):
        return None
    said = re.search(r"in DataLoader worker.*\[Errno (\d+)\]", str(error), re.DOTALL)
    return int(said[1]) if error.errno is None and said else error.errno


class RankFailed(Exception):
    """A rank failed: its message ends with the traceback of what it `told`, or it ended with `exit_code` unasked.

    `backend` is that of the group.
    """

    def __init__(
        self, message: str, told: Told | None = None, exit_code: int | None = None, backend: str = "gloo"
    ) -> None:
        super().__init__(message)
        self.told, self.exit_code, self.backend = told, exit_code, backend


class RankOutOfMemory(RankFailed):
    """A rank ran out of its GPU's memory; `peak_bytes` is the most that torch had allocated there."""

    def __init__(self, message: str, peak_bytes: int) -> None:
        super().__init__(message)
        self.peak_bytes = peak_bytes


class MemoryTaken(Exception):
    """A GPU's memory was full, and others than the trial held a good part of it."""


def memory_taken(error: BaseException, devices: Sequence[int] | None = None) -> MemoryTaken | None:
    """`MemoryTaken` because of an error that says a GPU is full, where other processes hold a good part of it.

    `devices` are the GPUs that this process fills, if not all that it sees. To be asked where the error was caught,
    before memory is released. Being out of memory is a result of the trial, which is kept for good, only where the
    trial had the GPU for itself.
    """
    if isinstance(error, RankFailed) or not is_out_of_memory(error):
        return None
    from trials import process

    said = str(error).partition("\n")[0]
    try:
        others, size = process.memory_of_others(devices)
    except RuntimeError as refusal:
        taken = MemoryTaken(f"the GPU does not say who holds its memory: {refusal} ({said})")
    else:
        if others < LEAST_TAKEN_BYTES:
            return None
        taken = MemoryTaken(f"other processes hold {others / 2**30:.1f} of the GPU's {size / 2**30:.1f} GiB ({said})")
    taken.__cause__ = error
    return taken


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the GPU's memory is full, whichever library says it."""
    if isinstance(error, MemoryTaken):
        return False
    if isinstance(error, RankFailed):  # its text is a traceback, which may tell of an error that was dealt with
        return isinstance(error, RankOutOfMemory)
    text = str(error).lower()
    said = ("cuda" in text and "out of memory" in text) or "alloc_failed" in text
    return type(error).__name__ == "OutOfMemoryError" or said


class Given:
    """Stands among a task's arguments for what its `Ranks` were given when they began."""


class Ranks:
    """`count` processes in a process group: NCCL with a GPU each, or gloo on the CPU. Use as a context manager.

    They are forked where this process has not touched CUDA, which a forked child could not use again, and spawned
    otherwise (each then imports torch for itself). What is `given` is theirs from the beginning and does not travel
    with each task, as other arguments do: CIFAR-10's training images took half a second a rank.
    """

    def __init__(
        self, count: int, device: str, threads: int, start_method: str | None = None, given: object = None
    ) -> None:
        import torch

        method = start_method or ("spawn" if torch.cuda.is_initialized() else "fork")
        context: Any = multiprocessing.get_context(method)
        self._scratch = tempfile.mkdtemp(prefix="farm-ranks-")
        self._backend = _backend(device)
        self._lines: list[Connection] = []
        self._processes: list[Any] = []
        store = str(Path(self._scratch) / "store")
        # Spawned, a rank reads its arguments from a pipe, on which start() waits for ever where it dies before it does.
        own = given if method == "fork" else Given
        for rank in range(count):
            mine, theirs = context.Pipe()
            arguments = (theirs, rank, count, device, threads, os.getpid(), store, own)
            process = context.Process(target=_serve, args=arguments)  # not a daemon: it has loaders for children
            process.start()
            theirs.close()
            self._lines.append(mine)
            self._processes.append(process)
        if method != "fork":
            self._send(given)

    @property
    def ended(self) -> bool:
        """Whether its processes are gone, since one has failed or it was closed."""
        return not self._processes

    def run(self, task: Task, *arguments: Any, check_stop: Callable[[], None] = lambda: None) -> list[Any]:
        """What `task(*arguments)` returned on each rank. `task` is a module's function; it may use the group.

        Raises `RankOutOfMemory` or `RankFailed` for the first rank that fails, with all ranks ended; or what
        `check_stop` raises, which is called while waiting.
        """
        try:
            self._send((task, arguments))
            return self._answers(check_stop)
        except BaseException:
            self.close()
            raise

    def _send(self, message: object) -> None:
        for line in self._lines:
            with contextlib.suppress(BrokenPipeError):  # a rank that failed to join has said why
                line.send(message)

    def _answers(self, check_stop: Callable[[], None]) -> list[Any]:
        found: dict[int, Any] = {}
        while len(found) < len(self._lines):
            check_stop()
            open_lines = [line for rank, line in enumerate(self._lines) if rank not in found]
            for line in wait(open_lines, timeout=LOOK_SECONDS):
                rank = self._lines.index(line)  # type: ignore[arg-type]
                try:
                    found[rank] = self._answer(rank)
                except RankFailed as error:
                    raise self._cause(error) from None
        return [found[rank] for rank in range(len(self._lines))]

    def _cause(self, error: RankFailed) -> RankFailed:
        """What to blame: where a rank was killed, the others' errors say only that they lost their connection to it."""
        if error.exit_code is None and not isinstance(error, RankOutOfMemory):
            gone = wait([p.sentinel for p in self._processes], timeout=LOOK_SECONDS)
            for rank, process in enumerate(self._processes):
                if process.sentinel in gone and process.exitcode not in (None, 0, 1):  # 1: it has told why
                    return self._vanished(rank, process.exitcode)
        return error

    def _vanished(self, rank: int, code: int | None) -> RankFailed:
        return RankFailed(f"rank {rank} ended with exit code {code}", exit_code=code, backend=self._backend)

    def _answer(self, rank: int) -> Any:
        try:
            how, value = self._lines[rank].recv()
        except (EOFError, ConnectionError):
            self._processes[rank].join(5)
            raise self._vanished(rank, self._processes[rank].exitcode) from None
        if how == "oom":
            raise RankOutOfMemory(f"rank {rank}: {value[0]}", value[1])
        if how == "failed":
            raise RankFailed(f"rank {rank}: {value[0]}", value[1])
        return value

    def close(self) -> None:
        """End all ranks and what they started; may be called again."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
        for line in self._lines:
            line.close()
        self._processes, self._lines = [], []
        shutil.rmtree(self._scratch, ignore_errors=True)

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _serve(
    line: Connection, rank: int, count: int, device: str, threads: int, parent: int, store: str, given: object
) -> None:
    """A rank: join the group, then run what comes down the line until it closes."""
    end_with_parent()
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):  # the trial's own process decides
        signal.signal(number, signal.SIG_IGN)
    try:
        if given is Given:
            given = line.recv()
        _join(rank, count, device, threads, store)
        while True:
            task, arguments = line.recv()
            line.send(("done", task(*(given if argument is Given else argument for argument in arguments))))
    except EOFError:
        os._exit(0)
    except Exception as caught:
        own = [rank] if count > 1 else None  # it sees the other ranks' too, which they fill
        error = memory_taken(caught, own) or caught
        text = "".join(traceback.format_exception(error))
        if is_out_of_memory(error):
            line.send(("oom", (str(error).splitlines()[0], _peak(device))))
        else:
            line.send(("failed", (text, Told.of(error))))
        os._exit(1)  # without the group's farewell, which waits for ranks that may be stuck


def _backend(device: str) -> str:
    return "nccl" if device == "cuda" else "gloo"


def _join(rank: int, count: int, device: str, threads: int, store: str) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(threads)
    os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = "lo"  # all are on this node
    if device == "cuda":
        torch.cuda.set_device(rank)
    dist.init_process_group(_backend(device), init_method=f"file://{store}", rank=rank, world_size=count)
    global _host_group
    _host_group = dist.new_group(backend="gloo")


_host_group: Any = None
"""This rank's group of all ranks that talks without the GPUs."""


def meet() -> None:
    """In a rank: return when all ranks are here. The GPUs are given nothing to do."""
    import torch.distributed as dist

    dist.barrier(group=_host_group)


def _peak(device: str) -> int:
    from trials import process

    return process.peak_memory_bytes(device)
