"""Triton kernels for both ends of a training step: the batch, and the loss.

`load_batch` is `Trainer.next_batch` in one kernel, `loss_and_gradient` is mean cross-entropy, its gradient and
`Trainer.count` in another. In torch's own operations they are about 30 kernels of two or three microseconds each,
as long as everything else that problem 1's network does in a step.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from trials.augment import PAD, SIZE

PIXELS = SIZE * SIZE
BLOCK = 2048
"""Values of a batch that one program makes."""
MOST_ROWS = 512
"""Samples whose loss is computed at once, at most."""


@triton.jit
def _load_batch(
    images, labels, table, rates, position, mean, std,
    batch, batch_labels, learning_rate, samples,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr, HOLE: tl.constexpr,
    IMAGE: tl.constexpr, SIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Program (sample, part): BLOCK of the sample's SIDE * SIDE * CHANNELS values, channels last; those past
    the third channel are zero."""
    sample, part = tl.program_id(0), tl.program_id(1)
    step = tl.load(position)
    row = table + step * ROWS * samples + sample
    index = tl.load(row)
    value = part * BLOCK + tl.arange(0, BLOCK)
    pixel, channel = value // CHANNELS, value % CHANNELS
    y, x = pixel // SIDE, pixel % SIDE
    if ROWS > 1:
        flip = tl.load(row + 3 * samples)
        source_y = y + tl.load(row + samples)
        source_x = tl.load(row + 2 * samples) + tl.where(flip == 1, SIDE - 1 - x, x)
    else:
        source_y, source_x = y, x
    real = (value < SIDE * SIDE * CHANNELS) & (channel < 3)
    start = images + index.to(tl.int64) * (IMAGE * IMAGE * 3)
    byte = tl.load(start + (source_y * IMAGE + source_x) * 3 + channel, mask=real, other=0)
    pixels = tl.div_rn(byte.to(tl.float32), 255.0) - tl.load(mean + channel, mask=real, other=0.0)
    pixels = tl.div_rn(pixels, tl.load(std + channel, mask=real, other=1.0))
    if ROWS > 4:
        above, left = tl.load(row + 4 * samples) - HOLE, tl.load(row + 5 * samples) - HOLE
        hole = (y >= above) & (y < above + 2 * HOLE) & (x >= left) & (x < left + 2 * HOLE)
        real = real & (hole == 0)
    pixels = tl.where(real, pixels, 0.0)
    target = batch + sample.to(tl.int64) * (SIDE * SIDE * CHANNELS) + value
    tl.store(target, pixels.to(batch.dtype.element_ty), mask=value < SIDE * SIDE * CHANNELS)
    if part == 0:
        tl.store(batch_labels + sample, tl.load(labels + index))
        if sample == 0:
            tl.store(learning_rate, tl.load(rates + step))


def load_batch(
    images: Tensor,
    labels: Tensor,
    table: Tensor,
    rates: Tensor,
    position: Tensor,
    learning_rate: Tensor,
    mean: Tensor,
    std: Tensor,
    cutout_length: int,
    dtype: torch.dtype,
    channels: int = 3,
) -> tuple[Tensor, Tensor]:
    """The images (samples, channels, 32, 32), channels last, and labels of the table's row `position`.

    The arguments are the trainer's tensors of these names. `channels` over 3 are filled with zeros. Sets
    `learning_rate`, and leaves `position`, which `loss_and_gradient` moves on.
    """
    rows, samples = table.shape[1:]
    batch = torch.empty(samples, SIZE, SIZE, channels, dtype=dtype, device=images.device)
    batch_labels = torch.empty(samples, dtype=torch.int64, device=images.device)
    grid = (samples, triton.cdiv(PIXELS * channels, BLOCK))
    _load_batch[grid](
        images, labels, table, rates, position, mean, std, batch, batch_labels, learning_rate, samples,
        ROWS=rows, CHANNELS=channels, HOLE=cutout_length // 2,
        IMAGE=SIZE if rows == 1 else SIZE + 2 * PAD, SIDE=SIZE, BLOCK=BLOCK,
    )  # fmt: skip
    return batch.permute(0, 3, 1, 2), batch_labels


@triton.jit
def _loss_and_gradient(
    logits, labels, gradient, loss_sum, wrong, position, samples,
    CLASSES: tl.constexpr, LANES: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """One program for the whole batch, so that its sums have one order."""
    lane = tl.arange(0, LANES)[None, :]
    losses = tl.zeros([ROWS], tl.float32)
    errors = tl.zeros([ROWS], tl.int32)
    for start in range(0, samples, ROWS):
        row = start + tl.arange(0, ROWS)
        real = row < samples
        inside = real[:, None] & (lane < CLASSES)
        address = row[:, None] * CLASSES + lane
        logit = tl.load(logits + address, mask=inside, other=float("-inf")).to(tl.float32)
        logit = tl.where(real[:, None], logit, 0.0)
        label = tl.load(labels + row, mask=real, other=0)
        highest = tl.max(logit, 1)
        exponential = tl.exp(logit - highest[:, None])
        total = tl.sum(exponential, 1)
        here = lane == label[:, None]
        of_label = tl.sum(tl.where(here, logit, 0.0), 1)
        losses += tl.where(real, highest + tl.log(total) - of_label, 0.0)
        first = tl.argmax(logit, 1)
        errors += (real & (first != label)).to(tl.int32)
        slope = (exponential / total[:, None] - here.to(tl.float32)) / samples
        tl.store(gradient + address, slope.to(gradient.dtype.element_ty), mask=inside)
    mean = tl.sum(losses, 0) / samples
    tl.store(loss_sum, tl.load(loss_sum) + mean.to(tl.float64))
    tl.store(wrong, tl.load(wrong) + tl.sum(errors, 0))
    tl.store(position, tl.load(position) + 1)


def loss_and_gradient(logits: Tensor, labels: Tensor, loss_sum: Tensor, wrong: Tensor, position: Tensor) -> Tensor:
    """The gradient of the batch's mean cross-entropy with respect to `logits` (samples, classes).

    Adds the loss to `loss_sum` (float64), the number of errors to `wrong` (int64), and one to `position`.
    """
    samples, classes = logits.shape
    logits = logits.detach().contiguous()
    gradient = torch.empty_like(logits)
    _loss_and_gradient[(1,)](
        logits, labels, gradient, loss_sum, wrong, position, samples,
        CLASSES=classes, LANES=triton.next_power_of_2(classes),
        ROWS=min(MOST_ROWS, triton.next_power_of_2(samples)), num_warps=8,
    )  # fmt: skip
    return gradient
