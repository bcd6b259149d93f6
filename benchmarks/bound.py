"""How fast memory would let a network train: bytes an image, over a copy measured on the same device."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Traffic:
    """Bytes that a training step cannot avoid to move: per image, and once per step."""

    image_bytes: float
    step_bytes: float

    def images_per_second(self, batch: int, bytes_per_second: float) -> float:
        """The bound, for batches of `batch` images."""
        return batch * bytes_per_second / (batch * self.image_bytes + self.step_bytes)


def traffic(model: nn.Module, element_bytes: int, optimizer_values: int, separate: bool) -> Traffic:
    """Count a model's traffic, layer by layer, from the shapes of a forward pass on one image.

    A layer's result is a convolution's or matrix product's, or what follows it up to the next one (batch norm,
    shortcut and ReLU taken as one pass; as one each if `separate`). Each is written once and read once forward; the
    same of its gradient backward. Reading values again (the backward pass needs them, batch norm's statistics too) is
    not counted. Per step: weights read forward and backward in `element_bytes`; their gradient written and read,
    and the weights and `optimizer_values` values for each of them read and written, in float32.
    """
    elements = 0

    def count(module: nn.Module, arguments: tuple[torch.Tensor, ...], result: torch.Tensor) -> None:
        nonlocal elements
        passes = 2 if separate and isinstance(module, nn.BatchNorm2d) else 1  # the ReLU after it
        elements += passes * result.numel()

    kinds = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.ReLU)
    in_shortcut = {id(m) for name, part in model.named_modules() if name.endswith("shortcut") for m in part.modules()}
    layers = [m for m in model.modules() if isinstance(m, kinds)]
    if not separate:  # a shortcut's batch norm is part of the pass that adds it
        layers = [m for m in layers if not (isinstance(m, nn.BatchNorm2d) and id(m) in in_shortcut)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    was_training = model.training
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, 32, 32))
    model.train(was_training)
    for hook in hooks:
        hook.remove()
    parameters = sum(p.numel() for p in model.parameters())
    pixels = 3 * 32 * 32
    image = elements * 4 * element_bytes + pixels + 2 * pixels * element_bytes
    step = parameters * (2 * element_bytes + 2 * 4 + 2 * 4 * (1 + optimizer_values))
    return Traffic(image, step)


def copy_bytes_per_second(device: str, size: int) -> float:
    """Bytes read plus bytes written a second by a copy of `size` bytes: the best of ten."""
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(10):
        synchronize(device)
        started = time.perf_counter()
        target.copy_(source)
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return 2 * size / min(seconds)


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()
