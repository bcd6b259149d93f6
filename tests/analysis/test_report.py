import base64
import io
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from analysis import page, report
from analysis.load import AnalysisError


@pytest.fixture
def written(study_dir):
    return study_dir, report.write_report(study_dir, "4")


def test_the_page_needs_nothing_from_outside(written):
    page = written[1].html.read_text()
    loaded = re.findall(r'<(?:img|script|link|iframe|source)[^>]*?(?:src|href)="([^"]*)"', page)
    assert loaded
    assert all(reference.startswith("data:") for reference in loaded)
    assert "//" not in re.sub(r'"data:[^"]*"|http://www\.w3\.org/1998/Math/MathML', "", page)


def test_every_picture_has_alternative_text(written):
    images = re.findall(r"<img [^>]*>", written[1].html.read_text())
    assert len(images) == 3
    assert all(len(re.search(r'alt="([^"]*)"', image).group(1)) > 40 for image in images)


def test_every_file_that_the_report_names_is_there(written):
    study, paths = written
    for text in (paths.html.read_text(), paths.markdown.read_text()):
        names = re.findall(r'["(]((?:figures|tables)/[\w.-]+)[")]', text)
        assert names
        assert all((study / "report" / name).stat().st_size for name in names)


def test_every_figure_and_table_has_its_csv_and_provenance(written):
    study, paths = written
    text, index = paths.markdown.read_text(), report.write_index(study.parent).html.read_text()
    saved = sorted((study / "report").glob("*/*.csv"))
    assert [p.stem for p in saved] == ["baseline", "validation-error", "to-target"]
    assert all(f" [CSV]({p.parent.name}/{p.name})" in text for p in saved)
    shown = re.findall(r'<span class="origin">(.*?)<a href="data:text/csv;base64,([^"]+)"', index)
    assert [base64.b64decode(csv) for _, csv in shown] == [p.read_bytes() for p in saved[:2]]
    assert all("device NVIDIA H200" in origin for origin, _ in shown)


def test_the_tables_csv_is_the_tables_numbers(written):
    frame = pd.read_csv(written[0] / "report/tables/to-target.csv").set_index("arm")
    assert frame.loc["cutout M=2", "reached"] == 3
    assert frame.loc["baseline", "final_error"] == pytest.approx(0.0725, abs=1e-3)


def test_every_item_of_the_sheet_is_answered(written):
    assert {"4.1", "4.2", "4.3"} <= set(json.loads((written[0] / "report/manifest.json").read_text())["questions"])


def test_provenance_names_rows_trials_commit_and_device(written):
    text = written[1].markdown.read_text()
    assert "1,500 rows of 15 trials; seeds 0, 1, 2; data cifar10; device NVIDIA H200" in text
    assert "farm commit 0123456789ab" in text


def test_equations_are_mathml(written):
    assert "<math" in written[1].html.read_text()
    assert "$" not in re.sub(r'"data:[^"]*"', "", written[1].html.read_text())


def test_a_report_says_what_is_missing(written):
    assert "15 completed, 1 oom" in written[1].markdown.read_text()
    assert "cutout-M16-seed1: missing (new)" in written[1].markdown.read_text().replace("\\", "")


def test_finished_trials_outside_the_plan_are_named(made_up, tmp_path):
    del made_up.tables["plan"][0]
    text = report.write_report(made_up.write(tmp_path), "4").markdown.read_text()
    name = made_up.tables["trials"][0]["name"]
    assert f"Outside this grid, and not shown: 1 finished trial (`{name}`)." in text


def outside(made_up, results: Path, **changes: object) -> str:
    """The notice where the first trial has changed so and is not of the plan."""
    del made_up.tables["plan"][0]
    made_up.tables["trials"][0] |= {f"config_{k}": v for k, v in changes.items()}
    text = report.write_report(made_up.write(results), "4").markdown.read_text()
    return next(line for line in text.splitlines() if line.startswith("Outside this grid"))


