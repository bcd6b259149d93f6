"""Augmentation in batch, on the device, from tables drawn once an epoch on the CPU.

All random draws of an epoch stand in one int32 table of shape (steps, rows, samples), samples = copies x
batch size. Its rows are INDEX, DY, DX, FLIP, CY, CX; the augmentation says how many of them there are (ROWS).
Eager, captured and compiled steps on any device read the same table, so they train on the same images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trials.seeding import derived_seed

SIZE = 32
"""Height and width of an image in pixels."""
PAD = 4
"""Black pixels added on every side before the random crop (He et al. 2016, section 4.2)."""
INDEX, DY, DX, FLIP, CY, CX = range(6)
ROWS = {"none": 1, "standard": 4, "cutout": 6}
"""Rows of the table for each augmentation: index alone; with crop and flip; with the hole's centre too."""


def epoch_table(seed: int, epoch: int, examples: int, batch_size: int, copies: int, augmentation: str) -> Tensor:
    """Draw an epoch: int32 (steps, ROWS[augmentation], copies * batch_size) on the CPU.

    Each step has `batch_size` distinct samples, each `copies` times with draws of its own (the whole pipeline
    redrawn per copy: Hoffer et al. 2020). The last, incomplete batch is dropped. The order of the samples
    depends on seed and epoch alone, so arms with other copies or augmentations see them in the same order;
    so do the crops and flips of "standard" and "cutout".
    """
    generator = torch.Generator().manual_seed(derived_seed(seed, "draws", epoch))
    steps = examples // batch_size
    order = torch.randperm(examples, generator=generator)[: steps * batch_size]
    table = torch.empty(steps, ROWS[augmentation], copies * batch_size, dtype=torch.int32)
    table[:, INDEX] = order.view(steps, batch_size).repeat(1, copies)
    offsets, sides = 2 * PAD + 1, 2
    for row, bound in ((DY, offsets), (DX, offsets), (FLIP, sides), (CY, SIZE), (CX, SIZE)):
        if row < ROWS[augmentation]:
            table[:, row] = torch.randint(bound, (steps, copies * batch_size), generator=generator)
    return table


def pad_images(images: Tensor) -> Tensor:
    """uint8 (N, 32, 32, 3) -> uint8 (N, 40, 40, 3), black outside: padded before it is normalised, as
    torchvision's RandomCrop(32, padding=4) does."""
    return torch.nn.functional.pad(images, (0, 0, PAD, PAD, PAD, PAD))


def augment(images: Tensor, rows: Tensor, mean: Tensor, std: Tensor, cutout_length: int, dtype: torch.dtype) -> Tensor:
    """One batch, (samples, 3, 32, 32) in `dtype` and channels-last memory.

    `images` is uint8 (N, 32, 32, 3) for one row (no augmentation) and padded, (N, 40, 40, 3), for more; `rows`
    is one step of the table, integers (rows, samples); `mean` and `std` are (3,), of pixels in 0..1. Nothing
    here waits for the device, so it can be captured in a CUDA graph and compiled.
    """
    if len(rows) == ROWS["none"]:
        pixels = images.index_select(0, rows[INDEX])
    else:
        pixels = crop_and_flip(images, rows)
    batch = pixels.to(torch.float32).div_(255).sub_(mean).div_(std)
    if len(rows) == ROWS["cutout"]:
        batch = batch.masked_fill_(holes(rows[CY], rows[CX], cutout_length).unsqueeze(-1), 0.0)
    return batch.to(dtype).permute(0, 3, 1, 2)


def crop_and_flip(images: Tensor, rows: Tensor) -> Tensor:
    """Read each sample's 32x32 window at (DY, DX) of its padded image, mirrored where FLIP is 1."""
    line = torch.arange(SIZE, device=rows.device, dtype=rows.dtype)
    y = rows[DY, :, None] + line
    x = rows[DX, :, None] + torch.where(rows[FLIP, :, None] == 1, SIZE - 1 - line, line)
    return images[rows[INDEX, :, None, None], y[:, :, None], x[:, None, :]]


def holes(centre_y: Tensor, centre_x: Tensor, length: int) -> Tensor:
    """Where cutout's square is: bool (samples, 32, 32).

    From centre - length // 2 up to and without centre + length // 2, clipped at the border (DeVries & Taylor
    2017, util/cutout.py): an odd length gives a hole of length - 1, as there.
    """
    line = torch.arange(SIZE, device=centre_y.device, dtype=centre_y.dtype)
    above, left = centre_y[:, None] - length // 2, centre_x[:, None] - length // 2
    below, right = centre_y[:, None] + length // 2, centre_x[:, None] + length // 2
    inside_y = (line >= above) & (line < below)
    inside_x = (line >= left) & (line < right)
    return inside_y[:, :, None] & inside_x[:, None, :]
