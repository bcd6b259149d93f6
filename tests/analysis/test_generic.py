import math

import pandas as pd
import pytest
from matplotlib.text import Text

from analysis import generic, report, style
from analysis.load import load
from trials.spec import Column


@pytest.fixture
def made(empty, tmp_path):
    """The analysis of a made-up study: rows of (augmentation, copies), and what is done to its row table."""

    def make(arms, change=None):
        export = empty()
        for i, (augmentation, copies) in enumerate(arms):
            export.add(augmentation, copies, 0, 0.02 + 0.01 * (i % 7), epochs=4)
        directory = export.write(tmp_path, "own")
        if change is not None:
            path = directory / "export/epochs.parquet"
            frame = pd.read_parquet(path)
            change(frame)
            frame.to_parquet(path)
        return load(directory)

    return make


def outside(drawing):
    """Texts that are not wholly in the picture."""
    drawing.draw_without_rendering()
    canvas, renderer = drawing.bbox, drawing.canvas.get_renderer()
    texts = [t for t in drawing.findobj(Text) if t.get_visible() and t.get_text()]
    boxes = {t.get_text(): t.get_window_extent(renderer) for t in texts}
    return [s for s, b in boxes.items() if b.x0 < 0 or b.y0 < 0 or b.x1 > canvas.x1 or b.y1 > canvas.y1]


def table(data):
    return generic.main(data)[1]["arms"].frame.set_index("arm")


def blank(augmentation, epochs=(1, 2, 3, 4)):
    def change(frame):
        chosen = (frame["config_augmentation"] == augmentation) & frame["epoch"].isin(epochs)
        frame.loc[chosen, "validation_error"] = math.nan

    return change


@pytest.mark.parametrize(
    "arms",
    [
        [(a, m) for a in ("standard", "cutout") for m in (1, 2)],
        [("cutout", m) for m in range(1, 25)],
        [("a text that has no room beside the axes of this figure", 1), ("W" * 200, 1), ("cutout", 1)],
    ],
    ids=["few", "many", "long"],
)
def test_every_label_is_in_the_picture(made, arms):
    (figure,) = generic.main(made(arms))[0].values()
    assert outside(figure.drawing) == []
    shown = ["".join(t.get_text().split()) for t in figure.drawing.findobj(Text)]  # a long one stands on several lines
    assert all("".join(arm.split()) in shown for arm in figure.data["arm"])


def test_lines_of_one_colour_differ_in_their_dashes():
    palette = style.colours(f"factor={i}" for i in range(24))
    dashes = style.dashes(palette)
    assert len({(palette[name], dashes[name]) for name in palette}) == 24


def test_an_arm_without_a_finite_value_has_no_line_and_a_remark(made):
    data = made([("standard", 1), ("cutout", 1)], blank("cutout"))
    (figure,) = generic.main(data)[0].values()
    assert list(figure.data["arm"].unique()) == ["standard"]
    assert figure.caption.endswith("Not drawn, no completed trial with a finite value: cutout.")
    assert table(data).loc["cutout", ["n", "remark"]].tolist() == ["0\xa0of\xa01", "last value not finite"]


def test_nothing_finite_makes_a_table_alone(made):
    def change(frame):
        frame["validation_error"] = math.inf

    figures, tables = generic.main(made([("standard", 1), ("cutout", 1)], change))
    assert (figures, list(tables)) == ({}, ["arms"])


def test_a_last_value_that_is_not_finite_is_said(made):
    data = made([("standard", 1), ("cutout", 1)], blank("cutout", (3, 4)))
    (figure,) = generic.main(data)[0].values()
    assert "at epoch 2, not finite after it." in figure.alt
    assert figure.alt.count("not finite") == 1
    assert table(data).loc["cutout", "remark"] == "last value not finite"
    ends = generic.sections(data)[1].tables["trials"].frame["end"]
    assert sorted(ends) == ["completed", "completed, last validation_error not finite"]


def test_without_a_measure_the_trials_are_reported(made):
    def change(frame):
        frame[[c for c in frame if "error" in c or "loss" in c or "seconds" in c]] = math.nan

    data = made([("standard", 1), ("cutout", 1)], change)
    assert list(generic.main(data)[1]) == ["trials"]
    text = report.write_report(data.directory, "").markdown.read_text()
    assert "No column with numbers says which direction is better" in text
    assert text.count("What became of every trial") == 1


