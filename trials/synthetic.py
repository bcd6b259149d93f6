"""The built-in dataset: ten classes of drawn figures, 32x32 pixels, for the smoke profile and the tests.

Each image is one figure (its class) of random colour, place, size and angle on a patchy background of random
colours, crossed by a bar, under pixel noise. Learnable but not trivial: after 240
steps of 32 images a ResNet-8 has an error of about 0.27.

Every machine draws the same pixels: the random stream is NumPy's `RandomState`, frozen by its policy, and the
arithmetic is IEEE additions, products, divisions and square roots only, element by element.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

FINGERPRINT = "drawn-v1"
"""Names the version of this generator; a test pins the pixels."""
CLASSES = ("disc", "ring", "square", "frame", "triangle", "cross", "bands", "posts", "checkers", "dots")
MEAN = (0.38, 0.38, 0.38)
STD = (0.21, 0.21, 0.21)
SIZES = {"train": 10_000, "test": 2_000}
SEEDS = {"train": 20220404, "test": 20220405}
SIZE = 32
PATCHES = 4
"""The background has PATCHES x PATCHES patches of slightly different colour."""

Field = np.ndarray
"""Float32 (N, 32, 32): a coordinate or a distance at each pixel, in units of the figure's radius."""


def draw(split: str) -> tuple[np.ndarray, np.ndarray]:
    """All images of a split: uint8 (N, 32, 32, 3) and int64 (N,), classes equally often in random order."""
    random = np.random.RandomState(SEEDS[split])
    n = SIZES[split]
    labels = random.permutation(np.arange(n) % len(CLASSES)).astype(np.int64)
    figure = figures(random, labels)[..., None]
    bar = bars(random, n)[..., None]
    ground = background(random, n)
    colour = brighter(random, ground)
    bar_colour = uniform(random, 0.0, 1.0, (n, 1, 1, 3))
    pixels = np.where(bar, bar_colour, np.where(figure, colour, ground))
    noise = np.frombuffer(random.bytes(2 * pixels.size), dtype=np.uint8).reshape(2, *pixels.shape)
    noisy = pixels * np.float32(255) + (noise[0].astype(np.float32) - noise[1]) * np.float32(0.15)
    return np.clip(noisy, 0, 255).astype(np.uint8), labels


def figures(random: np.random.RandomState, labels: np.ndarray) -> np.ndarray:
    """Bool (N, 32, 32): where each label's figure is."""
    u, v = coordinates(random, len(labels), radius=(8.0, 14.0), turn=0.3)
    mask = np.zeros(u.shape, dtype=bool)
    for label, inside in enumerate(INSIDE):
        chosen = labels == label
        mask[chosen] = inside(u[chosen], v[chosen])
    return mask


def bars(random: np.random.RandomState, n: int) -> np.ndarray:
    """Bool (N, 32, 32): a thin bar at a random place and angle, part of no class."""
    u, v = coordinates(random, n, radius=(4.0, 12.0), turn=1.0)
    return (np.abs(u) < 0.12) & (np.abs(v) < 1.0)


def coordinates(random: np.random.RandomState, n: int, radius: tuple[float, float], turn: float) -> tuple[Field, Field]:
    """Each pixel in a frame that is moved, scaled by a radius in pixels, and turned by an angle whose tangent
    is uniform in -turn..turn."""
    centre = uniform(random, 10.0, 22.0, (2, n, 1, 1))
    scale = uniform(random, *radius, (n, 1, 1))
    tangent = uniform(random, -turn, turn, (n, 1, 1))
    cosine = 1 / np.sqrt(1 + tangent * tangent)
    sine = tangent * cosine
    line = np.arange(SIZE, dtype=np.float32)
    y, x = (line[:, None] - centre[0]) / scale, (line[None, :] - centre[1]) / scale
    return cosine * x + sine * y, cosine * y - sine * x


def background(random: np.random.RandomState, n: int) -> np.ndarray:
    """Float32 (N, 32, 32, 3) in 0..1: one colour, and patches that differ from it by up to 0.1."""
    base = uniform(random, 0.1, 0.5, (n, 1, 1, 3))
    patches = base + uniform(random, -0.1, 0.1, (n, PATCHES, PATCHES, 3))
    side = SIZE // PATCHES
    return patches.repeat(side, axis=1).repeat(side, axis=2)


def brighter(random: np.random.RandomState, ground: np.ndarray) -> np.ndarray:
    """Float32 (N, 1, 1, 3): a colour 0.15 to 0.55 above the ground's corner in each channel. Figures
    of either sign of contrast would need several times the images to learn."""
    corner = ground[:, :1, :1]
    return corner + uniform(random, 0.15, 0.55, corner.shape)


def uniform(random: np.random.RandomState, low: float, high: float, shape: tuple[int, ...]) -> np.ndarray:
    """Float32 in [low, high)."""
    return (low + (high - low) * random.random_sample(shape)).astype(np.float32)


def _square(u: Field, v: Field) -> Field:
    return np.maximum(np.abs(u), np.abs(v))


def _disc(u: Field, v: Field) -> Field:
    return u * u + v * v


def _odd(u: Field) -> np.ndarray:
    return np.floor(u * np.float32(2.5)).astype(np.int32) % 2 == 1


def _dot(u: Field) -> Field:
    cell = u * np.float32(1.5)
    return cell - np.floor(cell) - np.float32(0.5)


INSIDE: tuple[Callable[[Field, Field], np.ndarray], ...] = (
    lambda u, v: _disc(u, v) < 0.9,
    lambda u, v: (_disc(u, v) > 0.4) & (_disc(u, v) < 1.0),
    lambda u, v: _square(u, v) < 0.8,
    lambda u, v: (_square(u, v) > 0.5) & (_square(u, v) < 0.9),
    lambda u, v: (v > -0.7) & (np.abs(u) * 2 + v < 1.0),
    lambda u, v: (np.minimum(np.abs(u), np.abs(v)) < 0.3) & (_square(u, v) < 1.0),
    lambda u, v: _odd(v) & (_square(u, v) < 0.9),
    lambda u, v: _odd(u) & (_square(u, v) < 0.9),
    lambda u, v: (_odd(u) != _odd(v)) & (_square(u, v) < 0.9),
    lambda u, v: (_disc(_dot(u), _dot(v)) < 0.08) & (_square(u, v) < 1.0),
)
"""For each class, where its figure is in its own coordinates."""
