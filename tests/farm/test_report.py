"""`farm report` shows what has finished, exported or not, and `--check` says where a report does not."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from attempts import attempt, request
from commands import COUNTING, exported

from analysis import report
from farm import provenance, recorded, study
from farm.cli import main
from farm.errors import PreflightError
from farm.recall import studies_with_results
from trials.spec import Spec


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


def pictures(results: Path) -> set[str]:
    """Figures and tables of the report's directory."""
    report = results / "counting" / "report"
    return {str(path.relative_to(report)) for path in report.glob("*/*")}


def listed(results: Path) -> set[str]:
    content = json.loads((results / "counting" / "report" / "manifest.json").read_text())
    return {name for name in content["files"] if "/" in name}


def test_a_report_leaves_no_figure_of_the_run_or_the_report_before(words: list[str], tmp_path: Path) -> None:
    assert pictures(tmp_path) == listed(tmp_path)
    assert "figures/train_loss.svg" in pictures(tmp_path)
    assert main(["report", *words, "trial.epochs=9"]) == 0  # nothing of it has run
    assert pictures(tmp_path) == listed(tmp_path)
    assert main(["run", *words, "executor=inline"]) == main(["report", *words, "trial.epochs=9"]) == 0
    assert "figures/train_loss.svg" not in pictures(tmp_path)
    assert not (tmp_path / "counting" / "report" / "made.json").exists()


