"""How the kernels of `trials.fused_conv` are launched."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tile:
    """How a kernel is launched: pixels that a program works on at once, most programs, warps of each, and tiles
    that are loaded ahead (1: none), and whether sums over pixels are kept by row until the end."""

    pixels: int
    programs: int
    warps: int
    stages: int
    keep: bool = False


TILES = {
    "small": {
        "convolve": {16: Tile(512, 132, 8, 1), 32: Tile(256, 132, 8, 1, True), 64: Tile(64, 132, 4, 1)},
        "weight_gradient": {16: Tile(128, 264, 4, 1), 32: Tile(128, 132, 8, 1), 64: Tile(128, 132, 8, 1)},
        "input_gradient": {16: Tile(512, 264, 8, 1), 32: Tile(128, 264, 4, 1), 64: Tile(64, 132, 4, 1)},
    },
    "large": {
        "convolve": {16: Tile(256, 264, 8, 1, True), 32: Tile(64, 396, 4, 1, True), 64: Tile(128, 132, 8, 1, True)},
        "weight_gradient": {16: Tile(64, 264, 4, 3), 32: Tile(64, 132, 8, 3), 64: Tile(64, 132, 8, 3)},
        "input_gradient": {16: Tile(128, 528, 4, 1), 32: Tile(64, 396, 4, 1, True), 64: Tile(128, 132, 8, 1, True)},
    },
}
"""By batch, kernel and channels of the convolution's input, as benchmarks/tune.py found them best on an H200."""
ENOUGH_SHARED_MEMORY = (9, 10)
"""Major compute capabilities (Hopper, Blackwell) with the 227 kB a program that these launch shapes are made for."""
SMALL_BATCH = 128
"""Samples up to which a batch is small: it does not fill the GPU, and a kernel's latency is what counts."""
CHECK_TILE = Tile(16, 528, 8, 1)
"""For fp32, whose products are made of single multiplications, unrolled: there to check the kernels with."""
