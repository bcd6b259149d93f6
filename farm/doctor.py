"""`farm doctor`: what this machine has, and what would make a run fail."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from farm import provenance

LEAST_FREE_BYTES = 1 << 30
PACKAGES = ("torch", "torchvision", "ray", "pandas", "pyarrow", "matplotlib", "omegaconf", "rich")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    ok: bool
    text: str


def examine(results: Path) -> Iterator[Finding]:
    """Look at packages, GPUs and the results directory; each finding as it is made."""
    for package in PACKAGES:
        try:
            module = importlib.import_module(package)
        except ImportError as error:
            yield Finding(package, False, str(error))
        else:
            yield Finding(package, True, str(getattr(module, "__version__", "present")))
    yield _gpus()
    yield _results(results)
    shared_memory = shutil.disk_usage("/dev/shm").total
    yield Finding("/dev/shm", shared_memory >= LEAST_FREE_BYTES, f"{shared_memory / 2**30:.1f} GiB for Ray's objects")


def _gpus() -> Finding:
    import torch

    models = provenance.gpu_models()
    if models and not torch.cuda.is_available():
        return Finding("GPUs", False, f"{', '.join(models)}, but torch {torch.__version__} cannot use them")
    return Finding("GPUs", True, ", ".join(models) or "none; use device=cpu resources.gpu=0, or profile=smoke")


def _results(results: Path) -> Finding:
    place = next(p for p in [results, *results.parents] if p.exists())
    if not os.access(place, os.W_OK):
        return Finding("results", False, f"{results} cannot be written; use results=… or FARM_RESULTS")
    free = shutil.disk_usage(place).free
    return Finding("results", free >= LEAST_FREE_BYTES, f"{results} ({free / 2**30:.0f} GiB free)")
