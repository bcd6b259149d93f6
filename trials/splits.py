"""Labelled images: on the host as they come from a dataset, and on the device as an evaluation reads them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Step = Callable[[], None]
"""One step of training or evaluation; `trials.engine` says what that is."""


@dataclass(frozen=True)
class Images:
    """Labelled images on the host: uint8 (N, 32, 32, 3) and int64 (N,)."""

    images: np.ndarray
    labels: np.ndarray

    def first(self, n: int) -> Images:
        """The first n of them; all for n = 0."""
        return Images(self.images[:n], self.labels[:n]) if n else self


class Evaluation:
    """A split on the device, gone through in batches of `batch` in its own order."""

    def __init__(self, images: Tensor, labels: Tensor, batch: int) -> None:
        self.images, self.labels = images, labels
        self.examples = len(labels)
        self.batch = min(batch, self.examples)
        self.steps = math.ceil(self.examples / self.batch)
        self.lanes = torch.arange(self.batch, device=images.device)
        self.position = torch.zeros(1, dtype=torch.int64, device=images.device)
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=images.device)
        self.wrong = torch.zeros((), dtype=torch.int64, device=images.device)
        self.step: Step

    def reset(self) -> None:
        """Back to the first batch, with empty sums."""
        for counter in (self.position, self.loss_sum, self.wrong):
            counter.zero_()

    def next_indices(self) -> tuple[Tensor, Tensor]:
        """The next batch's indices, and which are real: the last batch is filled up with its last image."""
        index = self.position * self.batch + self.lanes
        self.position += 1
        return index.clamp(max=self.examples - 1), index < self.examples
