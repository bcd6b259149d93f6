"""docs/own-study.md, copied and pasted."""

from pathlib import Path

import pandas as pd
from commands import exported
from pages import block


def test_the_module_has_under_40_lines() -> None:
    assert len(block("own-study.md", "python").splitlines()) < 40


def test_the_commands_are_those_that_are_tested() -> None:
    assert block("own-study.md", "console").splitlines() == [
        "$ python farm/run.py study=smoothing.yaml profile=smoke",
        "$ farm report study=smoothing.yaml profile=smoke",
    ]


def test_label_smoothing_changes_what_is_learned(smoke: Path) -> None:
    trials = pd.DataFrame(exported(smoke, "smoothing", "trials"))
    assert (trials["status"] == "completed").all()
    assert trials["weights_sha256"].nunique() == len(trials) == 4
    assert set(trials["config_smoothing"]) == {0.0, 0.1}


def test_the_report_has_every_arm(smoke: Path) -> None:
    text = (smoke / "smoothing/report/report.md").read_text()
    assert all(f"augmentation={a}, smoothing={s}" in text for a in ("standard", "cutout") for s in ("0", "0.1"))
    assert (smoke / "smoothing/report/index.html").stat().st_size > 10_000
