"""What a reader of the report may choose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Options:
    """`target_accuracy` (fraction) of the tables; `confidence` of the intervals.

    `images` are uint8 arrays (n >= 2, 32, 32, 3) for the figure of cutout, `images_source` says what they are
    ("CIFAR-10, training images 0 and 1"); without them two pictures are drawn, and `without_images` says why.
    """

    target_accuracy: float = 0.94
    confidence: float = 0.95
    images: Any = None
    images_source: str = ""
    without_images: str = "for CIFAR-10 was not at hand"
