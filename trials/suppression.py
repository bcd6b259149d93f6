"""Greedy non-maximum suppression, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Box = Sequence[float]
"""Left, top, right, bottom."""


@dataclass(frozen=True)
class Comparison:
    """In one step (from 1) the best box left, `picked`, is held against another one left, `other` (indices)."""

    step: int
    picked: int
    other: int
    iou: float
    suppressed: bool


def suppress(boxes: Sequence[Box], scores: Sequence[float], threshold: float) -> tuple[list[int], list[Comparison]]:
    """Indices that stay, best first, and every comparison on the way.

    Each step takes the box with the best score among those left, keeps it, and drops from the rest all whose
    intersection over union with it is above the threshold.
    """
    left = sorted(range(len(boxes)), key=lambda i: -scores[i])
    kept: list[int] = []
    made: list[Comparison] = []
    while left:
        best, *rest = left
        kept.append(best)
        found = [Comparison(len(kept), best, i, iou(boxes[best], boxes[i]), False) for i in rest]
        found = [Comparison(c.step, c.picked, c.other, c.iou, c.iou > threshold) for c in found]
        made += found
        left = [c.other for c in found if not c.suppressed]
    return kept, made


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0.0) * max(height, 0.0)
    return common / (_area(a) + _area(b) - common)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
