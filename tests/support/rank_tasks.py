"""What tests have ranks do. A module of its own, so that spawned processes can import it."""

from __future__ import annotations

import os
import time

import torch
import torch.distributed as dist


def total(number: float) -> tuple[int, float]:
    """This rank, and the sum over ranks of number + rank."""
    value = torch.tensor(number + dist.get_rank())
    dist.all_reduce(value)
    return dist.get_rank(), float(value)


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


def one_vanishes() -> None:
    """Rank 1 is killed."""
    if dist.get_rank() == 1:
        os._exit(9)
    dist.barrier()


def sleep() -> None:
    """For ever."""
    while True:
        time.sleep(1)
