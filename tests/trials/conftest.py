"""What several tests of trials need."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from trials.data import Dataset
from trials.spec import Row, State


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One CPU thread, and torch's process-wide settings as they were, whatever a trial configures."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    yield
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture
def cifar10_root() -> Path:
    """Where the real CIFAR-10 is."""
    root = Path(os.environ.get("FARM_TEST_CIFAR10", Path(__file__).parents[3] / "shared" / "cifar10"))
    if not root.is_dir():
        pytest.skip(f"no CIFAR-10 at {root}; set FARM_TEST_CIFAR10")
    return root


@pytest.fixture
def tiny() -> Dataset:
    """70 training and 30 test images of noise."""
    random = np.random.RandomState(0)
    images = random.randint(0, 256, (100, 32, 32, 3)).astype(np.uint8)
    labels = random.randint(0, 10, 100)
    return Dataset(
        "tiny",
        "tiny",
        images[:70],
        labels[:70],
        images[70:],
        labels[70:],
        (0.5,) * 3,
        (0.25,) * 3,
        tuple("0123456789"),
    )


@dataclass
class TrialContext:
    """A context without a farm around it. `stop` is called at each look whether to stop."""

    dataset: Dataset
    state: State | None = None
    device: str = "cpu"
    rows: list[Row] = field(default_factory=list)
    looks: int = 0

    def check_stop(self) -> None:
        self.looks += 1


@pytest.fixture
def context(tiny: Dataset) -> TrialContext:
    return TrialContext(tiny)
