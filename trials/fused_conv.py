"""Triton kernels for the convolutions and batch norms of narrow residual networks, training forward and backward.

At 16 to 64 channels cuDNN's convolutions take about six times as long as their memory traffic would, and the passes
of batch norm and ReLU between them as long again. Here the statistics of batch norm, its gradient's sums, the ReLU's
mask and the shortcut's gradient are computed where a convolution's result is still in registers:

    convolve           y = conv(x); batch norm's statistics of y
    normalise          a = relu(scale * y + shift [+ shortcut])
    weight_gradient    dy from the gradient dz of batch norm's result; dW = x * dy
    input_gradient     dz of the layer below: (dy * W [+ shortcut's gradient]) where its a > 0; its batch norm's sums

The second is in `trials.fused_norm`, with what ends the others. Tensors are (N, H, W, C) in memory.
`docs/performance.md` has what each fusion was predicted to bring and brought.
"""

from __future__ import annotations

import triton
import triton.language as tl

from trials.fused_norm import finish_norm_gradient, kept, last_to_finish, store_sums, sums_of_programs, through_relu


@triton.jit
def window_values(
    source, pixel, pixels, tap_y, tap_x,
    SIZE: tl.constexpr, SOURCE_SIZE: tl.constexpr, C: tl.constexpr,
    TAPS: tl.constexpr, STRIDE: tl.constexpr, DILATION: tl.constexpr,
):  # fmt: skip
    """What stands under tap (tap_y, tap_x) of the windows at `pixel` (BLOCK,) of images SIZE wide: (BLOCK, C) of
    source, zero outside. With DILATION 2 the source is seen as spread out, with zeros between."""
    y = (pixel // SIZE) % SIZE * STRIDE + (tap_y - TAPS // 2)
    x = pixel % SIZE * STRIDE + (tap_x - TAPS // 2)
    inside = (y >= 0) & (y < SOURCE_SIZE * DILATION) & (x >= 0) & (x < SOURCE_SIZE * DILATION) & (pixel < pixels)
    if DILATION > 1:
        inside = inside & (y % DILATION == 0) & (x % DILATION == 0)
    start = ((pixel // (SIZE * SIZE) * SOURCE_SIZE + y // DILATION) * SOURCE_SIZE + x // DILATION) * C
    return tl.load(source + start[:, None] + tl.arange(0, C)[None, :], mask=inside[:, None], other=0.0)


@triton.jit
def tap_weights(
    weight, tap_y: tl.constexpr, tap_x: tl.constexpr,
    C: tl.constexpr, OUT: tl.constexpr, WEIGHT_C: tl.constexpr, TAPS: tl.constexpr, BACKWARD: tl.constexpr,
):  # fmt: skip
    """The weights of a tap, (C, OUT). Forward the weight is (OUT, TAPS, TAPS, WEIGHT_C), with WEIGHT_C <= C.
    BACKWARD it is (C, TAPS, TAPS, OUT), and taken from its other end."""
    channel, out = tl.arange(0, C)[:, None], tl.arange(0, OUT)[None, :]
    tap: tl.constexpr = tap_y * TAPS + tap_x
    if BACKWARD:
        matrix = tl.load(weight + (channel * (TAPS * TAPS) + (TAPS * TAPS - 1 - tap)) * OUT + out)
    else:
        address = weight + out * (TAPS * TAPS * WEIGHT_C) + tap * WEIGHT_C + channel
        matrix = tl.load(address, mask=(channel < WEIGHT_C) & (out < OUT), other=0.0)
    return matrix


@triton.jit
def all_weights(
    weight, C: tl.constexpr, OUT: tl.constexpr, WEIGHT_C: tl.constexpr, TAPS: tl.constexpr, BACKWARD: tl.constexpr
):  # fmt: skip
    """The weights of all taps, each (C, OUT)."""
    if TAPS == 1:
        return (tap_weights(weight, 0, 0, C, OUT, WEIGHT_C, TAPS, BACKWARD),)
    else:  # noqa: RET505  (a branch that is not taken is not compiled)
        return (
            tap_weights(weight, 0, 0, C, OUT, WEIGHT_C, TAPS, BACKWARD),
            tap_weights(weight, 0, 1, C, OUT, WEIGHT_C, TAPS, BACKWARD),
            tap_weights(weight, 0, 2, C, OUT, WEIGHT_C, TAPS, BACKWARD),
            tap_weights(weight, 1, 0, C, OUT, WEIGHT_C, TAPS, BACKWARD),
            tap_weights(weight, 1, 1, C, OUT, WEIGHT_C, TAPS, BACKWARD),
            tap_weights(weight, 1, 2, C, OUT, WEIGHT_C, TAPS, BACKWARD),
            tap_weights(weight, 2, 0, C, OUT, WEIGHT_C, TAPS, BACKWARD),
            tap_weights(weight, 2, 1, C, OUT, WEIGHT_C, TAPS, BACKWARD),
            tap_weights(weight, 2, 2, C, OUT, WEIGHT_C, TAPS, BACKWARD),
        )


@triton.jit
def window_row(
    source, pixel, pixels, y: tl.constexpr,
    SIZE: tl.constexpr, SOURCE_SIZE: tl.constexpr, C: tl.constexpr,
    TAPS: tl.constexpr, STRIDE: tl.constexpr, DILATION: tl.constexpr,
):  # fmt: skip
    """`window_values` of a row's taps, asked for together: three loads under way instead of one."""
    return (
        window_values(source, pixel, pixels, y, 0, SIZE, SOURCE_SIZE, C, TAPS, STRIDE, DILATION),
        window_values(source, pixel, pixels, y, 1, SIZE, SOURCE_SIZE, C, TAPS, STRIDE, DILATION),
        window_values(source, pixel, pixels, y, 2, SIZE, SOURCE_SIZE, C, TAPS, STRIDE, DILATION),
    )


@triton.jit
def window_product(
    source, weights, pixel, pixels,
    SIZE: tl.constexpr, SOURCE_SIZE: tl.constexpr, C: tl.constexpr, OUT: tl.constexpr,
    TAPS: tl.constexpr, STRIDE: tl.constexpr, DILATION: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Convolution of `source` with `all_weights` at the pixels `pixel` (BLOCK,), in float32 (BLOCK, OUT)."""
    product = tl.zeros([BLOCK, OUT], tl.float32)
    if TAPS == 1:
        values = window_values(source, pixel, pixels, 0, 0, SIZE, SOURCE_SIZE, C, 1, STRIDE, DILATION)
        product = tl.dot(values, weights[0], product, input_precision=PRECISION)
    else:
        row = window_row(source, pixel, pixels, 0, SIZE, SOURCE_SIZE, C, TAPS, STRIDE, DILATION)
        for y in tl.static_range(TAPS):
            now = row
            if y + 1 < TAPS:  # before this row's products
                row = window_row(source, pixel, pixels, y + 1, SIZE, SOURCE_SIZE, C, TAPS, STRIDE, DILATION)
            for x in tl.static_range(TAPS):
                product = tl.dot(now[x], weights[y * TAPS + x], product, input_precision=PRECISION)
    return product


@triton.jit
def convolve(
    source, weight, result, partial, counter,
    norm_weight, norm_bias, running_mean, running_var, mean, inverse, scale, shift,
    pixels, momentum, epsilon,
    SIZE: tl.constexpr, SOURCE_SIZE: tl.constexpr, C: tl.constexpr, OUT: tl.constexpr, WEIGHT_C: tl.constexpr,
    TAPS: tl.constexpr, STRIDE: tl.constexpr, PRECISION: tl.constexpr, BLOCK: tl.constexpr, KEPT: tl.constexpr,
    AT_ONCE: tl.constexpr,
):  # fmt: skip
    """result = conv(source), and from its statistics what batch norm needs of it: mean, inverse standard
    deviation, scale and shift; running mean and variance are moved on as torch does."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    out = tl.arange(0, OUT)
    # Deviations from a value near the mean: a plain sum of squares would lose a mean far from zero.
    centre = tl.load(running_mean + out)
    weights = all_weights(weight, C, OUT, WEIGHT_C, TAPS, False)
    first = tl.zeros([KEPT, OUT], tl.float32)
    second = tl.zeros([KEPT, OUT], tl.float32)
    for tile in range(program, tl.cdiv(pixels, BLOCK), programs):
        pixel = tile * BLOCK + tl.arange(0, BLOCK)
        product = window_product(
            source, weights, pixel, pixels, SIZE, SOURCE_SIZE, C, OUT, TAPS, STRIDE, 1, PRECISION, BLOCK
        )
        real = (pixel < pixels)[:, None] & (out < OUT)[None, :]
        tl.store(result + pixel[:, None] * OUT + out[None, :], product.to(result.dtype.element_ty), mask=real)
        deviation = tl.where(real, product - centre[None, :], 0.0)
        first = kept(first, deviation, KEPT)
        second = kept(second, deviation * deviation, KEPT)
    store_sums(partial, program, first, second, OUT)
    if last_to_finish(counter, programs):
        total, total_squares = sums_of_programs(partial, programs, OUT, AT_ONCE)
        offset = total / pixels
        variance = tl.maximum(total_squares / pixels - offset * offset, 0.0)
        batch_mean = centre + offset
        deviation_inverse = 1.0 / tl.sqrt(variance + epsilon)
        factor = tl.load(norm_weight + out) * deviation_inverse
        tl.store(mean + out, batch_mean)
        tl.store(inverse + out, deviation_inverse)
        tl.store(scale + out, factor)
        tl.store(shift + out, tl.load(norm_bias + out) - batch_mean * factor)
        tl.store(running_mean + out, centre + momentum * (batch_mean - centre))
        running = tl.load(running_var + out)
        unbiased = variance * (pixels / (pixels - 1.0))
        tl.store(running_var + out, running + momentum * (unbiased - running))


@triton.jit
def windows_to_multiply(
    source, pixel, pixels, part, tap_y,
    SIZE: tl.constexpr, SOURCE_SIZE: tl.constexpr, C: tl.constexpr, TAPS: tl.constexpr, STRIDE: tl.constexpr,
    WHOLE_ROWS: tl.constexpr,
):  # fmt: skip
    """The windows at `pixel`: of WHOLE_ROWS row `part` (BLOCK, 4 C), whose last quarter belongs to no tap; else tap
    (tap_y, part), (BLOCK, C)."""
    if WHOLE_ROWS:
        lane = tl.arange(0, 4 * C)
        tap_x = lane // C
        y = (pixel // SIZE) % SIZE * STRIDE + (part - TAPS // 2)
        left = pixel % SIZE * STRIDE - TAPS // 2
        x = left[:, None] + tap_x[None, :]
        inside = (x >= 0) & (x < SOURCE_SIZE) & (tap_x < TAPS)[None, :]
        inside = inside & ((y >= 0) & (y < SOURCE_SIZE) & (pixel < pixels))[:, None]
        start = ((pixel // (SIZE * SIZE) * SOURCE_SIZE + y) * SOURCE_SIZE + left) * C
        values = tl.load(source + start[:, None] + lane[None, :], mask=inside, other=0.0)
    else:
        values = window_values(source, pixel, pixels, tap_y, part, SIZE, SOURCE_SIZE, C, TAPS, STRIDE, 1)
    return values


@triton.jit
def store_products(
    partial, product, part, tap_y, C: tl.constexpr, OUT: tl.constexpr, WEIGHT_C: tl.constexpr, TAPS: tl.constexpr,
    WHOLE_ROWS: tl.constexpr,
):  # fmt: skip
    """The weight's gradient (OUT, TAPS, TAPS, WEIGHT_C), from the products of `windows_to_multiply`."""
    out = tl.arange(0, OUT)[None, :]
    if WHOLE_ROWS:
        lane = tl.arange(0, 4 * C)[:, None]
        tap_y, tap_x, channel = part, lane // C, lane % C
    else:
        tap_x, channel = part, tl.arange(0, C)[:, None]
    address = partial + out * (TAPS * TAPS * WEIGHT_C) + (tap_y * TAPS + tap_x) * WEIGHT_C + channel
    tl.store(address, product, mask=(channel < WEIGHT_C) & (tap_x < TAPS) & (out < OUT))


@triton.jit
def weight_gradient(
    source, gradient, result, mean, inverse, norm_weight, norm_weight_gradient, norm_bias_gradient,
    result_gradient, partial, pixels,
    SIZE: tl.constexpr, SOURCE_SIZE: tl.constexpr, C: tl.constexpr, OUT: tl.constexpr, WEIGHT_C: tl.constexpr,
    TAPS: tl.constexpr, STRIDE: tl.constexpr, WHOLE_ROWS: tl.constexpr, PRECISION: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """From `gradient`, that of batch norm's result, batch norm's backward pass gives that of the convolution's,
    stored in `result_gradient` for `input_gradient`; its product with the windows of `source` is this program's part
    of the weight's gradient, in partial (programs, OUT, TAPS, TAPS, WEIGHT_C). With WHOLE_ROWS a program has all three
    rows of the windows, else programs (n, tap_y) have one."""
    program, programs, tap_y = tl.program_id(0), tl.num_programs(0), tl.program_id(1)
    LANES: tl.constexpr = 4 * C if WHOLE_ROWS else C
    out = tl.arange(0, OUT)
    centre, deviation_inverse = tl.load(mean + out), tl.load(inverse + out)
    factor = tl.load(norm_weight + out) * deviation_inverse
    mean_gradient = tl.load(norm_bias_gradient + out) / pixels
    slope = tl.load(norm_weight_gradient + out) / pixels * deviation_inverse
    first = tl.zeros([LANES, OUT], tl.float32)
    second = tl.zeros([LANES, OUT], tl.float32)
    third = tl.zeros([LANES, OUT], tl.float32)
    for tile in range(program, tl.cdiv(pixels, BLOCK), programs):
        pixel = tile * BLOCK + tl.arange(0, BLOCK)
        real = (pixel < pixels)[:, None] & (out < OUT)[None, :]
        address = pixel[:, None] * OUT + out[None, :]
        above = tl.load(gradient + address, mask=real, other=0.0).to(tl.float32)
        value = tl.load(result + address, mask=real, other=0.0).to(tl.float32)
        a = windows_to_multiply(source, pixel, pixels, 0, tap_y, SIZE, SOURCE_SIZE, C, TAPS, STRIDE, WHOLE_ROWS)
        if TAPS == 3:
            b = windows_to_multiply(source, pixel, pixels, 1, tap_y, SIZE, SOURCE_SIZE, C, TAPS, STRIDE, WHOLE_ROWS)
            c = windows_to_multiply(source, pixel, pixels, 2, tap_y, SIZE, SOURCE_SIZE, C, TAPS, STRIDE, WHOLE_ROWS)
        below = factor[None, :] * (above - mean_gradient[None, :] - (value - centre[None, :]) * slope[None, :])
        below = tl.where(real, below, 0.0).to(result_gradient.dtype.element_ty)
        if tap_y == 0:
            tl.store(result_gradient + address, below, mask=real)
        first = tl.dot(tl.trans(a), below, first, input_precision=PRECISION)
        if TAPS == 3:
            second = tl.dot(tl.trans(b), below, second, input_precision=PRECISION)
            third = tl.dot(tl.trans(c), below, third, input_precision=PRECISION)
    mine = partial + program * (OUT * TAPS * TAPS * WEIGHT_C)
    store_products(mine, first, 0, tap_y, C, OUT, WEIGHT_C, TAPS, WHOLE_ROWS)
    if TAPS == 3:
        store_products(mine, second, 1, tap_y, C, OUT, WEIGHT_C, TAPS, WHOLE_ROWS)
        store_products(mine, third, 2, tap_y, C, OUT, WEIGHT_C, TAPS, WHOLE_ROWS)


@triton.jit
def input_gradient(
    result_gradient, weight, beside, activation, scale, shift, below_result, mean, inverse,
    below_gradient, partial, counter, norm_weight_gradient, norm_bias_gradient, pixels,
    SIZE: tl.constexpr, SOURCE_SIZE: tl.constexpr, C: tl.constexpr, OUT: tl.constexpr,
    TAPS: tl.constexpr, STRIDE: tl.constexpr, BESIDE: tl.constexpr, PLAIN: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK: tl.constexpr, KEPT: tl.constexpr, AT_ONCE: tl.constexpr,
):  # fmt: skip
    """The gradient of a convolution's input, from that of its result with C channels SOURCE_SIZE wide. PLAIN: as
    it is. Else taken through the ReLU and into the batch norm that made the input: with `beside` added and the ReLU's
    `activation` read (BESIDE), or where no shortcut came before the ReLU, which is then known from batch norm's scale
    and shift."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    out = tl.arange(0, OUT)
    weights = all_weights(weight, C, OUT, OUT, TAPS, True)
    if not PLAIN:
        centre, deviation_inverse = tl.load(mean + out), tl.load(inverse + out)
        factor, offset = tl.load(scale + out), tl.load(shift + out)
    first = tl.zeros([KEPT, OUT], tl.float32)
    second = tl.zeros([KEPT, OUT], tl.float32)
    for tile in range(program, tl.cdiv(pixels, BLOCK), programs):
        pixel = tile * BLOCK + tl.arange(0, BLOCK)
        product = window_product(
            result_gradient, weights, pixel, pixels, SIZE, SOURCE_SIZE, C, OUT, TAPS, 1, STRIDE, PRECISION, BLOCK
        )
        real = (pixel < pixels)[:, None] & (out < OUT)[None, :]
        address = pixel[:, None] * OUT + out[None, :]
        if BESIDE:
            product += tl.load(beside + address, mask=real, other=0.0).to(tl.float32)
        if PLAIN:
            tl.store(below_gradient + address, product.to(below_gradient.dtype.element_ty), mask=real)
        else:
            value = tl.load(below_result + address, mask=real, other=0.0).to(tl.float32)
            if BESIDE:
                passed = tl.load(activation + address, mask=real, other=0.0) > 0
            else:
                passed = value * factor[None, :] + offset[None, :] > 0
            sums = through_relu(product, address, real, passed, value, centre, deviation_inverse, below_gradient)
            first = kept(first, sums[0], KEPT)
            second = kept(second, sums[1], KEPT)
    if not PLAIN:
        finish_norm_gradient(
            partial, counter, program, programs, first, second, norm_weight_gradient, norm_bias_gradient, OUT, AT_ONCE
        )  # fmt: skip


@triton.jit
def sum_of_parts(parts, table, gradient, BLOCK: tl.constexpr, AT_ONCE: tl.constexpr):
    """Sum the weight gradients' parts of all layers. A row of the table (programs, 5) says for a program's BLOCK
    values: where its first part starts, values between parts, parts, where the sum goes, how many are real."""
    row = table + tl.program_id(0) * 5
    start, stride, count = tl.load(row), tl.load(row + 1), tl.load(row + 2)
    target, values = tl.load(row + 3), tl.load(row + 4)
    lane = tl.arange(0, BLOCK)
    real = lane < values
    total = tl.zeros([AT_ONCE, BLOCK], tl.float32)
    for first in range(0, count, AT_ONCE):
        part = first + tl.arange(0, AT_ONCE)
        inside = (part < count)[:, None] & real[None, :]
        total += tl.load(parts + start + part[:, None] * stride + lane[None, :], mask=inside, other=0.0)
    tl.store(gradient + target + lane, tl.sum(total, 0), mask=real)
