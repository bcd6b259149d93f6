"""Triton kernels for batch norm, ReLU and the shortcut's sum around the convolutions of `trials.fused_conv`.

The sums over the batch are computed by a fixed number of programs, each over its own tiles, and put together in one
order by the program that finishes last, so results are the same bits in every run.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def last_to_finish(counter, programs):
    """Whether all other programs have stored what they will store. Resets the counter for the next launch."""
    tl.debug_barrier()  # the stores of all of this program's threads stand before its sign
    last = tl.atomic_add(counter, 1, sem="acq_rel") == programs - 1
    if last:
        tl.store(counter, 0)
    return last


@triton.jit
def sums_of_programs(partial, programs, C: tl.constexpr, AT_ONCE: tl.constexpr):
    """Two sums over programs, each (C,), of partial (programs, 2, C)."""
    channel = tl.arange(0, C)[None, :]
    first = tl.zeros([AT_ONCE, C], tl.float32)
    second = tl.zeros([AT_ONCE, C], tl.float32)
    for start in range(0, programs, AT_ONCE):
        program = (start + tl.arange(0, AT_ONCE))[:, None]
        address = partial + program * (2 * C) + channel
        real = (program < programs) & (channel < C)
        first += tl.load(address, mask=real, other=0.0, cache_modifier=".cg")
        second += tl.load(address + C, mask=real, other=0.0, cache_modifier=".cg")
    return tl.sum(first, 0), tl.sum(second, 0)


@triton.jit
def store_sums(partial, program, first, second, C: tl.constexpr):
    """This program's row of partial, from its sums (rows, C)."""
    address = partial + program * (2 * C) + tl.arange(0, C)
    tl.store(address, tl.sum(first, 0))
    tl.store(address + C, tl.sum(second, 0))


@triton.jit
def kept(total, values, KEPT: tl.constexpr):
    """total (KEPT, C) with values (rows, C) added: summed over rows at once if KEPT is 1, else row by row, which
    leaves one sum for the end at the price of registers."""
    if KEPT == 1:
        total += tl.sum(values, 0)[None, :]
    else:
        total += values
    return total


@triton.jit
def normalise(
    result, scale, shift, shortcut, shortcut_scale, shortcut_shift, activation, values,
    SHORTCUT: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """activation = relu(scale * result + shift + shortcut). SHORTCUT: "none", "same" (added as it is) or "norm"
    (a convolution's result, with scale and shift of its own)."""
    lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    channel = lane % C
    real = lane < values
    total = tl.load(result + lane, mask=real, other=0.0).to(tl.float32)
    total = total * tl.load(scale + channel) + tl.load(shift + channel)
    if SHORTCUT != "none":
        beside = tl.load(shortcut + lane, mask=real, other=0.0).to(tl.float32)
        if SHORTCUT == "norm":
            beside = beside * tl.load(shortcut_scale + channel) + tl.load(shortcut_shift + channel)
        total += beside
    tl.store(activation + lane, tl.maximum(total, 0.0).to(activation.dtype.element_ty), mask=real)


@triton.jit
def through_relu(gradient, address, real, passed, value, centre, deviation_inverse, below_gradient):
    """Store the gradient of batch norm's result below a ReLU; it, and its product with the normalised values."""
    gradient = tl.where(passed, gradient, 0.0)
    tl.store(below_gradient + address, gradient.to(below_gradient.dtype.element_ty), mask=real)
    normalised = (value - centre[None, :]) * deviation_inverse[None, :]
    return gradient, gradient * normalised


@triton.jit
def finish_norm_gradient(
    partial, counter, program, programs, first, second, norm_weight_gradient, norm_bias_gradient,
    C: tl.constexpr, AT_ONCE: tl.constexpr,
):  # fmt: skip
    """The gradients of batch norm's weight and bias, from the programs' sums."""
    store_sums(partial, program, first, second, C)
    if last_to_finish(counter, programs):
        total, total_product = sums_of_programs(partial, programs, C, AT_ONCE)
        tl.store(norm_bias_gradient + tl.arange(0, C), total)
        tl.store(norm_weight_gradient + tl.arange(0, C), total_product)


@triton.jit
def pool_gradient(
    pooled_gradient, activation, below_result, mean, inverse,
    below_gradient, partial, counter, norm_weight_gradient, norm_bias_gradient, pixels,
    AREA: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr, AT_ONCE: tl.constexpr,
):  # fmt: skip
    """`input_gradient` for the global average pool over AREA pixels: pooled_gradient is (N, C), float32."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    out = tl.arange(0, C)
    centre, deviation_inverse = tl.load(mean + out), tl.load(inverse + out)
    first = tl.zeros([BLOCK, C], tl.float32)
    second = tl.zeros([BLOCK, C], tl.float32)
    for tile in range(program, tl.cdiv(pixels, BLOCK), programs):
        pixel = tile * BLOCK + tl.arange(0, BLOCK)
        real = (pixel < pixels)[:, None] & (out < C)[None, :]
        gradient = tl.load(pooled_gradient + (pixel // AREA)[:, None] * C + out[None, :], mask=real, other=0.0) / AREA
        address = pixel[:, None] * C + out[None, :]
        passed = tl.load(activation + address, mask=real, other=0.0) > 0
        value = tl.load(below_result + address, mask=real, other=0.0).to(tl.float32)
        sums = through_relu(gradient, address, real, passed, value, centre, deviation_inverse, below_gradient)
        first += sums[0]
        second += sums[1]
    finish_norm_gradient(
        partial, counter, program, programs, first, second, norm_weight_gradient, norm_bias_gradient, C, AT_ONCE
    )  # fmt: skip


@triton.jit
def norm_gradient(
    gradient, below_result, mean, inverse, partial, counter, norm_weight_gradient, norm_bias_gradient, pixels,
    C: tl.constexpr, BLOCK: tl.constexpr, AT_ONCE: tl.constexpr,
):  # fmt: skip
    """Batch norm's sums for a gradient that is already stored: the projection's, which shares its block's."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    out = tl.arange(0, C)
    centre, deviation_inverse = tl.load(mean + out), tl.load(inverse + out)
    first = tl.zeros([BLOCK, C], tl.float32)
    second = tl.zeros([BLOCK, C], tl.float32)
    for tile in range(program, tl.cdiv(pixels, BLOCK), programs):
        pixel = tile * BLOCK + tl.arange(0, BLOCK)
        real = (pixel < pixels)[:, None] & (out < C)[None, :]
        address = pixel[:, None] * C + out[None, :]
        above = tl.load(gradient + address, mask=real, other=0.0).to(tl.float32)
        value = tl.load(below_result + address, mask=real, other=0.0).to(tl.float32)
        first += above
        second += above * (value - centre[None, :]) * deviation_inverse[None, :]
    finish_norm_gradient(
        partial, counter, program, programs, first, second, norm_weight_gradient, norm_bias_gradient, C, AT_ONCE
    )  # fmt: skip
