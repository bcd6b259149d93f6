"""`farm report problem=4` shows cutout on CIFAR-10's own images, where they are at hand."""

from __future__ import annotations

import os
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from commands import ROOT

from farm.cli import main

REAL = Path(os.environ.get("FARM_TEST_CIFAR10", ROOT.parent / "shared" / "cifar10"))
DRAWN, OURS = "two drawn pictures, for CIFAR-10 was not at hand", "the first two training images of CIFAR-10"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A ledger of problem 4 whose one trial has not run."""
    export = tmp_path / "problem4" / "export"
    export.mkdir(parents=True)
    trial = {"trial_id": "t", "name": "baseline", "config_module": "trials.problem4", "config_augmentation": "standard"}
    plan = trial | {"state": "new", "status": "", "reason": "", "config_M": 1}
    for name, rows in {"plan": [plan], "trials": [], "attempts": [], "epochs": []}.items():
        columns = [*plan, "epoch", "attempt", "learning_rate"]
        pd.DataFrame(rows, columns=None if rows else columns).to_parquet(export / f"{name}.parquet", index=False)
    return tmp_path


def report(results: Path, *overrides: str) -> str:
    """What the report says, after the command has ended well."""
    assert main(["report", "problem=4", f"results={results}", *overrides]) == 0
    return (results / "problem4/report/report.md").read_text(encoding="utf-8")


def test_the_images_of_data_root_are_cut(results: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[object] = []

    def white(root: object, count: int) -> np.ndarray:
        asked.append(root)
        return np.full((count, 32, 32, 3), 255, np.uint8)

    monkeypatch.setattr("trials.data.first_training_images", white)
    text = report(results, f"data_root={tmp_path}")
    assert (OURS in text, DRAWN in text, asked) == (True, False, [tmp_path])
    picture = matplotlib.image.imread(results / "problem4/report/figures/cutout.png")
    assert np.mean(picture[..., :3] == 1) > 0.8


def test_the_last_runs_data_root_is_remembered(results: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (results / "problem4" / "study.yaml").write_text(f"# farm run problem=4 data_root={tmp_path / 'there'}\n")
    asked: list[object] = []
    monkeypatch.setattr("trials.data.first_training_images", lambda root, count: asked.append(root))
    report(results)
    assert asked == [tmp_path / "there"]


@pytest.mark.parametrize("damage", ["absent", "empty", "not Parquet"])
def test_without_whole_data_two_pictures_are_drawn(results: Path, tmp_path: Path, damage: str) -> None:
    root = tmp_path / "data"
    if damage != "absent":
        root.mkdir()
    if damage == "not Parquet":
        (root / "train-00000-of-00001.parquet").write_bytes(b"no Parquet")
    assert DRAWN in report(results, f"data_root={root}")


@pytest.mark.skipif(not REAL.is_dir(), reason="needs CIFAR-10 in ../shared or $FARM_TEST_CIFAR10")
@pytest.mark.cifar10
def test_the_real_images_are_shown(results: Path) -> None:
    assert OURS in report(results, f"data_root={REAL}")
