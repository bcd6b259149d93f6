"""The training step of a CIFAR ResNet, forward and backward, of the kernels in `trials.fused_conv` and `fused_norm`.

It computes what `models.ResNet` and autograd compute, on the model's own parameters and buffers: evaluation, the
optimizer and commits see no difference. Convolutions' weights are moved into one buffer, whose bf16 copy is made
once a step in one kernel, and their gradients into another.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import triton
from torch import Tensor, nn

from trials import fused_conv, fused_norm
from trials.augment import SIZE
from trials.fused_batch import load_batch, loss_and_gradient
from trials.fused_tiles import CHECK_TILE, ENOUGH_SHARED_MEMORY, SMALL_BATCH, TILES, Tile
from trials.models import BasicBlock, ResNet

if TYPE_CHECKING:
    from trials.engine import Trainer
    from trials.splits import Step

INPUT_CHANNELS = 16
"""Channels of the batch: three, and zeros up to the least that a tensor core's product takes."""
WIDTHS = (16, 32, 64)
"""Channels for which the kernels are made: a row of a window fits into one product, and its sums into registers."""
PART_BLOCK, PARTS_AT_ONCE = 256, 16
"""Values that one program of `sum_of_parts` adds up, and parts that it reads at once."""
SUMS_AT_ONCE = 4096
"""Sums that are read at once when those of a kernel's programs are put together."""


class Layer:
    """A convolution and the batch norm after it, what the forward pass leaves, and where the gradients go."""

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d, source_size: int) -> None:
        self.conv, self.norm = conv, norm
        self.out, self.weight_channels, self.taps, _ = conv.weight.shape
        self.channels = max(self.weight_channels, INPUT_CHANNELS)
        self.stride = conv.stride[0]
        self.source_size, self.size = source_size, source_size // self.stride
        device = conv.weight.device
        self.mean, self.inverse, self.scale, self.shift = torch.zeros(4, self.out, device=device)
        norm.weight.grad, norm.bias.grad = torch.zeros(2, self.out, device=device)
        self.weight: Tensor  # in the precision of the arithmetic, (out, taps, taps, channels) in memory
        self.parts: Tensor  # of the weight's gradient, one from each program
        self.source: Tensor
        self.result: Tensor
        self.activation: Tensor


@dataclass
class Block:
    """A basic block's layers; `projection` is None where the shortcut is the identity."""

    first: Layer
    second: Layer
    projection: Layer | None


def unsupported(trainer: Trainer) -> str | None:
    """Why the trainer's network cannot be trained by these kernels, or None."""
    model = trainer.model
    if trainer.recipe.compile:
        return "compile=true compiles torch's own operations"
    if trainer.device.type == "cuda" and torch.cuda.get_device_capability()[0] not in ENOUGH_SHARED_MEMORY:
        return "their launch shapes are made for Hopper's shared memory"
    if trainer.recipe.precision == "tf32":
        return "a convolution's weights do not fit into shared memory in tf32"
    if not isinstance(model, ResNet):
        return "the network is no ResNet"
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    if any(c.out_channels not in WIDTHS for c in convolutions):
        return f"its channels are not all of {WIDTHS}"
    if any(not isinstance(b.shortcut, nn.Identity | nn.Sequential) for b in model.layers):
        return "its shortcuts are no projections"
    if trainer.samples * SIZE * SIZE * max(convolutions[0].out_channels, INPUT_CHANNELS) >= 2**31:
        return "its batch needs more than 31 bits to index"
    return None


