"""The networks of problems 1, 2 and 4, built on the CPU with weights that follow from a seed."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from trials.seeding import derived_seed


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw initial weights from `seed`, and leave the process's generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "weights"))
        yield


def conv3x3(channels_in: int, channels_out: int, stride: int) -> nn.Conv2d:
    """3x3 convolution, padding 1, no bias (batch norm follows)."""
    return nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)


class PadShortcut(nn.Module):
    """Option A of He et al. 2016: every second pixel, and zeros for the channels that are new."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.before = (channels_out - channels_in) // 2
        self.after = channels_out - channels_in - self.before

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))


def projection(channels_in: int, channels_out: int, stride: int) -> nn.Module:
    """Option B: 1x1 convolution and batch norm."""
    conv = nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels_out))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, and a shortcut around them."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, shortcut: nn.Module) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels_in, channels_out, stride)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = conv3x3(channels_out, channels_out, 1)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """Stem, stages of basic blocks (the first block of each but the first stage halves the image), global
    average pool, linear classifier. Input (N, 3, 32, 32), output (N, 10) logits."""

    def __init__(
        self,
        widths: tuple[int, ...],
        blocks: int,
        new_shortcut: Callable[[int, int], nn.Module],
        classes: int = 10,
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(3, widths[0], 1)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layers = nn.Sequential()
        channels = widths[0]
        for stage, width in enumerate(widths):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                shortcut = nn.Identity() if width == channels else new_shortcut(channels, width)
                self.layers.append(BasicBlock(channels, width, stride, shortcut))
                channels = width
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(functional.relu(self.bn1(self.conv1(x))))
        return self.fc(x.mean((2, 3)))


def cifar_resnet(depth: int, shortcut: str, seed: int) -> ResNet:
    """He et al. 2016, section 4.2: depth 6n+2, stages of 16, 32 and 64 channels.

    `shortcut` is "identity" (option A, 658,586 parameters at depth 44) or "projection" (661,338, as in the code
    of Hoffer et al.). Initialised as there (eladhoffer/convNet.pytorch, models/resnet.py): He's normal with
    fan-out for convolutions, the last batch norm of each block at zero weight, the classifier normal(0, 0.01).
    """
    if depth < 8 or depth % 6 != 2:
        raise ValueError(f"depth={depth}: a CIFAR ResNet has depth 6n+2, e.g. 8, 20, 44")
    new_shortcut = PadShortcut if shortcut == "identity" else lambda a, b: projection(a, b, 2)
    with seeded(seed):
        model = ResNet((16, 32, 64), (depth - 2) // 6, new_shortcut)
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, BasicBlock):
                nn.init.zeros_(module.bn2.weight)
        nn.init.normal_(model.fc.weight, std=0.01)
        nn.init.zeros_(model.fc.bias)
    return model


def resnet18(seed: int) -> ResNet:
    """ResNet-18 in the CIFAR form of kuangliu/pytorch-cifar: 3x3 stem with stride 1, no max pool, 11,173,962
    parameters, torch's own initialisation as there."""
    with seeded(seed):
        return ResNet((64, 128, 256, 512), 2, lambda a, b: projection(a, b, 2))


class MultilayerPerceptron(nn.Sequential):
    """Fully connected layers with ReLU, over the image's pixels as (row, column, channel)."""

    def forward(self, x: Tensor) -> Tensor:
        # In this order a channels-last batch, which is what the engine makes, is flattened without a copy.
        return super().forward(x.permute(0, 2, 3, 1).flatten(1))


def multilayer_perceptron(
    seed: int, dropout: bool = False, sizes: tuple[int, ...] = (3072, 1000, 1000, 10)
) -> MultilayerPerceptron:
    """3072-1000-1000-10 of problem 1, 4,084,010 parameters, weights normal(0, sqrt(2 / fan-in)), biases 0.

    Dropout as Srivastava et al. 2014: 0.2 on the input, 0.5 on each hidden layer, none on the logits; without
    it the weights are the same, so both arms start at one point.
    """
    model = MultilayerPerceptron()
    if dropout:
        model.append(nn.Dropout(0.2))
    with seeded(seed):
        for number, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            if number:
                model.append(nn.ReLU())
                if dropout:
                    model.append(nn.Dropout(0.5))
            layer = nn.Linear(fan_in, fan_out)
            nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_in))
            nn.init.zeros_(layer.bias)
            model.append(layer)
    return model


def count_parameters(model: nn.Module) -> int:
    """Trainable numbers in a model."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def weights_sha256(model: nn.Module) -> str:
    """SHA-256 over name, dtype, shape and bytes of every parameter and buffer, in state_dict order."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        host = value.detach().cpu().contiguous()
        digest.update(f"{name} {host.dtype} {tuple(host.shape)}\n".encode())
        digest.update(host.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
