"""docs/own-study.md, copied and pasted."""

import io
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from commands import environment, exported, run_farm
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


def test_the_module_without_the_engine_runs(tmp_path: Path) -> None:
    (tmp_path / "newton.py").write_text(block("own-study.md", "py"))
    (tmp_path / "newton.yaml").write_text("{study: newton, module: newton, data: none, device: cpu}")
    assert run_farm(tmp_path, "study=newton.yaml", "executor=inline").code == 0
    assert [row["epoch"] for row in exported(tmp_path / "results", "newton", "epochs")] == [1, 2, 3, 4, 5]


def test_the_module_without_the_engine_goes_on_from_its_state() -> None:
    names: dict = {"__name__": "newton"}
    exec(block("own-study.md", "py"), names)
    spec = SimpleNamespace(parameters={"number": 2.0, "epochs": 5})

    def run(state):
        return names["run"](spec, SimpleNamespace(state=state, check_stop=lambda: None))

    whole = [rows for rows, _ in run(None)]
    killed = run(None)
    next(killed)
    saved = io.BytesIO()
    torch.save(next(killed)[1](), saved)
    saved.seek(0)
    assert [rows for rows, _ in run(torch.load(saved, weights_only=True))] == whole[2:]
