"""Problem 3's report, from a real ledger of short trials."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from torchvision.ops import nms

from analysis import page, problem3, report
from analysis import problem3_layers as layers
from analysis.load import AnalysisError, Data, load
from analysis.options import Options
from analysis.section import Section
from farm import config as configuration
from farm.attempt import StopFlag, run_attempt
from farm.ledger.export import export
from farm.ledger.gather import DIGESTS
from farm.study import make_plan, request

SHORT = ["trial.epochs=2", "trial.steps=6", "trial.scene_size=96", "trial.most_layers=3", "trial.largest_filter=5"]
NEEDED = ("alexnet_paper", "alexnet", "vgg19", "inception_naive", "inception_reduced")
SHEET = {
    "Input": ["224*224*3=150K | 0"],
    "CONV3-64": ["224*224*64=3.2M | (3*3*3)*64 = 1,728", "224*224*64=3.2M | (3*3*64)*64 = 36,864"],
    "CONV3-256": ["56*56*256=800K | (3*3*256)*256 = 589,824"],
    "CONV3-512": ["28*28*512=400K | (3*3*256)*512 = 1,179,648"],
    "POOL2": ["112*112*64=800K | 0", "56*56*128=400K | 0"],
    "FC": ["4096 | 4096*4096 = 16,777,216"],
}
"""Cells that the sheet itself has filled in."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study's directory after all its trials have run, shortened."""
    results = tmp_path_factory.mktemp("results")
    config = configuration.load(["problem=3", f"results={results}", *SHORT])
    for trial in make_plan(config).trials:
        end = run_attempt(request(config, trial, "test"), StopFlag(), lambda progress: None, lambda attempt: "")
        assert end.how == "completed", end.error
    made = export(config.ledger, make_plan(config), config.settings.module)
    (made.directory / DIGESTS).unlink()  # tests change the tables
    return config.ledger


@pytest.fixture(scope="module")
def data(whole: Path) -> Data:
    return load(whole)


@pytest.fixture
def without(whole: Path, tmp_path: Path):
    """The study as it was before a trial, found by a config column's value, had run."""

    def make(column: str, value: str) -> Data:
        study = shutil.copytree(whole, tmp_path / "problem3")
        plan = pd.read_parquet(study / "export/plan.parquet")
        plan.loc[plan[f"config_{column}"] == value, "state"] = "new"
        plan.to_parquet(study / "export/plan.parquet")
        return load(study)

    return make


SECTIONS: dict[Path, list[Section]] = {}
"""Sections of the data that were looked at: figures are drawn once."""


def sections(data: Data) -> list[Section]:
    if data.directory not in SECTIONS:
        SECTIONS[data.directory] = problem3.sections(data)
    return SECTIONS[data.directory]


def texts(data: Data) -> str:
    return "\n".join(page.texts(sections(data)))


def cells(data: Data, name: str) -> list[list[str]]:
    return next(s.tables[name] for s in sections(data) if name in s.tables).cells


def test_every_question_of_the_sheet_has_its_section_and_nothing_is_missing(data):
    assert [q for s in sections(data) for q in s.questions] == ["3.1", "3.2", "3.3", "3.4", "3.5", "3.5"]
    assert "Missing" not in texts(data)
    assert all(s.context.get("missing", []) == [] for s in sections(data))


def test_all_tables_are_there(data):
    assert set(data.tables) == {"layers", "epochs", "stacks", "boxes", "suppression", "scanlines"}
    assert data.table == "layers"


def test_alexnet_is_calculated_line_by_line(data):
    lines = list(layers.explained(layers.networks(data)["alexnet_paper"]))
    assert [line.split("**")[1] for line in lines] == [
        "conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "conv5", "pool5", "fc6", "fc7", "fc8",
    ]  # fmt: skip
    assert "(227 − 11 + 2·0)/4 + 1 = 55, so 96·55·55 = 290,400 units" in lines[0]
    assert "96/2 = 48" in lines[2]
    assert "5·5·48·256 = 307,200, biases 256, together 307,200 + 256 = **307,456**" in lines[2]
    assert "4,097,000 = 60,965,224" in texts(data)


def test_alexnet_s_total_row_is_the_sum(data):
    assert cells(data, "alexnet-parameters")[-1] == ["total", "", "", "60,954,656", "10,568", "60,965,224", "100.0"]
    assert cells(data, "alexnet-and-torchvision")[-1] == ["total", "", "60,965,224", "", "61,100,840"]


