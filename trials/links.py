"""What the links between a trial's GPUs can do: an all-reduce for each of many sizes, and copies between pairs.

This is the ceiling that a training's communication is held against, measured on the same GPUs in the same trial.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from trials.spec import Row

SMALLEST_BYTES = 2**12
COPY_BYTES = 2**28
WARM_UP, REPEATS, BURST = 2, 7, 5


def sizes(gradient_bytes: int, largest: int) -> list[int]:
    """Message sizes: powers of four from 4 KiB to `largest` bytes, and the model's own gradient."""
    ladder, size = [gradient_bytes], SMALLEST_BYTES
    while size <= largest:
        ladder.append(size)
        size *= 4
    return sorted(set(ladder))


def bus_bandwidth(gpus: int, size: int, seconds: float) -> float:
    """Bytes a second that each GPU sends in a ring all-reduce: 2(N−1)/N · S / t (Gibiansky; NCCL's "busbw")."""
    return 2 * (gpus - 1) / gpus * size / seconds


def timed(work: Callable[[], None], synchronize: Callable[[], None]) -> float:
    """Median seconds of `work`: a few in a row, so that the time to hand them over hides, then synchronised."""
    found = []
    for turn in range(WARM_UP + REPEATS):
        synchronize()
        began = time.perf_counter()
        for _ in range(BURST):
            work()
        synchronize()
        if turn >= WARM_UP:
            found.append((time.perf_counter() - began) / BURST)
    return statistics.median(found)


def _row(link: str, gpus: int, size: int, seconds: float, **more: str | int) -> Row:
    row: Row = {"table": "links", "link": link, "bytes": size, "seconds": seconds}
    row["bandwidth"] = size / seconds if link == "copy" else bus_bandwidth(gpus, size, seconds)
    return row | more


def group_all_reduce(gradient_bytes: int, largest: int) -> list[Row]:
    """Rows of an all-reduce in the process group; every process of the group must call it."""
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")

    def synchronize() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    rows = []
    for size in sizes(gradient_bytes, largest):
        numbers = torch.zeros(size // 4, device=device)
        seconds = timed(lambda numbers=numbers: dist.all_reduce(numbers), synchronize)  # type: ignore[misc]
        rows.append(_row("all_reduce", dist.get_world_size(), 4 * len(numbers), seconds, backend=dist.get_backend()))
    return rows


def _synchronize_all(gpus: int) -> None:
    for gpu in range(gpus):
        torch.cuda.synchronize(gpu)


def process_all_reduce(gpus: int, gradient_bytes: int, largest: int) -> list[Row]:
    """Rows of an all-reduce by one process that has all GPUs, as DataParallel is."""
    rows = []
    for size in sizes(gradient_bytes, largest):
        parts: Sequence[Tensor] = [torch.zeros(size // 4, device=f"cuda:{gpu}") for gpu in range(gpus)]
        seconds = timed(lambda parts=parts: torch.cuda.nccl.all_reduce(parts), lambda: _synchronize_all(gpus))  # type: ignore[misc]
        rows.append(_row("all_reduce", gpus, 4 * len(parts[0]), seconds, backend="nccl"))
    return rows


def peer_copies(gpus: int, size: int = COPY_BYTES) -> list[Row]:
    """Rows of a copy from each GPU to each other, one at a time."""
    rows = []
    for source in range(gpus):
        for target in [g for g in range(gpus) if g != source]:
            here = torch.empty(size, dtype=torch.uint8, device=f"cuda:{source}")
            there = torch.empty(size, dtype=torch.uint8, device=f"cuda:{target}")
            seconds = timed(lambda a=there, b=here: a.copy_(b, non_blocking=True), lambda: _synchronize_all(gpus))  # type: ignore[misc]
            peer = int(torch.cuda.can_device_access_peer(source, target))
            rows.append(_row("copy", gpus, size, seconds, source=source, target=target, peer_access=peer))
            del here, there
    torch.cuda.empty_cache()
    return rows
