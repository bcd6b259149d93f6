"""The receptive field of a stack of convolutions, measured: which inputs does one output have a gradient from?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from trials.models import seeded
from trials.spec import Row

MARGIN = 3
"""Inputs on each side beyond the predicted field: a larger field would show."""


def rows(most_layers: int, largest_filter: int, seed: int) -> Iterator[Row]:
    """A row for every N up to `most_layers` and F from 2 to `largest_filter`."""
    for layers in range(1, most_layers + 1):
        for side in range(2, largest_filter + 1):
            predicted = layers * side - layers + 1
            height, width, touched = extent([side] * layers, predicted + 2 * MARGIN, seed)
            single_height, single_width, _ = extent([predicted], predicted + 2 * MARGIN, seed)
            measured = {"height": height, "width": width, "touched": touched}
            single = {"single_height": single_height, "single_width": single_width}
            yield {"layers": layers, "filter": side, "predicted": predicted, **measured, **single}


def extent(filters: Sequence[int], size: int, seed: int) -> tuple[int, int, int]:
    """Height and width of the region of a (size, size) input that the middle output of a stack of convolutions has a
    gradient from, and the number of such inputs. Random weights in double precision, stride 1, no padding."""
    with seeded(seed):
        stack = nn.Sequential(*(nn.Conv2d(1, 1, side, dtype=torch.float64) for side in filters))
        image = torch.randn(1, 1, size, size, dtype=torch.float64, requires_grad=True)
    output = stack(image)[0, 0]
    output[output.shape[0] // 2, output.shape[1] // 2].backward()
    assert image.grad is not None
    places = image.grad[0, 0].nonzero()
    height, width = (places.amax(0) - places.amin(0) + 1).tolist()
    return height, width, len(places)