def test_hardware_that_sets_trials_apart_is_named_with_its_command(made_up, tmp_path):
    told = outside(made_up, tmp_path, seed=1, hardware="NVIDIA L4")
    assert "apart from the nearest of the grid: hardware (NVIDIA L4)." in told.replace("\\", "")
    assert "`farm report study=problem4 'hardware=NVIDIA L4'` shows those of that GPU model instead." in told


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "apart from the nearest of the grid: seed (0)."),
        ({"seed": 1, "batch_size": 32}, "apart from the nearest of the grid: batch_size (32)."),
        ({"seed": 1, "dataset": "synthetic", "fingerprint": "e" * 64}, "of the grid: dataset (synthetic)."),
        ({"seed": 1, "fingerprint": "e" * 64}, "of the grid: fingerprint (eeeeeeeeeeee)."),
        ({"seed": 1, "hardware": "cpu"}, "of the grid: hardware (cpu)."),
        ({"seed": 1, "hardware": "NVIDIA L4", "revision": 2}, "of the grid: revision (2) and hardware (NVIDIA L4)."),
        (
            {"seed": 1, "hardware": "NVIDIA L4", "dataset": "synthetic"},
            "of the grid: dataset (synthetic) and hardware (NVIDIA L4).",
        ),
    ],
)
def test_what_sets_trials_outside_apart_is_named(made_up, tmp_path, changes, told):
    notice = outside(made_up, tmp_path, **changes)
    assert told in notice.replace("\\", "")
    assert "shows those of that GPU model" not in notice


def test_drawn_images_are_not_passed_off_as_cifar(made_up, tmp_path):
    for row in (*made_up.tables["plan"], *made_up.tables["trials"]):
        row["config_dataset"] = "synthetic"
    text = report.write_report(made_up.write(tmp_path), "4").markdown.read_text()
    assert "not from CIFAR-10" in text.split("##")[0]


def test_where_some_images_are_drawn_the_notice_says_partly(made_up, tmp_path):
    made_up.tables["trials"][0]["config_dataset"] = "synthetic"
    study = made_up.write(tmp_path)
    text = report.write_report(study, "4").markdown.read_text()
    assert "These numbers are partly from the built-in drawn images" in text
    assert "Partly from the built-in drawn images" in report.write_index(tmp_path).markdown.read_text()


def test_images_are_called_by_what_has_results_not_by_what_is_planned(empty, tmp_path):
    export = empty()
    export.add("standard", 1, 0, 0.05, epochs=2)
    export.add("cutout", 1, 0, 0.05, state="new")
    export.tables["plan"][0]["config_dataset"] = export.tables["trials"][0]["config_dataset"] = "synthetic"
    text = report.write_report(export.write(tmp_path), "4").markdown.read_text()
    assert "**These numbers are from the built-in drawn images" in text
    assert "From the built-in drawn images" in report.write_index(tmp_path).markdown.read_text()


@pytest.mark.parametrize(("trials", "noun", "verb"), [(1, "trial", "is"), (2, "trials", "are")])
def test_the_count_of_done_trials_agrees_with_its_verb(empty, tmp_path, trials, noun, verb):
    export = empty()
    for seed in range(trials):
        export.add("standard", 1, seed, 0.05, epochs=2)
    text = report.write_report(export.write(tmp_path), "4").markdown.read_text()
    assert f"{trials} of {trials} {noun} of the plan {verb} done" in text


def test_a_message_with_tags_is_shown_as_text(made_up, tmp_path):
    made_up.add("cutout", 64, 0, 0.0, state="failed", reason="<script>alert(1)</script> $x$ | *b*")
    page = report.write_report(made_up.write(tmp_path), "4").html.read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; $x$ | *b*" in page


def test_one_seed_an_arm_is_said_and_gives_no_interval(empty, tmp_path):
    export = empty()
    export.add("standard", 1, 0, 0.07)
    export.add("cutout", 1, 0, 0.06)
    text = report.write_report(export.write(tmp_path), "4").markdown.read_text()
    assert "At least one arm has a single seed" in text
    assert "1.00 (n = 1) percentage points" in text.replace("\N{NO-BREAK SPACE}", " ")


def test_a_report_without_any_result_can_be_written(empty, tmp_path):
    export = empty()
    export.add("standard", 1, 0, 0.05)
    export.tables["plan"][0]["state"] = "new"
    text = report.write_report(export.write(tmp_path), "4").markdown.read_text()
    assert "0 of 1 trial of the plan is done" in text
    assert "The baseline has no completed trial" in text


def test_a_fresh_report_is_not_stale(written):
    assert report.is_stale(written[0]) == []


