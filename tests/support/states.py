"""States and rows of trials, as tests compare them."""

from __future__ import annotations

import io

import torch

from trials.spec import Row, State


def through_a_file(state: State) -> State:
    """A state as a commit gives it back."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def without_measured(row: Row) -> Row:
    """A row without what clocks and hardware produced."""
    return {k: v for k, v in row.items() if not k.endswith(("_seconds", "_bytes"))}
