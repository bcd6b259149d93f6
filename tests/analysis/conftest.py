"""A made-up export of problem 4 with everything that can happen to an arm."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

EPOCHS = 100
GPU = "NVIDIA H200"


def made_up_error(epoch: int, copies: int, seed: int, schedule: str, final: float) -> float:
    """A learning curve: a slow fall, and a step down at the learning-rate drop."""
    drop = 82 if schedule == "hoffer" else 41
    noise = 0.004 * math.sin(12.9898 * epoch + 78.233 * seed + copies)
    plateau = 0.11 + 0.55 * math.exp(-epoch / (7 + 3 / copies))
    return max(plateau + noise, 0.02) if epoch < drop else final + 0.15 * noise + 0.01 * math.exp(-(epoch - drop) / 4)


class MadeUpExport:
    """Collects trials, then writes the four Parquet files."""

    def __init__(self) -> None:
        self.tables: dict[str, list[dict[str, Any]]] = {
            "epochs": [],
            "trials": [],
            "attempts": [],
            "plan": [],
        }

    def add(
        self,
        augmentation: str,
        copies: int,
        seed: int,
        final: float,
        *,
        schedule: str = "hoffer",
        state: str = "done",
        status: str = "completed",
        device: str = GPU,
        devices: str = "",
        epochs: int = EPOCHS,
        reason: str = "",
    ) -> str:
        """One trial of the plan with its rows; returns its id."""
        trial = f"{len(self.tables['plan']):012x}"
        config = self.config(augmentation, copies, seed, schedule, epochs, device)
        ids = {"trial_id": trial, "name": f"{augmentation}-M{copies}-seed{seed}"}
        done = state == "done"
        self.tables["plan"].append(
            ids
            | {
                "state": state,
                "status": status if done else "",
                "epoch": 37 * (state == "partial"),
                "reason": reason,
                "gpus": 1.0,
            }
            | config
        )
        self.tables["attempts"].append(
            ids
            | {
                "attempt": 1,
                "how": status if done else state,
                "error_class": "RuntimeError" if state == "failed" else "",
                "device": device,
                "host": "n1",
            }
        )
        if not done:
            return trial
        lasted = {"completed": epochs, "oom": 0, "diverged": 3}[status]
        self.tables["trials"].append(
            ids
            | {"study": "problem4", "status": status, "attempts": 1, "seconds": 35.0 * copies, "host": "n1"}
            | {"device": device, "devices": devices or device, "finished_at": "2026-11-20T10:00:00+00:00"}
            | {"farm_commit": "0123456789abcdef0123456789abcdef01234567", "torch_version": "2.14.1"}
            | {
                "startup_seconds": 2.0 + 0.1 * seed,
                "peak_memory_bytes": 80 * 2**30,
                "diverged_epoch": 3.0 if status == "diverged" else None,
            }
            | config
        )
        for epoch in range(1, lasted + 1):
            error = made_up_error(epoch, copies, seed, schedule, final)
            drop = 82 if schedule == "hoffer" else 41
            self.tables["epochs"].append(
                ids
                | {"attempt": 1, "epoch": epoch, "learning_rate": 0.1 if epoch < drop else 0.01}
                | {"validation_error": error, "train_error": 0.8 * error, "validation_loss": 3 * error}
                | {"steps": 781, "samples": 49_984 * copies}
                | {"wall_seconds": epoch * (4.0 + 2.5 * copies + 0.02 * seed), "train_seconds": 2.5 * copies}
                | config
            )
        return trial

    def config(
        self, augmentation: str, copies: int, seed: int, schedule: str, epochs: int, device: str
    ) -> dict[str, Any]:
        parameters = {
            "augmentation": augmentation,
            "M": copies,
            "schedule": schedule,
            "depth": 44,
            "epochs": epochs,
        }
        parameters |= {"batch_size": 64, "precision": "fp32", "cutout_length": 16, "learning_rate": 0.1}
        spec = {"seed": seed, "threads": 1, "dataset": "cifar10", "fingerprint": "f" * 64, "revision": 1}
        spec |= {"timed": True, "hardware": device, "module": "trials.problem4"}
        return {f"config_{k}": v for k, v in (parameters | spec).items()}

    def write(self, results: Path, study: str = "problem4") -> Path:
        """Write `<results>/<study>/export/`; returns the study's directory."""
        export = results / study / "export"
        export.mkdir(parents=True, exist_ok=True)
        for name, rows in self.tables.items():
            pd.DataFrame(rows).to_parquet(export / f"{name}.parquet", index=False)
        return results / study


@pytest.fixture
def made_up() -> MadeUpExport:
    """Seven arms: the baseline never reaches 94 %, M=8 does with one of two seeds, M=16 lacks a seed, M=32 is oom."""
    export = MadeUpExport()
    for seed in (0, 1, 2):
        export.add("standard", 1, seed, 0.0705 + 0.002 * seed)
        export.add("cutout", 1, seed, 0.061 + 0.0015 * seed)
        export.add("cutout", 2, seed, 0.057 + 0.001 * seed)
        export.add("cutout", 4, seed, 0.052 + 0.0007 * seed)
    export.add("cutout", 8, 0, 0.051)
    export.add("cutout", 8, 1, 0.0645)
    export.add("cutout", 16, 0, 0.049, devices=f"{GPU}, NVIDIA H100 80GB HBM3")
    export.add("cutout", 16, 1, 0.0, state="new")
    export.add("cutout", 32, 0, 0.0, status="oom")
    return export


@pytest.fixture
def study_dir(made_up: MadeUpExport, tmp_path: Path) -> Path:
    """The made-up export on disk."""
    return made_up.write(tmp_path)


@pytest.fixture
def empty() -> Callable[[], MadeUpExport]:
    """Makes an export without trials."""
    return MadeUpExport
