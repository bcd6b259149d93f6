"""Drawn scenes for the region proposal network: a few figures of several sizes and proportions, with their boxes.

Figures are those of trials/synthetic.py, stretched; pixels are the same on every machine for the same reasons.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trials.seeding import derived_seed
from trials.synthetic import INSIDE, uniform

KINDS = (0, 1, 2, 4, 5)
"""Classes of trials/synthetic.py that are one connected figure: disc, ring, square, triangle, cross."""
NAMES = {0: "disc", 1: "ring", 2: "square", 4: "triangle", 5: "cross"}
FEWEST, MOST = 2, 4
"""Figures in a scene."""
SMALLEST, LARGEST = 14.0, 62.0
"""Side of a figure whose height and width are equal, in pixels."""
PROPORTIONS = (0.55, 1.8)
"""Height over width."""
PATCHES = 8
OVERLAP = 0.2
"""Greatest part of the smaller of two figures' boxes that lies in the other."""
TRIES = 50


@dataclass(frozen=True)
class Scene:
    """`pixels` uint8 (size, size, 3); `boxes` float32 (n, 4) as left, top, right, bottom in pixels, the tightest around
    each figure; `kinds` the class of each."""

    pixels: np.ndarray
    boxes: np.ndarray
    kinds: tuple[int, ...]


def draw(seed: int, purpose: str, number: int, size: int) -> Scene:
    """The scene with a number: the same whatever else was drawn before."""
    random = np.random.RandomState(derived_seed(seed, "scene", purpose, number) % 2**32)
    base = uniform(random, 0.1, 0.45, (1, 1, 3))
    ground = base + uniform(random, -0.1, 0.1, (PATCHES, PATCHES, 3))
    side = -(-size // PATCHES)
    picture = ground.repeat(side, axis=0).repeat(side, axis=1)[:size, :size].copy()
    boxes: list[np.ndarray] = []
    kinds = []
    for _ in range(random.randint(FEWEST, MOST + 1)):
        kind = KINDS[random.randint(len(KINDS))]
        mask = _placed(random, kind, size, boxes)
        if mask is None:
            continue
        boxes.append(box_of(mask))
        kinds.append(kind)
        picture[mask] = base[0, 0] + uniform(random, 0.2, 0.55, (3,))
    noise = np.frombuffer(random.bytes(2 * picture.size), np.uint8).reshape(2, *picture.shape).astype(np.float32)
    noisy = picture * np.float32(255) + (noise[0] - noise[1]) * np.float32(0.08)
    return Scene(np.clip(noisy, 0, 255).astype(np.uint8), np.stack(boxes).astype(np.float32), tuple(kinds))


def _placed(random: np.random.RandomState, kind: int, size: int, others: list[np.ndarray]) -> np.ndarray | None:
    """The mask of a figure at a place where it hardly overlaps others; None where none was found."""
    for _ in range(TRIES):
        side = float(uniform(random, SMALLEST, LARGEST, ()))
        stretch = float(np.sqrt(uniform(random, *PROPORTIONS, ())))
        half = np.float32(side / 2 * stretch), np.float32(side / 2 / stretch)
        centre = [uniform(random, float(h) + 1, size - float(h) - 1, ()) for h in half]
        line = np.arange(size, dtype=np.float32)
        v, u = (line[:, None] - centre[0]) / half[0], (line[None, :] - centre[1]) / half[1]
        mask = INSIDE[kind](*np.broadcast_arrays(u, v))
        if mask.any() and all(overlap(box_of(mask), other) < OVERLAP for other in others):
            return mask
    return None


def box_of(mask: np.ndarray) -> np.ndarray:
    """The tightest box around a mask's pixels: left, top, right, bottom, right and bottom exclusive."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """The part of the smaller of two boxes that lies in the other."""
    sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    smaller = min(np.prod(a[2:] - a[:2]), np.prod(b[2:] - b[:2]))
    return float(np.prod(sides) / smaller)