def test_a_report_that_was_cut_off_leaves_nothing_to_the_next(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(report, "_save_parts", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main(["report", *words])
    assert main(["report", *words, "trial.epochs=9"]) == 0
    assert pictures(tmp_path) == listed(tmp_path)


def test_a_file_of_the_users_stays_beside_the_report(words: list[str], tmp_path: Path) -> None:
    tables = tmp_path / "counting" / "report" / "tables"
    (tables / "arms.csv").write_text("corrected by hand")
    (tables / "mine.csv").write_text("mine")
    assert main(["report", *words, "trial.epochs=9"]) == 0
    assert pictures(tmp_path) - listed(tmp_path) == {"tables/arms.csv", "tables/mine.csv"}


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


TWO = ("NVIDIA H100 80GB HBM3", "NVIDIA H200")


@pytest.fixture
def two_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Words for a study with a finished trial on each of two GPU models, factor=1, seen where no GPU is."""
    monkeypatch.setattr(provenance, "gpu_models", list)
    monkeypatch.setattr("farm.attempt._prepare_torch", lambda spec, device: None)
    for model in TWO:
        earlier = request(tmp_path / "counting", factor=1)
        spec = Spec(**(earlier.spec | {"timed": True, "hardware": model}))
        attempt(dataclasses.replace(earlier, spec=spec.as_dict()))
    last = "timed=true resources.gpu=1 device=auto 'sweep.factor=[1]'"
    (tmp_path / "counting" / "study.yaml").write_text(f"# farm run study=counting {last}\n")
    return [f"study={COUNTING}", f"results={tmp_path}"]


@pytest.mark.parametrize("verb", ["status", "report", "export"])
def test_results_of_two_gpu_models_are_looked_at_by_the_one_that_is_named(
    verb: str,
    two_models: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([verb, *two_models]) == 2
    said = f"the results of counting are of {', '.join(TWO)}; name the one that is looked at, as hardware='NVIDIA H200'"
    assert said in capsys.readouterr().err
    assert main([verb, *two_models, "hardware=NVIDIA H200"]) == 0
    if verb == "status":
        assert "counting: 1 done" in capsys.readouterr().out
    else:
        assert shown(tmp_path) == [1]
    monkeypatch.setattr(provenance, "gpu_models", lambda: ["NVIDIA L4"])
    assert main([verb, *two_models]) == 2
    monkeypatch.setattr(provenance, "gpu_models", lambda: [TWO[0]])
    assert main([verb, *two_models]) == 0


def test_a_trial_of_one_of_two_gpu_models_is_told_why(
    two_models: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    identity = next(Path(two_models[1].partition("=")[2]).glob("counting/trials/*")).name.rpartition("-")[2]
    assert main(["why", identity, *two_models]) == 0
    assert f"({identity}) of counting is done (completed)" in capsys.readouterr().out
    assert main(["why", "no such", *two_models]) == 2
    assert "as hardware='NVIDIA H200'" in capsys.readouterr().err


@pytest.fixture
def both(words: list[str], tmp_path: Path) -> list[str]:
    """The results of two studies, `counting` and `other`, which are all that there are, with reports and an index."""
    other = tmp_path / "other.yaml"
    other.write_text(COUNTING.read_text().replace("study: counting", "study: other"))
    place = words[1:]
    assert main(["run", f"study={other}", *place, "executor=inline"]) == 0
    assert main(["report", *place]) == main(["report", *place, "--check"]) == 0
    return place


def test_a_broken_study_leaves_the_others_their_reports(
    both: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(tmp_path / "counting" / "trials")
    for table in (tmp_path / "counting" / "export").glob("*.*"):
        table.write_text("junk")
    for page in ("other/report/index.html", "index.html"):
        (tmp_path / page).unlink()
    assert main(["report", *both]) == 3
    assert "not readable as Parquet" in capsys.readouterr().err
    assert (tmp_path / "other" / "report" / "index.html").exists()
    assert (tmp_path / "index.html").exists()


def test_a_study_without_its_export_leaves_the_others_their_check(
    both: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(tmp_path / "counting" / "export")
    (tmp_path / "other" / "report" / "index.html").unlink()
    assert main(["report", *both, "--check"]) == 1
    said = capsys.readouterr().err
    assert "counting/export/trials.parquet was there for the report, and is gone" in said
    assert "other/report/index.html is missing" in said


def test_a_study_whose_file_is_gone_is_named_as_left_out(
    both: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.yaml").unlink()
    capsys.readouterr()
    assert main(["report", *both]) == 0
    said = capsys.readouterr()
    assert "counting/report/report.md" in said.out
    assert "other/report/report.md" not in said.out
    named = f"study={tmp_path / 'other.yaml'}  (no such file here)"
    assert said.err == f"farm: other is left out; it is named by {named}\n"


@pytest.mark.parametrize("name", ["other.yaml", "other/study.yaml"])
def test_a_study_file_of_other_people_is_not_read_unasked(
    both: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def is_ours(path: Path) -> bool:
        return path != tmp_path / name

    monkeypatch.setattr(recorded, "_is_ours", is_ours)
    assert [words[0] for words in studies_with_results(both)] == [f"study={COUNTING}"]


def test_a_study_whose_module_is_hidden_by_another_of_its_name_is_left_out(both: list[str], tmp_path: Path) -> None:
    (tmp_path / "counting.py").write_text("REVISION = 7\n")  # beside other.yaml, when counting.yaml's has been read
    assert [words[0] for words in studies_with_results(both)] == [f"study={COUNTING}"]


def test_a_reports_index_goes_with_it(both: list[str], tmp_path: Path) -> None:
    attempt(request(tmp_path / "counting", factor=3))
    assert main(["report", f"study={COUNTING}", *both]) == 0
    assert "3 done" in (tmp_path / "index.html").read_text()
    assert main(["report", *both, "--check"]) == 0


def test_an_index_that_is_gone_or_older_is_found(
    both: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "index.html").unlink()
    (tmp_path / "index.md").write_text("# Studies\n")
    assert main(["report", *both, "--check"]) == 1
    said = capsys.readouterr().err
    assert "index.html is missing" in said
    assert "index.md is older than the reports" in said


def test_a_trial_with_damaged_results_makes_a_report_no_older(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    next(tmp_path.glob("counting/trials/factor2-*/done/manifest.json")).write_text("{}")
    assert main(["report", *words]) == main(["export", *words]) == 1
    assert "its results are damaged" in capsys.readouterr().err
    assert main(["report", *words, "--check"]) == 0
    assert shown(tmp_path) == [1]


def test_damaged_rows_leave_the_other_trials_their_report(words: list[str], tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "counting" / "export")
    next(tmp_path.glob("counting/trials/factor2-*/done/rows.parquet")).write_text("junk")
    assert main(["report", *words]) == 1
    assert main(["report", *words, "--check"]) == 0
    assert shown(tmp_path) == [1]


def test_a_damaged_plan_is_found(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "counting" / "export" / "plan.parquet").write_text("junk")
    assert main(["report", *words, "--check"]) == 1
    assert "plan.parquet is gone or damaged" in capsys.readouterr().err


def test_a_damaged_manifest_is_no_report(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "counting" / "report" / "manifest.json").write_text('{"export": 3, "shown": 7, "files": {}}')
    assert main(["report", *words, "--check"]) == 1
    assert "no report there yet, or none that is whole" in capsys.readouterr().err


def test_without_a_study_the_sites_results_are_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FARM_RESULTS", raising=False)
    (tmp_path / "site.yaml").write_text(f"results: {tmp_path}\n")
    words = [f"site={tmp_path / 'site.yaml'}", "profile=smoke"]
    with pytest.raises(PreflightError, match=f"{tmp_path}: no study has results there yet"):
        studies_with_results(words)
    (tmp_path / "problem3" / "trials").mkdir(parents=True)
    assert studies_with_results(words) == [["study=problem3", *words]]
