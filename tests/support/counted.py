"""What the study that only counts has left behind, against what it leaves when nothing interrupts it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from commands import COUNTING, exported, run_farm

from farm.ledger import scan

EXACT = ("config_factor", "config_seed", "epoch", "train_loss", "value")
FACTORS = "sweep.factor=[1,2,3,4]"


def rows(results: Path) -> list[tuple[Any, ...]]:
    """The columns that no clock or host produced, sorted."""
    return sorted(tuple(row[c] for c in EXACT) for row in exported(results, "counting", "epochs"))


def undisturbed(directory: Path, epochs: int, factors: str = FACTORS) -> list[tuple[Any, ...]]:
    """Rows of the same trials when nothing interrupts them (and nothing makes them wait)."""
    words = (f"study={COUNTING}", factors, f"trial.epochs={epochs}", "executor=inline")
    assert run_farm(directory, *words).code == 0
    return rows(directory / "results")


def committed(results: Path) -> int:
    """Epochs that a ledger holds."""
    return sum(p.epoch for p in scan.scan(results / "counting").values())