def test_vgg19_s_table_agrees_with_what_the_sheet_has_filled_in(data):
    rows = cells(data, "vgg19")
    for layer, given in SHEET.items():
        found = [" | ".join(row[1:]) for row in rows if row[0] == layer]
        assert set(given) <= set(found)


def test_vgg19_s_table_has_every_row_and_the_total(data):
    names = [row[0] for row in cells(data, "vgg19")]
    blocks = [("64", 2), ("128", 2), ("256", 4), ("512", 4), ("512", 4)]
    expected = [name for width, n in blocks for name in (*[f"CONV3-{width}"] * n, "POOL2")]
    assert names == ["Input", *expected, "FC", "FC", "FC", "TOTAL"]
    assert cells(data, "vgg19")[-1] == ["TOTAL", "16,542,184 (17M)", "143,652,544"]


@pytest.mark.parametrize(
    ("number", "text"),
    [(150_528, "150K"), (3_211_264, "3.2M"), (802_816, "800K"), (100_352, "100K"), (25_088, "25K"), (1000, "1000")],
)
def test_numbers_are_shortened_as_on_the_sheet(number, text):
    assert layers.short(number) == text


def test_a_row_that_contradicts_its_shapes_is_an_error(whole, tmp_path):
    study = shutil.copytree(whole, tmp_path / "problem3")
    rows = pd.read_parquet(study / "export/layers.parquet")
    rows.loc[(rows["network"] == "alexnet_paper") & (rows["layer"] == "conv2"), "groups"] = 1
    rows.to_parquet(study / "export/layers.parquet")
    with pytest.raises(AnalysisError, match="alexnet_paper, layer conv2"):
        problem3.sections(load(study))


def test_receptive_fields_are_the_measured_ones(data):
    table = problem3.tables(data)["receptive-fields"]
    assert table.headings == ["N", "F = 2", "F = 3", "F = 4", "F = 5"]
    assert table.cells[2] == ["3", "4x4", "7x7", "10x10", "13x13"]
    assert "12 of 12 agree with the formula" in texts(data)


def test_a_measure_that_disagrees_is_not_counted_as_agreeing(data):
    stacks = data.tables["stacks"].copy()
    stacks.loc[0, "height"] += 1
    stacks.loc[1, "touched"] -= 1
    assert layers.records(stacks)
    assert problem3.made.receptive_agree(stacks) == len(stacks) - 2


def test_inception_s_numbers(data):
    assert cells(data, "inception-naive")[-1][3:5] == ["1,115,684,864", "2,231,369,728"]
    assert cells(data, "inception-reduced")[-1][3:5] == ["397,410,304", "794,820,608"]
    text = texts(data)
    assert "128 + 192 + 96 + 256 = 672: output **32×32×672**" in text
    assert "128 + 192 + 96 + 64 = 480: output **32×32×480**" in text
    assert "= 718,274,560 MACs (1,436,549,120 operations), 64.4 %" in text
    assert "a factor of 2.81" in text


def test_the_stages_count_boxes(data):
    boxes = data.tables["boxes"]
    rows = cells(data, "proposal-stages")
    counts = [int(row[1].replace(",", "")) for row in rows]
    assert counts[0] == (boxes["stage"] != "truth").sum() == 12 * 12 * 9
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == (boxes["stage"] == "proposed").sum()


def test_the_steps_of_suppression_keep_what_torchvision_keeps(data):
    import torch

    boxes = data.tables["boxes"].dropna(subset="letter").sort_values("letter")
    corners = torch.tensor(boxes[["left", "top", "right", "bottom"]].to_numpy())
    kept = boxes["letter"].iloc[nms(corners, torch.tensor(boxes["score"].to_numpy()), 0.7).tolist()].tolist()
    assert [row[1] for row in cells(data, "suppression-steps")] == kept
    assert [row[0] for row in cells(data, "suppression-boxes") if row[-1] == "kept"] == kept


def test_figures_have_titles_texts_and_numbers(data):
    figures = problem3.figures(data)
    assert set(figures) == {"inception-operations", "proposals", "proposal-training", "suppression"}
    assert all(f.alt and f.caption and f.data is not None and f.source.rows for f in figures.values())
    assert "1,296 anchors" in figures["proposals"].drawing.axes[1].get_title()


