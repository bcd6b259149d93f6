"""What tests have ranks do. A module of its own, so that spawned processes can import it."""

from __future__ import annotations

import errno
import os
import signal
import time
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from trials import data_parallel, ranks
from trials.data_parallel import Measured, Setup
from trials.splits import Images

MEASURE = data_parallel.measure
KEPT: list[Any] = []


def total(number: float) -> tuple[int, float]:
    """This rank, and the sum over ranks of number + rank."""
    value = torch.tensor(number + dist.get_rank())
    dist.all_reduce(value)
    return dist.get_rank(), float(value)


def meeting(late: float) -> float:
    """Seconds that this rank waits for the others, where the last comes `late` seconds after them."""
    time.sleep(late * dist.get_rank())
    began = time.monotonic()
    ranks.meet()
    return time.monotonic() - began


def measured_with_a_slow_loader(setup: Setup, images: Images, wait: float) -> Measured:
    """`data_parallel.measure`, where the last rank waits `wait` seconds longer for each of its batches."""
    make = data_parallel.make_loader

    def slow(*arguments: Any) -> Any:
        loader = make(*arguments)
        if dist.get_rank() == dist.get_world_size() - 1:
            loader.collate_fn = lambda examples: (time.sleep(wait), torch.utils.data.default_collate(examples))[1]
        return loader

    data_parallel.make_loader = slow
    try:
        return data_parallel.measure(setup, images)
    finally:
        data_parallel.make_loader = make


def out_of_memory(*arguments: Any) -> None:
    """Nothing fits."""
    raise torch.OutOfMemoryError("CUDA out of memory.")


def out_of_memory_at_32(setup: Setup, images: Images) -> Measured:
    """`data_parallel.measure` on a GPU that holds no batch of 32."""
    if setup.batch_per_gpu >= 32:
        raise torch.OutOfMemoryError("CUDA out of memory.")
    return MEASURE(setup, images)


def loaders_process(setup: Setup) -> int:
    """The process of a loader that this rank leaves at work."""
    images = Images(np.zeros((64, 32, 32, 3), np.uint8), np.zeros(64, np.int64))
    KEPT.append(iter(data_parallel.make_loader(setup, images, dist.get_rank())))
    return int(KEPT[-1]._workers[0].pid)


def process_id() -> int:
    """This rank's process."""
    return os.getpid()


def one_runs_out_of_memory() -> None:
    """Rank 1 is out of memory; the others wait for it in a collective."""
    if dist.get_rank() == 1:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8.00 GiB.\nMore words.")
    dist.barrier()


def one_fails() -> None:
    """Rank 0 has a bug."""
    if dist.get_rank() == 0:
        raise ValueError("a bug in a rank")
    dist.barrier()


def one_finds_the_disk_full() -> None:
    """Rank 1 has nowhere to write."""
    if dist.get_rank() == 1:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    dist.barrier()


def one_is_killed() -> None:
    """Rank 1 is killed; the others are in a collective with it."""
    if dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.all_reduce(torch.zeros(1000))


def one_vanishes() -> None:
    """Rank 1 is killed."""
    if dist.get_rank() == 1:
        os._exit(9)
    dist.barrier()


def sleep() -> None:
    """For ever."""
    while True:
        time.sleep(1)
