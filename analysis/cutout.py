"""The figure of two images before and after cutout."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from analysis import style
from analysis.provenance import Source
from analysis.style import Figure

SIZE = 32
LENGTH = 16
"""Side of the square for CIFAR-10 in Hoffer et al. 2020, and in DeVries & Taylor 2017 for CIFAR-10."""
MEAN = (0.4914, 0.4822, 0.4465)
"""CIFAR-10's channel means: a zero after normalisation is this colour."""
SEED = 0
"""Of the places that the figure shows."""
Image = npt.NDArray[np.uint8]


def mask(row: int, column: int, length: int = LENGTH, size: int = SIZE) -> npt.NDArray[np.bool_]:
    """Where the square is, (size, size): from centre - length // 2 up to and without centre + length // 2,
    clipped at the border (DeVries & Taylor 2017, util/cutout.py)."""
    line = np.arange(size)
    rows = (line >= row - length // 2) & (line < row + length // 2)
    columns = (line >= column - length // 2) & (line < column + length // 2)
    return rows[:, None] & columns[None, :]


def cut(image: Image, row: int, column: int, length: int = LENGTH) -> Image:
    """The image (32, 32, 3) with the square at the colour that is zero after normalisation."""
    result = image.copy()
    result[mask(row, column, length)] = np.round(255 * np.array(MEAN)).astype(np.uint8)
    return result


def centres() -> list[list[tuple[int, int]]]:
    """Row and column of three squares' centres for each of two images, uniform over the image as a trial draws them."""
    drawn = np.random.default_rng(SEED).integers(SIZE, size=(2, 3, 2))
    return [[(int(row), int(column)) for row, column in places] for places in drawn]


def before_and_after(images: Any = None, images_source: str = "", without_images: str = "") -> Figure:
    """Two images, each before cutout and after three draws of it.

    `images_source` says in words what they are. Without images, two drawn pictures; `without_images` says why.
    """
    if images is None:
        images, images_source = drawn_pictures(), f"two drawn pictures, {without_images}".removesuffix(", ")
    pictures, places = np.asarray(images, dtype=np.uint8)[:2], centres()
    drawing, axes = style.new_drawing(4, 2, height=2.75)
    drawing.subplots_adjust(left=0.01, right=0.99, bottom=0.02, top=0.92, wspace=0.06, hspace=0.06)
    headings = ["original", *(f"cutout {i}" for i in (1, 2, 3))]
    with style.styled():
        for i, picture in enumerate(pictures):
            shown = [picture, *(cut(picture, r, c) for r, c in places[i])]
            for j, image in enumerate(shown):
                panel = axes[4 * i + j]
                panel.imshow(image, interpolation="nearest")
                panel.set_axis_off()
                if i == 0:
                    panel.set_title(headings[j])
    areas = "; ".join(
        f"image {i}: " + ", ".join(f"{100 * mask(r, c).mean():.1f} %" for r, c in own)
        for i, own in enumerate(places, 1)
    )
    return Figure(
        title="Two images before and after cutout",
        alt="Two rows of four pictures: an image, then the same image with a grey square of at most "
        f"{LENGTH} by {LENGTH} pixels over another place each time, cut off where it passes the border.",
        caption=f"A {LENGTH}x{LENGTH} square of zeros at a random place of each image ({images_source}). Zeros "
        "are put in after normalisation, so they show as the data set's mean colour. The centre may lie "
        f"anywhere in the image and the square is clipped at the border; hidden here: {areas}.",
        drawing=drawing,
        source=Source(note=f"Of {images_source}; the squares' places are drawn with seed {SEED}."),
    )


def drawn_pictures() -> Image:
    """Two simple pictures, uint8 (2, 32, 32, 3): a house under the sun, and a boat at sea."""
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    house = _paint((150, 200, 235), (y >= 24, (96, 150, 80)))
    house = _over(house, (y - 5) ** 2 + (x - 26) ** 2 <= 9, (250, 205, 70))
    house = _over(house, (y >= 14) & (y < 27) & (x >= 7) & (x < 22), (205, 130, 95))
    house = _over(house, (y >= 6) & (y < 14) & (abs(x - 14.5) <= (y - 5) * 1.15), (140, 55, 50))
    house = _over(house, (y >= 19) & (y < 27) & (x >= 12) & (x < 16), (85, 55, 40))
    house = _over(house, (y >= 17) & (y < 20) & (x >= 17) & (x < 20), (245, 240, 200))
    boat = _paint((225, 190, 160), (y >= 19, (45, 95, 140)), ((y >= 23) & ((x + y) % 7 == 0), (90, 140, 180)))
    boat = _over(boat, (y >= 17) & (y < 22) & (abs(x - 16) <= 11 - (y - 17)), (110, 60, 40))
    boat = _over(boat, (y >= 4) & (y < 17) & (x == 16), (70, 50, 40))
    boat = _over(boat, (y >= 4) & (y < 16) & (x > 16) & (x - 16 <= (y - 3) * 0.8), (245, 245, 240))
    boat = _over(boat, (y >= 7) & (y < 16) & (x < 16) & (16 - x <= (y - 6) * 0.7), (200, 60, 55))
    return np.stack([house, boat])


def _paint(ground: tuple[int, int, int], *layers: tuple[Any, tuple[int, int, int]]) -> Image:
    image = np.full((SIZE, SIZE, 3), ground, dtype=np.uint8)
    for where, colour in layers:
        image = _over(image, where, colour)
    return image


def _over(image: Image, where: Any, colour: tuple[int, int, int]) -> Image:
    result = image.copy()
    result[where] = colour
    return result