def test_the_scene_is_drawn_from_its_rows(data):
    lines = data.tables["scanlines"]
    assert problem3.scene.pixels(lines.sample(frac=1, random_state=0)).shape == (96, 96, 3)
    (image, *_) = problem3.figures(data)["proposals"].drawing.axes[0].images
    assert (image.get_array() == problem3.scene.pixels(lines)).all()


def test_the_run_ends_with_the_proposals_and_all_networks(data):
    figures, tables = problem3.main(data, Options())
    assert (list(figures), list(tables)) == (["proposals"], ["networks"])
    names = [row[0] for row in tables["networks"].cells]
    assert names == list(data.plan["config_network"][: len(names)])
    found = {row[0]: row for row in tables["networks"].cells}
    assert found["googlenet"][2:5] == ["13,004,888", "12,992,304", "6,379,984"]
    assert found["inception_naive"][-1] == "5"


def test_the_report_is_written(whole):
    paths = report.write_report(whole, "3")
    markdown, html = paths.markdown.read_text(), paths.html.read_text()
    assert "[[" not in markdown
    assert "{{" not in markdown
    assert html.count("<figure") == 4
    assert html.count('class="table"') == 10
    assert "<math" in html


def test_latex_of_every_table_is_plain(data):
    tables = [table for section in sections(data) for table in section.tables.values()]
    lines = [line for table in tables for line in table.latex().splitlines()]
    assert [line for line in lines if not line.isascii()] == []


@pytest.mark.parametrize("network", NEEDED)
def test_a_network_without_rows_is_named_and_the_rest_stands(without, network):
    text = texts(without("network", network))
    assert text.count("**Missing:**") == 1
    assert f"**Missing:** {network.replace('_', chr(92) + '_')}: missing (new)" in text


def test_a_study_without_the_other_tasks_says_so(without):
    partial = without("task", "proposals")
    assert texts(partial).count("proposals: missing (new)") == 2
    assert set(problem3.figures(partial)) == {"inception-operations"}
    assert problem3.main(partial)[0] == {}


def test_a_failed_trial_needs_more_than_another_run(whole, tmp_path):
    study = shutil.copytree(whole, tmp_path / "problem3")
    plan = pd.read_parquet(study / "export/plan.parquet")
    failed = plan["config_network"] == "vgg19"
    plan.assign(state=plan["state"].mask(failed, "failed")).to_parquet(study / "export/plan.parquet")
    assert texts(load(study)).count("`python farm/run.py problem=3 retry=failed` runs") == 1


def test_the_loss_of_a_single_epoch_did_not_fall(whole, tmp_path):
    study = shutil.copytree(whole, tmp_path / "problem3")
    rows = pd.read_parquet(study / "export/epochs.parquet")
    rows[rows["epoch"] == 1].to_parquet(study / "export/epochs.parquet")
    text = texts(load(study))
    assert " in the only epoch. " in text
    assert " fell from " not in text


def test_recall_says_of_how_many_true_boxes_and_where_that_is_not_recorded(whole, data, tmp_path):
    count = int(data.tables["epochs"]["true_boxes"].iloc[-1])
    assert 16 <= count <= 64  # sixteen scenes of up to four figures
    assert f"(n = {count} boxes)" in texts(data)
    assert f"n = {count} boxes)" in problem3.figures(data)["proposal-training"].caption
    study = shutil.copytree(whole, tmp_path / "problem3")
    rows = pd.read_parquet(study / "export/epochs.parquet")
    rows.drop(columns="true_boxes").to_parquet(study / "export/epochs.parquet")
    assert "(how many boxes that is, these rows do not record)" in texts(load(study))


def test_a_study_without_stacks_still_proves(without):
    text = texts(without("task", "receptive_field"))
    assert "**Missing:** receptive\\_field: missing (new)" in text
    assert "R_{N+1}" in text


def test_a_study_without_any_result_gives_a_report(whole, tmp_path):
    study = shutil.copytree(whole, tmp_path / "problem3")
    plan = pd.read_parquet(study / "export/plan.parquet")
    plan.assign(state="new").to_parquet(study / "export/plan.parquet")
    text = report.write_report(study, "3").markdown.read_text()
    assert text.count("**Missing:**") == 9
    assert "Intersection over union is the area" in text


def test_the_analysis_needs_no_torch(whole):
    code = (
        "import sys; from pathlib import Path; from analysis import problem3; from analysis.load import load;"
        f"problem3.sections(load(Path({str(whole)!r}))); sys.exit('torch' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=root).returncode == 0
