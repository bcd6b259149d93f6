"""A real Slurm for all tests of this directory, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from slurm_lab import Lab, missing, slurm_lab


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Three compute nodes with 4, 4 and 2 GPUs. Skips where root or Slurm is missing."""
    if reason := missing():
        pytest.skip(f"no Slurm: {reason}")
    with slurm_lab() as started:
        yield started