def test_a_report_is_stale_when_rows_change(written):
    path = written[0] / "export/epochs.parquet"
    pd.read_parquet(path).assign(validation_error=0.5).to_parquet(path)
    assert report.is_stale(written[0]) == [f"{path} has changed since the report"]


def test_a_report_is_stale_when_one_of_its_files_is_gone(written):
    written[1].html.unlink()
    assert report.is_stale(written[0]) == [f"{written[1].html} is missing"]


def test_an_index_over_results_that_are_not_there_says_so(tmp_path):
    with pytest.raises(AnalysisError, match="no study there has a report"):
        report.write_index(tmp_path / "nope")


def test_no_report_is_stale(study_dir):
    assert "no report there yet" in report.is_stale(study_dir)[0]


def test_writing_twice_gives_the_same_files(written):
    files = [p for p in (written[0] / "report").rglob("*") if p.is_file()]
    first = {p: p.read_bytes() for p in files}
    report.write_report(written[0], "4")
    assert {p: p.read_bytes() for p in files} == first


def test_the_main_results_are_a_figure_and_a_table(study_dir):
    paths = report.write_main_results(study_dir, "4")
    assert [str(p.relative_to(study_dir / "report")) for p in paths] == [
        "figures/validation-error.png",
        "figures/validation-error.svg",
        "tables/to-target.csv",
        "tables/to-target.md",
    ]
    assert len(pd.read_csv(io.StringIO(paths[2].read_text()))) == 7


def test_the_main_results_load_no_page_machinery(study_dir):
    code = (
        f"import sys; from pathlib import Path; from analysis import report; "
        f"report.write_main_results(Path({str(study_dir)!r}), '4'); "
        f"sys.exit(bool({{'jinja2', 'latex2mathml', 'matplotlib.pyplot', 'torch', 'ray'}} & set(sys.modules)))"
    )
    start = time.monotonic()
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert time.monotonic() - start < 20  # 2 s alone on the machine; this guards against tens of seconds


def test_a_study_of_ones_own_has_a_report_too(study_dir):
    text = report.write_report(study_dir, "label smoothing").markdown.read_text()
    assert text.startswith("# problem4")
    assert "The study's measure is `validation_error`" in text
    assert "cutout M=32" in text


def test_the_index_shows_every_study_and_marks_the_stale(written, made_up):
    study, _ = written
    report.write_report(made_up.write(study.parent, "second"), "4")
    (study / "export/plan.parquet").touch()
    pd.DataFrame({"x": [1]}).to_parquet(study / "export/attempts.parquet")
    paths = report.write_index(study.parent)
    page = paths.html.read_text()
    assert page.count("<h2>") == 3  # two studies, and the questions of the sheet
    assert page.count("older than its rows") == 1
    assert "second/report/index.html" in page


def entry(study, states, datasets=("cifar10",)):
    return page.Entry(study, {"questions": ["4.1"], "states": states, "datasets": list(datasets)}, [])


def test_the_index_answers_from_the_sheets_data_and_from_the_most_trials():
    drawn = entry("cutout-smoke", {"done": 9}, ["synthetic"])
    few, many, new = entry("a", {"done": 2}), entry("problem4", {"done": 4}), entry("b", {"new": 4})
    assert page.answering([drawn, few, new, many], "4.1a") is many
    assert page.answering([entry("a", {"done": 4}), many], "4.1a") is many
    assert page.answering([drawn, new], "4.1a") is drawn
    partly = entry("both", {"done": 3}, ["cifar10", "synthetic"])
    assert page.answering([drawn, partly], "4.1a") is partly
    assert page.answering([partly, few], "4.1a") is few
    assert partly.answer == "partly drawn images"
    assert page.answering([many], "4.2") is None
    assert [e.answer for e in (drawn, many, new)] == ["drawn images", "", "no results yet"]
    assert entry("c", {"new": 1}, ["cifar10", "synthetic"]).answer == "no results yet, partly drawn images"


def test_the_index_says_where_nothing_has_run(empty, tmp_path):
    export = empty()
    export.add("standard", 1, 0, 0.05)
    export.tables["plan"][0]["state"] = "new"
    report.write_report(export.write(tmp_path), "4")
    assert "problem4</a> (no results yet)<" in report.write_index(tmp_path).html.read_text()


def test_an_index_of_nothing_says_so(tmp_path):
    with pytest.raises(AnalysisError, match="no study there has a report"):
        report.write_index(tmp_path)
