"""Inverted dropout against the sheet's weight scaling, on a trained network.

Classical dropout (Srivastava et al. 2014) multiplies by a mask in training and, at test time, each weight by the
probability q that its input was kept. torch's is inverted: it divides by q in training, and `eval()` changes
nothing. A network with inverted dropout and weights W is the classical one with weights W/q: with the same masks
both give the same logits in training, and at test time the classical network's weights q · (W/q) give what
`eval()` gives. The functions here build the classical network and measure both differences.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from trials.spec import Row


class ClassicalDropout(nn.Module):
    """Zeroes each element with probability `p` in training and scales nothing, ever. It draws torch's masks."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return x * (functional.dropout(torch.ones_like(x), self.p) != 0) if self.training else x


def classical(model: nn.Sequential) -> nn.Sequential:
    """The network with classical dropout that trains as `model` does: the weights behind dropout divided by q."""
    twin = copy.deepcopy(model)
    for place, module in enumerate(model):
        if isinstance(module, nn.Dropout):
            twin[place] = ClassicalDropout(module.p)
    return multiply_weights(twin, -1)


def scaled_for_test(model: nn.Sequential) -> nn.Sequential:
    """A classical network as the sheet has it at test time: the weights behind dropout times q."""
    return multiply_weights(copy.deepcopy(model), 1).eval()


def multiply_weights(model: nn.Sequential, power: int) -> nn.Sequential:
    """Multiply the weights of each linear layer whose input is dropped by q**power, in place."""
    with torch.no_grad():
        for before, layer in pairwise(model):
            if isinstance(before, ClassicalDropout) and isinstance(layer, nn.Linear):
                layer.weight *= (1 - before.p) ** power
    return model


@torch.no_grad()
def compare(model: nn.Sequential, batches: Iterable[Tensor], seed: int) -> Row:
    """Largest differences of logits between the two kinds of dropout, and predictions that differ.

    `batches` are normalised images on the model's device. `model` is left in eval mode.
    """
    twin = classical(model)
    scaled = scaled_for_test(twin)
    largest = training = test = 0.0
    changed = 0
    for images in batches:
        training = max(training, _difference(*(_logits(m.train(), images, seed) for m in (model, twin))))
        ours, theirs = (_logits(m.eval(), images, seed) for m in (model, scaled))
        test, largest = max(test, _difference(ours, theirs)), max(largest, ours.abs().max().item())
        changed += int((ours.argmax(1) != theirs.argmax(1)).sum())
    return {
        "weight_scaling_difference": test,
        "weight_scaling_changed": changed,
        "weight_scaling_train_difference": training,
        "weight_scaling_largest_logit": largest,
    }


def _logits(model: nn.Module, images: Tensor, seed: int) -> Tensor:
    torch.manual_seed(seed)
    logits: Tensor = model(images)
    return logits


def _difference(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()
