"""docs/own-study.md, copied and pasted."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from commands import environment, exported
from pages import block, write_own_study


def test_the_module_has_under_40_lines() -> None:
    assert len(block("own-study.md", "python").splitlines()) < 40


@pytest.mark.ray
def test_the_page_is_copied_and_its_commands_run(tmp_path: Path) -> None:
    write_own_study(tmp_path)
    commands = [line.removeprefix("$ ") for line in block("own-study.md", "console").splitlines()]
    environment_here = environment() | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-ec", "\n".join(commands)],
        cwd=tmp_path,
        env=environment_here,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    text = (tmp_path / "results/smoothing/report/report.md").read_text()
    assert text.startswith("# Label smoothing against cutout\n")
    assert "4 of 4 trials of the plan are done" in text
    assert "the sheet" not in text


def test_label_smoothing_changes_what_is_learned(smoke: Path) -> None:
    trials = pd.DataFrame(exported(smoke, "smoothing", "trials"))
    assert (trials["status"] == "completed").all()
    assert trials["weights_sha256"].nunique() == len(trials) == 4
    assert set(trials["config_smoothing"]) == {0.0, 0.1}


def test_the_report_has_every_arm(smoke: Path) -> None:
    text = (smoke / "smoothing/report/report.md").read_text()
    assert all(f"{a} smoothing={s}" in text for a in ("standard", "cutout") for s in ("0", "0.1"))
    assert (smoke / "smoothing/report/index.html").stat().st_size > 10_000
