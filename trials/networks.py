"""The networks of problem 3, built on the meta device: shapes without numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchvision import models as torchvision_models

from trials import models
from trials.spec import Scalar

FACTORIES = frozenset({"empty", "zeros", "ones", "full", "rand", "randn"})
FILLS = frozenset({"normal_", "uniform_", "erfinv_", "mul_", "add_", "clamp_", "fill_", "zero_"})
"""What initialisation is made of."""


@dataclass(frozen=True)
class Filters:
    """Filters of an Inception module's convolutions; a name without "reduce" is an output of the module."""

    conv1x1: int = 128
    conv3x3: int = 192
    conv5x5: int = 96
    reduce3x3: int = 128
    reduce5x5: int = 32
    project: int = 64


class OnMeta(TorchFunctionMode):
    """Within it, tensors to be filled with weights are made on the meta device, and not filled: nothing is allocated.

    `torch.device("meta")` would also take the small tables that some networks compute their widths from.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named, name = dict(kwargs or {}), getattr(function, "__name__", "")
        filled = args[0] if args else named.get("tensor")
        if name in FILLS and filled is not None and filled.is_meta:
            return filled
        if name in FACTORIES and named.get("device") is None:
            named["device"] = "meta"
        return function(*args, **named)


def build(name: str, input_size: int, channels: int, filters: Filters) -> tuple[nn.Module, tuple[int, int, int]]:
    """A network on the meta device and the shape (channels, height, width) of its input.

    `input_size` 0 is the network's own size; `channels` and `filters` are an Inception module's.
    """
    with OnMeta():
        network, shape = _own(name, channels, filters) or _torchvision(name)
    return network.to("meta"), (shape[0], input_size or shape[1], input_size or shape[2])


def _own(name: str, channels: int, filters: Filters) -> tuple[nn.Module, tuple[int, int, int]] | None:
    cifar10 = (3, 32, 32)
    match name:
        case "alexnet_paper":
            return PaperAlexNet(), (3, 227, 227)
        case "resnet18_cifar10":
            return models.resnet18(0), cifar10
        case "resnet44_cifar10":
            return models.cifar_resnet(44, "projection", 0), cifar10
        case "resnet44_cifar10_identity":
            return models.cifar_resnet(44, "identity", 0), cifar10
        case "inception_naive":
            return NaiveInception(channels, filters), (channels, 32, 32)
        case "inception_reduced":
            return ReducedInception(channels, filters), (channels, 32, 32)
    return None


def _torchvision(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    """A torchvision classifier, and the smallest image size among its published weights'."""
    options: Mapping[str, Any] = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    sizes = [w.transforms.keywords["crop_size"] for w in torchvision_models.get_model_weights(name)]
    return torchvision_models.get_model(name, weights=None, **options), (3, min(sizes), min(sizes))


class PaperAlexNet(nn.Sequential):
    """Krizhevsky, Sutskever & Hinton 2012, section 3 and Figure 2: conv2, conv4 and conv5 see the half of the maps
    that lies on their own GPU (two groups), response normalisation after conv1 and conv2, overlapping 3x3 pooling
    with stride 2. Input (N, 3, 227, 227): the paper's 224 does not give its 55x55."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self._stage("1", nn.Conv2d(3, 96, 11, stride=4), normalise=True, pool=True)
        self._stage("2", nn.Conv2d(96, 256, 5, padding=2, groups=2), normalise=True, pool=True)
        self._stage("3", nn.Conv2d(256, 384, 3, padding=1))
        self._stage("4", nn.Conv2d(384, 384, 3, padding=1, groups=2))
        self._stage("5", nn.Conv2d(384, 256, 3, padding=1, groups=2), pool=True)
        self.add_module("flatten", nn.Flatten())
        for number, layer in (("6", nn.Linear(256 * 6 * 6, 4096)), ("7", nn.Linear(4096, 4096))):
            self.add_module(f"fc{number}", layer)
            self.add_module(f"relu{number}", nn.ReLU())
            self.add_module(f"dropout{number}", nn.Dropout(0.5))
        self.add_module("fc8", nn.Linear(4096, classes))

    def _stage(self, number: str, convolution: nn.Conv2d, normalise: bool = False, pool: bool = False) -> None:
        self.add_module(f"conv{number}", convolution)
        self.add_module(f"relu{number}", nn.ReLU())
        if normalise:
            self.add_module(f"norm{number}", nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2))
        if pool:
            self.add_module(f"pool{number}", nn.MaxPool2d(3, stride=2))


class NaiveInception(nn.Module):
    """1x1, 3x3 and 5x5 convolutions and a 3x3 max pool beside each other, all of stride 1 and padded to the input's
    size, outputs joined along the channels (Szegedy et al. 2015, Figure 2a)."""

    def __init__(self, channels: int, filters: Filters) -> None:
        super().__init__()
        self.conv1x1 = nn.Conv2d(channels, filters.conv1x1, 1)
        self.conv3x3 = nn.Conv2d(channels, filters.conv3x3, 3, padding=1)
        self.conv5x5 = nn.Conv2d(channels, filters.conv5x5, 5, padding=2)
        self.pool = nn.MaxPool2d(3, stride=1, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        convolutions = [torch.relu(conv(x)) for conv in (self.conv1x1, self.conv3x3, self.conv5x5)]
        return torch.cat([*convolutions, self.pool(x)], 1)


class ReducedInception(nn.Module):
    """The same with 1x1 convolutions that reduce the channels before the 3x3 and the 5x5 convolution and after the
    pool (Szegedy et al. 2015, Figure 2b)."""

    def __init__(self, channels: int, filters: Filters) -> None:
        super().__init__()
        self.conv1x1 = nn.Conv2d(channels, filters.conv1x1, 1)
        self.reduce3x3 = nn.Conv2d(channels, filters.reduce3x3, 1)
        self.conv3x3 = nn.Conv2d(filters.reduce3x3, filters.conv3x3, 3, padding=1)
        self.reduce5x5 = nn.Conv2d(channels, filters.reduce5x5, 1)
        self.conv5x5 = nn.Conv2d(filters.reduce5x5, filters.conv5x5, 5, padding=2)
        self.pool = nn.MaxPool2d(3, stride=1, padding=1)
        self.project = nn.Conv2d(channels, filters.project, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.conv1x1(x)
        three = self.conv3x3(torch.relu(self.reduce3x3(x)))
        five = self.conv5x5(torch.relu(self.reduce5x5(x)))
        pooled = self.project(self.pool(x))
        return torch.cat([torch.relu(branch) for branch in (one, three, five, pooled)], 1)


def filters_of(parameters: Mapping[str, Scalar]) -> Filters:
    """The filters among a trial's parameters (`filters_conv1x1` and so on)."""
    return Filters(**{k.removeprefix("filters_"): v for k, v in parameters.items() if k.startswith("filters_")})  # type: ignore[arg-type]