def test_a_label_is_no_formula(made):
    data = made([(r"$\frac$", 1), ("cutout", 1)])
    assert report.write_main_results(data.directory, "")
    assert r"$\frac$" in report.write_report(data.directory, "").html.read_text()
    many = made([(r"$\frac$", 1), *[("cutout", m) for m in range(1, 25)]])
    assert report.write_main_results(many.directory, "")


@pytest.mark.parametrize("problem", ["1", "1_tables", "4/..", ""])
def test_results_of_another_module_than_the_problems_get_the_general_analysis(made, problem):
    data = made([("standard", 1), ("cutout", 1)])
    assert report.problem_module(problem, data) is generic


def test_a_report_has_the_studys_title_else_its_name(made):
    data = made([("standard", 1), ("cutout", 1)])
    assert report.write_report(data.directory, "").markdown.read_text().startswith("# own\n")
    (data.directory / "study.yaml").write_text('# farm run study=own.yaml\ntitle: "Mine & *yours*"\n')
    paths = report.write_report(data.directory, "")
    assert paths.markdown.read_text().startswith("# Mine & \\*yours\\*\n")
    assert "<title>Mine &amp; *yours*</title>" in paths.html.read_text()
    assert r"[Mine & \*yours\*](own/report/report.md)" in report.write_index(data.directory.parent).markdown.read_text()


@pytest.mark.parametrize(("module", "asked"), [("trials.problem4", True), ("own", False)])
def test_only_the_sheets_studies_speak_of_the_sheet(empty, tmp_path, module, asked):
    export = empty()
    export.add("standard", 1, 0, 0.05, epochs=2)
    for name in ("plan", "trials"):
        export.tables[name][0] |= {"config_dataset": "synthetic", "config_module": module}
    text = report.write_report(export.write(tmp_path), "").markdown.read_text()
    assert "not from CIFAR-10" in text
    assert ("the sheet" in text) == asked


def only(*columns):
    """A row table without errors and losses, with these columns beside the clocks."""

    def change(frame):
        frame[[c for c in frame if "error" in c or "loss" in c]] = math.nan
        frame[list(columns)] = 1.0

    return change


@pytest.fixture
def own_column(monkeypatch):
    """Gives the study's module a column of its own."""

    def make(**words):
        column = Column("psnr", "float", "dB", **words)
        monkeypatch.setattr(generic, "_columns", lambda module: (*generic.schema.ROWS, column))

    return make


def test_a_clock_of_the_farm_is_no_measure(made, own_column):
    own_column()
    data = made([("standard", 1), ("cutout", 1)], only("psnr"))
    assert data.rows["train_seconds"].notna().all()
    assert generic.measure(data) is None
    assert 'a `better="lower"`' in report.write_report(data.directory, "").markdown.read_text()


def test_a_clock_that_the_module_itself_declares_is_one(made, own_column):
    own_column(better="higher", measured=True)
    assert generic.measure(made([("standard", 1)], only("psnr"))).name == "psnr"


def test_a_column_of_the_modules_own_comes_before_the_standard_ones(made, own_column):
    def change(frame):
        frame["psnr"] = 1.0

    own_column(better="higher")
    data = made([("standard", 1)], change)
    assert generic.measure(data).name == "psnr"
    own_column(better="higher", measured=True)
    assert generic.measure(data).name == "validation_error"


def test_the_modules_order_decides_between_its_own(made, monkeypatch):
    columns = Column("ssim", "float", better="higher"), Column("psnr", "float", "dB", better="higher")
    monkeypatch.setattr(generic, "_columns", lambda module: (*generic.schema.ROWS, *columns))
    assert generic.measure(made([("standard", 1)], only("psnr", "ssim"))).name == "ssim"


@pytest.mark.parametrize(
    ("words", "caption"), [("PSNR of the SIREN on CIFAR-10", "PSNR of the SIREN on CIFAR-10. One"), ("", "One")]
)
def test_a_columns_help_stands_in_the_caption_as_it_is_written(made, own_column, words, caption):
    own_column(better="higher", help=words)
    (figure,) = generic.main(made([("standard", 1)], only("psnr")))[0].values()
    assert figure.caption.startswith(f"{caption} seed an arm")


def test_a_study_of_ones_own_is_named_as_the_farm_takes_it(empty, tmp_path):
    export = empty()
    for seed in (0, 1):
        export.add("standard", 1, seed, 0.05, epochs=2)
    del export.tables["plan"][0]
    directory = export.write(tmp_path, "own")
    (directory / "study.yaml").write_text("# farm run study=/home/me/own.yaml\n")
    assert "`farm report study=/home/me/own.yaml` without" in report.write_report(directory, "").markdown.read_text()
