"""What problem 2's report states of how it was measured: the settings that were run, the images, clocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.words import listing

SETUP = (
    "dataset", "precision", "repeats", "workers", "pinned", "cudnn_benchmark", "width", "train_examples",
    "learning_rate", "momentum", "weight_decay", "least_iterations",
)  # fmt: skip


def settings(frame: pd.DataFrame) -> dict[str, list[str]]:
    """The values of each setting in some rows, or in the plan, as people write them."""
    known = {name: set(frame[c].dropna()) if (c := f"config_{name}") in frame else set() for name in SETUP}
    return {name: [_written(value) for value in sorted(values)] for name, values in known.items()}


def _written(value: Any) -> str:
    """A setting as people write it: 2, 0.1, 5e-4."""
    if not isinstance(value, (int, float, np.number)) or isinstance(value, bool):
        return str(value)
    if float(value).is_integer():
        return str(int(value))
    mantissa, exponent = f"{value:e}".split("e")
    plain, power = repr(float(value)), f"{float(mantissa):g}e{int(exponent)}"
    return power if float(power) == value and len(power) < len(plain) else plain


def images(rows: pd.DataFrame, asked: Sequence[str]) -> str:
    """What `train_examples` made of the training set; empty where it asked for all of it. There may be fewer."""
    if list(asked) in ([], ["0"]):
        return ""
    sizes = sorted({int(n) for n in rows["examples"].dropna()} if "examples" in rows else ())
    if not sizes:
        return f"train_examples={listing(asked)}"
    text = f"{listing([f'{n:,}' for n in sizes])} training images"
    return f"the first {text}" if [str(n) for n in sizes] == [n for n in asked if n != "0"] else f"all {text}"


def repeated(rows: pd.DataFrame) -> tuple[int, int] | None:
    """Most images that an epoch had twice because of DDP's sampler, and the set's; None where none."""
    if not {"samples", "examples"} <= set(rows):
        return None
    padded = rows[rows["samples"] > rows["examples"]]
    return max(((int(s - n), int(n)) for s, n in zip(padded["samples"], padded["examples"], strict=True)), default=None)
