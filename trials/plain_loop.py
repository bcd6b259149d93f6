"""The usual training loop: DataLoader, torchvision transforms on the CPU image by image, eager fp32.

It is problem 2's subject, the baseline of the benchmark, and what the engine's steps are held against.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

Batch = tuple[Tensor, Tensor]
"""Images float32 (N, 3, 32, 32) and labels int64 (N,)."""


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """Labelled images, uint8 (N, 32, 32, 3) and int64 (N,), each transformed when it is read."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, transform: transforms.Compose) -> None:
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


class Cutout:
    """One square hole of zeros at a uniform centre, clipped at the border, in a normalised (C, H, W) image
    (DeVries & Taylor 2017, util/cutout.py)."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, image: Tensor) -> Tensor:
        height, width = image.shape[1:]
        y, x = int(torch.randint(height, ())), int(torch.randint(width, ()))
        half = self.length // 2
        image[:, max(y - half, 0) : y + half, max(x - half, 0) : x + half] = 0
        return image


def transform(
    augmentation: str, mean: Sequence[float], std: Sequence[float], cutout_length: int = 16
) -> transforms.Compose:
    """The pipeline for an augmentation of `trials.augment.ROWS`; "none" is also evaluation's."""
    steps = [transforms.ToTensor(), transforms.Normalize(mean, std)]
    if augmentation != "none":
        steps = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), *steps]
    if augmentation == "cutout":
        steps.append(Cutout(cutout_length))
    return transforms.Compose(steps)


def loader(
    dataset: Dataset[tuple[Tensor, int]],
    batch_size: int,
    *,
    train: bool,
    workers: int = 2,
    pinned: bool = False,
) -> DataLoader[Batch]:
    """Shuffled and without the last incomplete batch for training; in order and whole otherwise."""
    return DataLoader(dataset, batch_size, shuffle=train, drop_last=train, num_workers=workers, pin_memory=pinned)


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """One step; the batch's mean loss and number of errors, on the device."""
    logits = model(images)
    loss = nn.functional.cross_entropy(logits, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach(), (logits.argmax(1) != labels).sum()


def train_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[Batch], device: str
) -> tuple[float, float]:
    """Mean training loss and error (0..1) over the epoch's batches."""
    model.train()
    loss_sum, wrong, samples = 0.0, 0, 0
    for host_images, host_labels in batches:
        images, labels = host_images.to(device), host_labels.to(device)
        loss, errors = train_step(model, optimizer, images, labels)
        loss_sum += loss.item() * len(labels)
        wrong += int(errors.item())
        samples += len(labels)
    return loss_sum / samples, wrong / samples


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable[Batch], device: str) -> tuple[float, float]:
    """Mean loss and error (0..1) in eval mode."""
    model.eval()
    loss_sum, wrong, samples = 0.0, 0, 0
    for host_images, host_labels in batches:
        images, labels = host_images.to(device), host_labels.to(device)
        logits = model(images)
        loss_sum += nn.functional.cross_entropy(logits, labels, reduction="sum").item()
        wrong += int((logits.argmax(1) != labels).sum())
        samples += len(labels)
    return loss_sum / samples, wrong / samples
