"""`farm report` shows what has finished, exported or not, and `--check` says where a report does not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from attempts import attempt, request
from commands import COUNTING, exported

from analysis import report
from farm import provenance, study
from farm.cli import main


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """Words for a study with a report of factor=1 and factor=2."""
    words = [f"study={COUNTING}", f"results={tmp_path}"]
    assert main(["run", *words, "executor=inline"]) == main(["report", *words]) == 0
    return words


def test_a_run_whose_figure_cannot_be_made_is_complete_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: object) -> None:
        raise report.AnalysisError("nothing to draw")

    monkeypatch.setattr(report, "write_main_results", refused)
    assert main(["run", f"study={COUNTING}", f"results={tmp_path}", "executor=inline"]) == 0
    assert "farm: nothing to draw" in capsys.readouterr().err


def shown(results: Path) -> list[object]:
    return [row["config_factor"] for row in exported(results, "counting", "plan") if row["state"] == "done"]


def test_a_trial_that_came_after_the_export_makes_a_report_stale(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", *words, "--check"]) == 0
    attempt(request(tmp_path / "counting", factor=3))
    assert main(["report", *words, "--check"]) == 1
    assert "1 finished trial came after the export" in capsys.readouterr().err
    assert main(["report", *words]) == main(["report", *words, "--check"]) == 0
    assert shown(tmp_path) == [1, 2, 3]


def test_a_killed_runs_trials_are_reported(tmp_path: Path) -> None:
    attempt(request(tmp_path / "counting", factor=1))
    assert main(["report", f"study={COUNTING}", f"results={tmp_path}"]) == 0
    assert shown(tmp_path) == [1]


def test_a_narrower_plan_makes_a_report_no_older(words: list[str]) -> None:
    assert main(["export", *words, "sweep.factor=[1]"]) == 0
    assert main(["report", *words, "--check"]) == 0


def test_a_run_of_a_narrower_grid_leaves_figures_that_are_not_the_reports(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *words, "executor=inline"]) == main(["report", *words, "--check"]) == 0
    assert main(["run", *words, "executor=inline", "sweep.factor=[1]"]) == 0
    assert main(["report", *words, "--check"]) == 1
    assert "arms.csv was written anew by a run" in capsys.readouterr().err


def test_a_wider_plan_with_results_makes_it_older(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", *words, "sweep.factor=[1]"]) == 0
    assert main(["export", *words]) == 0
    assert main(["report", *words, "--check"]) == 1
    assert "1 finished trial of the plan came after the report" in capsys.readouterr().err


def test_an_export_without_its_ledger_is_reported_as_it_is(words: list[str], tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "counting" / "trials")
    assert main(["report", *words]) == main(["report", *words, "--check"]) == 0
    assert shown(tmp_path) == [1, 2]


def test_a_ledger_that_cannot_be_written_is_reported_as_exported(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "export")

    monkeypatch.setattr(study, "export", refused)
    assert main(["report", *words]) == 0
    assert "the report shows what was last exported" in capsys.readouterr().err


def test_a_last_command_that_the_study_no_longer_understands_is_passed_over(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "counting" / "study.yaml").write_text("# farm run study=counting trial.renamed=3\n")
    assert main(["report", *words]) == 0
    assert shown(tmp_path) == [1, 2]


def test_timed_results_are_shown_on_a_machine_with_another_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [f"study={COUNTING}", f"results={tmp_path}", "timed=true", "resources.gpu=1", "device=auto"]
    trial = tmp_path / "counting" / "trials" / "x-0123456789ab"
    trial.mkdir(parents=True)
    (trial / "spec.json").write_text(json.dumps({"hardware": "NVIDIA H200"}))
    (trial.parent.parent / "study.yaml").write_text(f"# farm run {' '.join(words[2:])}\n")
    monkeypatch.setattr(provenance, "gpu_models", lambda: ["NVIDIA L4"])
    for looked_at in (words[:2], words):
        assert main(["export", *looked_at]) == 0
        assert {row["config_hardware"] for row in exported(tmp_path, "counting", "plan")} == {"NVIDIA H200"}
