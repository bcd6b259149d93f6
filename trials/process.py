"""What torch and the C library keep for the whole process."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
from collections.abc import Sequence

import torch


def configure(device: str, threads: int, precision: str, deterministic: bool) -> None:
    """Set what torch keeps for the whole process, before a trial's first tensor.

    tf32 lets matrix products and convolutions of fp32 tensors round their inputs to 10 bits of mantissa;
    torch's own default (convolutions only) is never used.
    """
    torch.set_num_threads(threads)
    if device == "cpu":
        keep_freed_memory()
    tf32 = "tf32" if precision == "tf32" else "ieee"
    torch.backends.cuda.matmul.fp32_precision = tf32
    torch.backends.cudnn.conv.fp32_precision = tf32
    torch.backends.cudnn.benchmark = device == "cuda" and not deterministic
    if deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # cuBLAS reads it when its handle is made
    torch.use_deterministic_algorithms(deterministic)


def keep_freed_memory() -> None:
    """Make glibc reuse the memory of freed activations instead of returning it to the kernel and having every
    page of it zeroed again: 15 % of a ResNet-8 step on a CPU. Without glibc, nothing happens."""
    if platform.libc_ver()[0] == "glibc":
        m_trim_threshold, m_mmap_threshold, mib = -1, -3, 2**20  # names and numbers of <malloc.h>
        libc = ctypes.CDLL(None)
        libc.mallopt(m_mmap_threshold, 32 * mib)
        libc.mallopt(m_trim_threshold, 1024 * mib)


def memory_of_others(devices: Sequence[int] | None = None) -> tuple[int, int]:
    """Bytes that other processes hold on the GPU where they hold most, and its size; (0, 0) without.

    Of `devices`, those that this process fills, or of all that it sees. What this process holds outside torch's
    allocator (its CUDA context, NCCL's buffers: 1 to 2 GiB) counts as theirs. Raises `RuntimeError` where a GPU has no
    room left even for the question.
    """
    if not torch.cuda.is_available():
        return 0, 0
    found = []
    for device in range(torch.cuda.device_count()) if devices is None else devices:
        free, size = torch.cuda.mem_get_info(device)
        found.append((size - free - torch.cuda.memory_reserved(device), size))
    return max(found)


def peak_memory_bytes(device: str) -> int:
    """Most memory held so far: tensors on the GPU, or the process's resident set on the CPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