@torch.no_grad()
def fused_step(trainer: Trainer) -> Step:
    """The training step of a supported trainer."""
    model = trainer.model
    assert isinstance(model, ResNet)
    network = FusedResNet(model, trainer.samples, trainer.recipe.precision)
    if trainer.device.type == "cuda":  # and not Triton's interpreter
        network.compile()
    classifier = model.fc
    classifier.weight.grad, classifier.bias.grad = map(torch.zeros_like, (classifier.weight, classifier.bias))

    @torch.no_grad()
    def step() -> None:
        images, labels = load_batch(*trainer.batch_arguments(), channels=INPUT_CHANNELS)
        features = network.forward(images.permute(0, 2, 3, 1))
        logits = classifier(features)
        gradient = loss_and_gradient(logits, labels, trainer.loss_sum, trainer.wrong, trainer.position)
        torch.mm(gradient.t(), features, out=classifier.weight.grad)
        torch.sum(gradient, 0, out=classifier.bias.grad)
        network.backward(gradient @ classifier.weight)
        trainer.optimizer.step()

    return step


class FusedResNet:
    """A ResNet's layers up to the global average pool, for batches of `samples` images."""

    def __init__(self, model: ResNet, samples: int, precision: str) -> None:
        self.samples = samples
        self.compiling = False
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.stem = Layer(model.conv1, model.bn1, SIZE)
        self.blocks = list(blocks_of(model, SIZE))
        self.layers = [self.stem] + [
            layer for b in self.blocks for layer in (b.first, b.second, b.projection) if layer is not None
        ]
        self.counts = [layer.norm.num_batches_tracked for layer in self.layers]
        self.width = self.layers[-1].out
        device = model.conv1.weight.device
        self.counter = torch.zeros(1, dtype=torch.int32, device=device)
        self.tiles = TILES["small" if samples <= SMALL_BATCH else "large"]
        tiles = [tile for by_channels in self.tiles.values() for tile in by_channels.values()]
        most = max(tile.programs for tile in [CHECK_TILE, *tiles])
        self.partial = torch.empty(most * 2 * max(WIDTHS), device=device)
        self._gather_weights(device)

    def _gather_weights(self, device: torch.device) -> None:
        sizes = [layer.conv.weight.numel() for layer in self.layers]
        self.weights, self.gradients = torch.zeros(2, sum(sizes), device=device)
        self.cast_weights = self.weights.to(self.dtype)  # the same tensor for float32
        programs = [self._programs("weight_gradient", layer) for layer in self.layers]
        self.parts = torch.empty(sum(n * s for n, s in zip(programs, sizes, strict=True)), device=device)
        rows, start, part = [], 0, 0
        for layer, size, count in zip(self.layers, sizes, programs, strict=True):
            weight = layer.conv.weight
            place = in_buffer(self.weights, start, weight)
            place.copy_(weight.detach())
            weight.data = place
            weight.grad = in_buffer(self.gradients, start, weight)
            layer.weight = self.cast_weights[start : start + size]
            layer.parts = self.parts[part : part + count * size]
            for offset in range(0, size, PART_BLOCK):
                rows.append((part + offset, size, count, start + offset, min(PART_BLOCK, size - offset)))
            start, part = start + size, part + count * size
        self.table = torch.tensor(rows, dtype=torch.int32, device=device)

    def _pixels(self, size: int) -> int:
        return self.samples * size * size

    def _tile(self, kernel: str, layer: Layer) -> Tile:
        return self.tiles[kernel][layer.channels] if self.dtype == torch.bfloat16 else CHECK_TILE

    def _programs(self, kernel: str, layer: Layer) -> int:
        tile = self._tile(kernel, layer)
        size = layer.source_size if kernel == "input_gradient" else layer.size
        return min(triton.cdiv(self._pixels(size), tile.pixels), tile.programs)

    def forward(self, images: Tensor) -> Tensor:
        """Pooled features (N, width), float32, of images (N, 32, 32, INPUT_CHANNELS)."""
        if self.cast_weights is not self.weights:
            self.cast_weights.copy_(self.weights)
        torch._foreach_add_(self.counts, 1)
        self._convolve(self.stem, images)
        activation = self._normalise(self.stem)
        for block in self.blocks:
            source = activation
            self._convolve(block.first, source)
            self._convolve(block.second, self._normalise(block.first))
            if block.projection is not None:
                self._convolve(block.projection, source)
            activation = self._normalise(block.second, source, block.projection)
        return activation.view(self.samples, -1, self.width).mean(1, dtype=torch.float32)

    def backward(self, pooled_gradient: Tensor) -> None:
        """All parameters' gradients, from that of the pooled features, (N, width) in float32."""
        last = self.blocks[-1].second
        gradient = torch.empty_like(last.activation)
        pixels = self._pixels(last.size)
        programs = min(triton.cdiv(pixels, 64), 528)
        self._launch(
            fused_norm.pool_gradient, (programs,),
            pooled_gradient, last.activation, *self._below(last, gradient), pixels,
            AREA=last.size**2, C=last.out, BLOCK=64, AT_ONCE=SUMS_AT_ONCE // last.out,
        )  # fmt: skip
        previous = [self.stem] + [block.second for block in self.blocks]
        for block, below in zip(reversed(self.blocks), reversed(previous[:-1]), strict=True):
            gradient = self._block_backward(block, below, gradient)
        self._weight_gradient(self.stem, gradient)
        self._launch(
            fused_conv.sum_of_parts,
            (len(self.table),),
            self.parts,
            self.table,
            self.gradients,
            BLOCK=PART_BLOCK,
            AT_ONCE=PARTS_AT_ONCE,
        )

    def _block_backward(self, block: Block, below: Layer, gradient: Tensor) -> Tensor:
        """From the gradient of the block's second batch norm to that of the layer below's."""
        of_result = self._weight_gradient(block.second, gradient)
        inner = self._input_gradient(block.second, of_result, block.first)
        beside = gradient
        if block.projection is not None:
            self._norm_gradient(block.projection, gradient)
            beside = self._input_gradient(block.projection, self._weight_gradient(block.projection, gradient), None)
        of_result = self._weight_gradient(block.first, inner)
        return self._input_gradient(block.first, of_result, below, beside)

    def compile(self) -> None:
        """Compile all kernels at once on all CPUs. One after another they take half a minute the first time; after
        that Triton has them in its cache on disk."""
        self.compiling = True
        device = self.weights.device
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool, triton.AsyncCompileMode(pool):
            images = torch.zeros(self.samples, SIZE, SIZE, INPUT_CHANNELS, dtype=self.dtype, device=device)
            self.forward(images)
            self.backward(torch.zeros(self.samples, self.width, device=device))
        self.compiling = False

    # One launch each.

    def _launch(self, kernel: Any, grid: tuple[int, ...], *arguments: object, **constants: object) -> None:
        if self.compiling:
            kernel.warmup(*arguments, grid=grid, **constants)
        else:
            kernel[grid](*arguments, **constants)

    def _convolve(self, layer: Layer, source: Tensor) -> None:
        norm, tile = layer.norm, self._tile("convolve", layer)
        layer.source = source
        layer.result = source.new_empty(self.samples, layer.size, layer.size, layer.out)
        self._launch(
            fused_conv.convolve, (self._programs("convolve", layer),),
            source, layer.weight, layer.result, self.partial, self.counter,
            norm.weight, norm.bias, norm.running_mean, norm.running_var,
            layer.mean, layer.inverse, layer.scale, layer.shift,
            self._pixels(layer.size), norm.momentum, norm.eps,
            SIZE=layer.size, SOURCE_SIZE=layer.source_size, C=layer.channels, OUT=layer.out,
            WEIGHT_C=layer.weight_channels, TAPS=layer.taps, STRIDE=layer.stride, PRECISION="ieee",
            BLOCK=tile.pixels, KEPT=tile.pixels if tile.keep else 1, AT_ONCE=SUMS_AT_ONCE // layer.out,
            num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip

    def _normalise(self, layer: Layer, shortcut: Tensor | None = None, projection: Layer | None = None) -> Tensor:
        layer.activation = torch.empty_like(layer.result)
        kind = "none" if shortcut is None else "norm" if projection is not None else "same"
        beside = projection or layer  # scale and shift that are not read, where there is no projection
        added = layer.result if shortcut is None else projection.result if projection is not None else shortcut
        self._launch(
            fused_norm.normalise, (triton.cdiv(layer.result.numel(), 2048),),
            layer.result, layer.scale, layer.shift, added, beside.scale, beside.shift, layer.activation,
            layer.result.numel(), SHORTCUT=kind, C=layer.out, BLOCK=2048,
        )  # fmt: skip
        return layer.activation

    def _weight_gradient(self, layer: Layer, gradient: Tensor) -> Tensor:
        norm, tile = layer.norm, self._tile("weight_gradient", layer)
        result_gradient = torch.empty_like(gradient)
        whole_rows = layer.taps == 3 and layer.channels < 64  # a product has at least 64 rows
        self._launch(
            fused_conv.weight_gradient, (self._programs("weight_gradient", layer), 1 if whole_rows else layer.taps),
            layer.source, gradient, layer.result, layer.mean, layer.inverse, norm.weight,
            norm.weight.grad, norm.bias.grad, result_gradient, layer.parts, self._pixels(layer.size),
            SIZE=layer.size, SOURCE_SIZE=layer.source_size, C=layer.channels, OUT=layer.out,
            WEIGHT_C=layer.weight_channels, TAPS=layer.taps, STRIDE=layer.stride, PRECISION="ieee",
            WHOLE_ROWS=whole_rows, BLOCK=tile.pixels, num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
        return result_gradient

    def _input_gradient(
        self, layer: Layer, result_gradient: Tensor, below: Layer | None, beside: Tensor | None = None
    ) -> Tensor:
        tile = self._tile("input_gradient", layer)
        gradient = torch.empty_like(layer.source)
        target = below or layer  # not read where the gradient is stored as it is
        activation = gradient if below is None else below.activation
        self._launch(
            fused_conv.input_gradient, (self._programs("input_gradient", layer),),
            result_gradient, layer.weight, gradient if beside is None else beside, activation,
            target.scale, target.shift, *self._below(target, gradient), self._pixels(layer.source_size),
            SIZE=layer.source_size, SOURCE_SIZE=layer.size, C=layer.out, OUT=layer.channels,
            TAPS=layer.taps, STRIDE=layer.stride, BESIDE=beside is not None, PLAIN=below is None,
            PRECISION="ieee", BLOCK=tile.pixels, KEPT=tile.pixels if tile.keep else 1,
            AT_ONCE=SUMS_AT_ONCE // layer.channels, num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
        return gradient

    def _norm_gradient(self, layer: Layer, gradient: Tensor) -> None:
        pixels = self._pixels(layer.size)
        below = self._below(layer, gradient)
        self._launch(
            fused_norm.norm_gradient,
            (min(triton.cdiv(pixels, 128), 528),),
            gradient,
            *below[:3],
            *below[4:],
            pixels,
            C=layer.out,
            BLOCK=128,
            AT_ONCE=SUMS_AT_ONCE // layer.out,
        )

    def _below(self, layer: Layer, gradient: Tensor) -> tuple[Tensor, ...]:
        """The arguments of the kernels that end in a batch norm's gradient sums."""
        norm = layer.norm
        return (
            layer.result, layer.mean, layer.inverse, gradient, self.partial, self.counter,
            norm.weight.grad, norm.bias.grad,
        )  # fmt: skip


def blocks_of(model: ResNet, size: int) -> Iterator[Block]:
    """The model's blocks, with the sizes of their images."""
    for block in model.layers:
        assert isinstance(block, BasicBlock)
        first = Layer(block.conv1, block.bn1, size)
        second = Layer(block.conv2, block.bn2, first.size)
        shortcut = block.shortcut
        yield Block(
            first,
            second,
            Layer(shortcut[0], shortcut[1], size) if isinstance(shortcut, nn.Sequential) else None,
        )
        size = first.size


def in_buffer(buffer: Tensor, start: int, weight: Tensor) -> Tensor:
    """A view into a flat buffer as the channels-last tensor of a weight's shape."""
    out, channels, height, width = weight.shape
    part = buffer[start : start + weight.numel()]
    return part.view(out, height, width, channels).permute(0, 3, 1, 2)
