import itertools
import re

import pytest

from analysis import problem4, style
from analysis.load import load
from analysis.options import Options
from analysis.report import write_report


@pytest.fixture
def cells(study_dir):
    table = problem4.tables(load(study_dir))["to-target"]
    spaced = [[c.replace("\N{NO-BREAK SPACE}", " ") for c in row] for row in table.cells]
    return {row[0]: dict(zip(table.headings, row, strict=True)) for row in spaced}


def test_every_arm_of_the_plan_is_in_the_table(cells):
    assert list(cells) == ["baseline", *(f"cutout M={m}" for m in (1, 2, 4, 8, 16, 32))]


def test_a_censored_arm_says_so_with_its_accuracy_and_time(cells):
    assert cells["baseline"]["Epochs to 94 %"] == "not reached in 100 epochs (92.75 %)"
    assert cells["baseline"]["Wall-clock to 94 % (s)"] == "not reached in 652 s"


def test_an_arm_of_which_some_seeds_got_there_says_how_many(cells):
    assert cells["cutout M=8"]["Epochs to 94 %"] == "83, 1 of 2 seeds"


def test_seeds_that_all_reach_the_target_at_one_epoch_have_no_interval(empty, tmp_path):
    export = empty()
    for seed in (0, 1, 2):
        export.add("cutout", 4, seed, 0.049)
    text = words(export.write(tmp_path))
    assert "| 82 (all 3) |" in text
    assert "the quickest in wall-clock: 1,150 s (1,146 to 1,154, n = 3), at epoch 82 (all 3)." in text
    assert "(all n): all n have the same value" in text


def test_out_of_memory_is_a_result(cells):
    assert cells["cutout M=32"]["n"] == "0 of 1"
    assert cells["cutout M=32"]["Remarks"] == "out of memory (peak 80.0 GiB)"


def test_a_missing_seed_is_named(cells):
    assert cells["cutout M=16"]["n"] == "1 of 2"
    assert "1 of 2 seeds missing (new)" in cells["cutout M=16"]["Remarks"]


def test_wall_clock_pieced_together_from_two_devices_is_marked(cells):
    assert cells["cutout M=16"]["Wall-clock to 94 % (s)"].endswith("†")
    assert "†" not in cells["cutout M=4"]["Wall-clock to 94 % (s)"]


def test_a_pieced_together_time_does_not_enter_the_mean_of_whole_ones(empty, tmp_path):
    export = empty()
    export.add("cutout", 2, 0, 0.05)
    export.add("cutout", 2, 1, 0.05, devices="NVIDIA H200, NVIDIA L40S")
    record = problem4.tables(load(export.write(tmp_path)))["to-target"].frame.iloc[0]
    assert (record["n"], record["total_seconds_n"], record["total_seconds"]) == (2, 1, 900.0)


def test_what_it_takes_to_start_stands_beside_the_wall_clock_that_leaves_it_out(study_dir, cells):
    assert cells["cutout M=4"]["Start-up (s)"] == "2.1 (1.9 to 2.3)"
    assert cells["cutout M=32"]["Start-up (s)"] == "–"
    notes = " ".join(problem4.tables(load(study_dir))["to-target"].notes)
    assert "Not in it: building the steps (start-up), what else" in notes


def test_an_export_that_does_not_know_the_start_up_has_no_column_of_it(made_up, tmp_path):
    for row in made_up.tables["trials"]:
        del row["startup_seconds"]
    table = problem4.tables(load(made_up.write(tmp_path)))["to-target"]
    assert "Start-up (s)" not in table.headings
    assert "Not in it: building the steps, what else" in " ".join(table.notes)


def test_every_fate_has_its_words(empty, tmp_path):
    export = empty()
    export.add("cutout", 1, 0, 0.05, status="diverged")
    export.add("cutout", 2, 0, 0.05, state="failed", reason="ValueError: no")
    export.add("cutout", 4, 0, 0.05, state="failed")
    export.add("cutout", 8, 0, 0.05, state="partial")
    export.add("cutout", 16, 0, 0.05, state="unschedulable", reason="needs 8 GPUs")
    remarks = problem4.tables(load(export.write(tmp_path)))["to-target"].frame["remark"].tolist()
    assert remarks == [
        "diverged at epoch 3",
        "failed: ValueError: no",
        "failed: RuntimeError",
        "missing (stopped at epoch 37)",
        "unschedulable: needs 8 GPUs",
    ]


def test_gpu_models_never_share_a_table(empty, tmp_path):
    export = empty()
    export.add("cutout", 1, 0, 0.05)
    export.add("cutout", 1, 0, 0.05, device="NVIDIA L40S")
    tables = problem4.tables(load(export.write(tmp_path)))
    assert list(tables) == ["to-target-nvidia-h200", "to-target-nvidia-l40s"]
    assert [set(t.frame["device"]) for t in tables.values()] == [{"NVIDIA H200"}, {"NVIDIA L40S"}]
    assert "do not compare" in tables["to-target-nvidia-h200"].notes[-1]


def test_the_target_can_be_moved(study_dir):
    table = problem4.tables(load(study_dir), Options(target_accuracy=0.925))["to-target"]
    assert table.frame.set_index("arm").loc["baseline", "reached"] == 3
    assert "Epochs to 92.5 %" in table.headings


def test_figures_name_arms_and_ends_in_words(study_dir):
    figures = problem4.figures(load(study_dir))
    assert set(figures) == {"cutout", "baseline", "validation-error"}
    assert "cutout M=4: 59.2 % at epoch 1, 5.3 % at epoch 100." in figures["validation-error"].alt
    assert "no completed trial: cutout M=32" in figures["validation-error"].caption


def test_schedules_are_compared_where_there_are_two(made_up, tmp_path):
    made_up.add("cutout", 1, 0, 0.05, schedule="budget")
    figures = problem4.figures(load(made_up.write(tmp_path)))
    assert set(figures["variations"].data["variation"]) == {"schedule=hoffer", "schedule=budget"}
    assert set(figures["validation-error"].data["arm"]) == set(figures["variations"].data["arm"])


def test_an_arm_has_one_colour_in_every_figure(made_up, tmp_path):
    made_up.add("cutout", 4, 0, 0.05, schedule="budget")
    figures = problem4.figures(load(made_up.write(tmp_path)))
    colours = {
        text.get_color()
        for name in ("validation-error", "variations")
        for axes in figures[name].drawing.axes
        for text in axes.texts
        if text.get_text() == "cutout M=4"
    }
    assert colours == {style.ARM_COLOURS["cutout M=4"]}


def test_a_plan_without_any_result_gives_a_table_and_no_curves(empty, tmp_path):
    export = empty()
    export.add("standard", 1, 0, 0.05)
    export.tables["plan"][0]["state"] = "new"
    data = load(export.write(tmp_path))
    assert set(problem4.figures(data)) == {"cutout"}
    assert problem4.tables(data)["to-target"].frame["remark"].tolist() == ["missing (new)"]


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_bands_are_drawn_from_three_seeds_on(empty, tmp_path, seeds):
    export = empty()
    for seed in range(seeds):
        export.add("cutout", 1, seed, 0.05 + 0.001 * seed)
    (axes,) = problem4.figures(load(export.write(tmp_path)))["validation-error"].drawing.axes
    assert len(axes.collections) == (1 if seeds == 3 else 0)


@pytest.mark.parametrize(("apart", "cut"), [(0.001, ""), (0.04, ", cut at zero")])
def test_a_caption_says_where_bands_are_cut(empty, tmp_path, apart, cut):
    export = empty()
    for seed in range(3):
        export.add("cutout", 1, seed, 0.05 + apart * seed)
    figure = problem4.figures(load(export.write(tmp_path)))["validation-error"]
    assert f"Band: 95 % t interval at each epoch{cut}." in figure.caption


def words(study_dir):
    """The report's text on one line."""
    return " ".join(write_report(study_dir, "4").markdown.read_text().replace("\N{NO-BREAK SPACE}", " ").split())


def test_the_growth_of_the_wall_clock_is_a_ratio_that_has_evaluation_in_it(study_dir):
    text = words(study_dir)
    assert "the time of all epochs grew to 1.38 (" in text
    assert "Evaluation is part of it and does not grow with M. Training alone grew to 2.00 (" in text


def test_the_growth_of_training_is_left_out_where_a_row_does_not_tell(made_up, tmp_path):
    row = next(r for r in made_up.tables["epochs"] if r["config_M"] == 4)
    row["train_seconds"] = None
    text = words(made_up.write(tmp_path))
    assert "the time of all epochs grew to 1.38 (" in text
    assert "Training alone grew" not in text


@pytest.mark.parametrize(("error", "expected"), [(0.0705, True), (0.05, False)])
def test_94_percent_is_called_not_to_be_expected_only_where_it_was_not_reached(empty, tmp_path, error, expected):
    export = empty()
    export.add("standard", 1, 0, error)
    text = words(export.write(tmp_path))
    assert "He et al. report 7.17 %" in text
    assert ("94 % is not to be expected" in text) == expected


def test_the_protocol_states_the_configured_schedule_and_learning_rate(empty, tmp_path):
    export = empty()
    export.add("cutout", 1, 0, 0.05, schedule="budget")
    export.tables["plan"][0]["config_learning_rate"] = 0.2
    text = words(export.write(tmp_path))
    assert "The schedule `budget` has the same drops" in text
    assert "The learning rate (0.2) is **not** scaled" in text
    assert ("81, 122 and 164" in text, "0.1" in text.split("How it was measured")[1].split("## ")[0]) == (False, False)


def test_the_protocol_says_what_was_chosen_by_the_test_set_and_what_may_have_been(study_dir):
    text = words(study_dir)
    assert "The farm chooses nothing by them" in text
    assert "added after results have been seen are a choice by the test set" in text
    assert "stood beforehand" not in text


def test_the_protocol_counts_the_drops_that_the_epochs_hold(study_dir):
    assert "81, 122 and 164 counted from 0, of which 1 falls into 100 epochs." in words(study_dir)


@pytest.mark.parametrize(("error", "near"), [(0.05, True), (0.6, False)])
def test_captions_speak_of_the_target_only_where_it_is_drawn(empty, tmp_path, error, near):
    export = empty()
    export.add("standard", 1, 0, error, epochs=100 if near else 3)
    made = problem4.figures(load(export.write(tmp_path)))
    for name in ("baseline", problem4.MAIN_FIGURE):
        drawn = any("94 % accuracy" in t.get_text() for axes in made[name].drawing.axes for t in axes.texts)
        assert drawn == ("94 % accuracy" in made[name].caption) == near


def test_copies_are_compared_with_an_interval_where_only_smaller_m_has_the_seeds(empty, tmp_path):
    export = empty()
    for seed in (0, 1, 2):
        export.add("cutout", 1, seed, 0.062 + 0.001 * seed)
        export.add("cutout", 4, seed, 0.051 + 0.001 * seed)
    export.add("cutout", 8, 0, 0.0485)
    text = words(export.write(tmp_path))
    assert "From M=1 to M=4, the largest with several seeds, it goes from" in text
    assert "**More copies.** From M=1 to M=8, the largest with results, it goes from" in text


def test_copies_are_compared_once_where_the_largest_m_has_the_seeds(empty, tmp_path):
    export = empty()
    for seed in (0, 1):
        for m in (1, 4, 8):
            export.add("cutout", m, seed, 0.06 - 0.001 * m + 0.001 * seed)
    text = words(export.write(tmp_path))
    assert "From M=1 to M=8, the largest with results, it goes from" in text
    assert "**More copies.**" not in text


def test_an_arm_with_seeds_missing_is_not_called_the_quickest(empty, tmp_path):
    export = empty()
    for seed in (0, 1, 2):
        export.add("cutout", 2, seed, 0.055, state="done" if seed == 0 else "new")
        export.add("cutout", 4, seed, 0.05)
    text = words(export.write(tmp_path))
    assert "cutout M=4 was the quickest in wall-clock" in text
    assert "cutout M=2 took 765 s (n = 1), with 2 of 3 seeds missing (new)." in text


def test_no_arm_is_the_quickest_where_none_has_all_its_seeds(empty, tmp_path):
    export = empty()
    export.add("cutout", 2, 0, 0.055)
    export.add("cutout", 2, 1, 0.0, state="new")
    text = words(export.write(tmp_path))
    assert "No arm has all its seeds there. cutout M=2 took 765 s (n = 1), with 1 of 2 seeds missing (new)." in text


def test_what_is_said_of_one_schedule_names_it(empty, tmp_path):
    export = empty()
    for schedule, final in (("hoffer", 0.066), ("budget", 0.052)):
        for seed in (0, 1):
            export.add("standard", 1, seed, final + 0.002, schedule=schedule)
            export.add("cutout", 1, seed, final, schedule=schedule)
    text = words(export.write(tmp_path))
    assert "**To 94 %.** No trial of schedule=hoffer reached it." in text
    assert "No trial reached" not in text
    assert "94 % is not to be expected" not in text


def test_the_reference_is_the_schedule_that_has_run(empty, tmp_path):
    export = empty()
    for schedule in ("hoffer", "budget"):
        export.add("standard", 1, 0, 0.07, schedule=schedule, state="done" if schedule == "hoffer" else "new")
        for m in (1, 4):
            export.add("cutout", m, 0, 0.05, schedule=schedule, state="done" if schedule == "budget" else "new")
    text = words(export.write(tmp_path))
    assert "All of this is of schedule=budget. **At least one arm has a single seed.**" in text
    assert "Trials of several schedules have completed (hoffer and budget), but no arm under two of them" in text


def test_times_of_untimed_trials_are_no_results(empty, tmp_path):
    export = empty()
    for seed in (0, 1):
        for augmentation, m in (("standard", 1), ("cutout", 1), ("cutout", 2)):
            export.add(augmentation, m, seed, 0.05)
    for row in itertools.chain(*export.tables.values()):
        row |= {"config_timed": False, "config_hardware": None}
    directory = export.write(tmp_path)
    table = problem4.tables(load(directory))["to-target"]
    assert [{row[i] for row in table.cells} for i in (3, 5, 6)] == [{"untimed"}] * 3
    text = words(directory)
    assert "the quickest" not in text
    assert "after 5" not in text
    assert "No two arms have times that compare (timed," in text


def test_the_wall_clock_says_what_is_missing(empty, tmp_path):
    export = empty()
    export.add("cutout", 4, 0, 0.05)
    assert "Cutout with M=1 has no completed trial to set the others beside." in words(export.write(tmp_path / "a"))
    export = empty()
    export.add("cutout", 1, 0, 0.05)
    assert "No arm with more than one copy has a completed trial." in words(export.write(tmp_path / "b"))


def test_a_diverged_seed_of_a_compared_arm_is_told(empty, tmp_path):
    export = empty()
    for seed in (0, 1, 2):
        export.add("cutout", 1, seed, 0.058 + 0.001 * seed)
        export.add("cutout", 4, seed, 0.05 + 0.001 * seed, status="diverged" if seed == 2 else "completed")
    assert "percentage points less. Of cutout M=4, 1 of 3 seeds diverged at epoch 3." in words(export.write(tmp_path))


def test_a_one_cycle_of_few_epochs_has_no_drops(empty, tmp_path):
    export = empty()
    export.add("standard", 1, 0, 0.05, schedule="onecycle", epochs=4)
    for row in export.tables["epochs"]:
        row["learning_rate"] = 0.1 / row["epoch"]
    text = words(export.write(tmp_path))
    assert "the learning rate drops" not in text.split("What the schedule changes")[0]
    assert "No such drop lies in the epochs shown above." in text


def test_the_baseline_is_shown_where_another_schedule_is_the_reference(empty, tmp_path):
    export = empty()
    export.add("standard", 1, 0, 0.07)
    for m in (1, 4):
        export.add("cutout", m, 0, 0.05, schedule="budget")
    text = words(export.write(tmp_path))
    assert "Crop and flip, M=1, schedule=hoffer." in text
    assert "Of schedule=hoffer: after 100 epochs the validation error is" in text
    assert "nothing to plot" not in text


def test_a_run_of_one_epoch_is_counted_in_the_singular(empty, tmp_path):
    export = empty()
    export.add("standard", 1, 0, 0.05, epochs=1)
    export.add("cutout", 1, 0, 0.05, epochs=1)
    text = words(export.write(tmp_path))
    assert "not reached in 1 epoch (" in text
    assert "After 1 epoch the validation error is" in text
    assert not re.search(r"(?<![\d,.])1 (epochs|seeds|trials|steps|images|arms|GPUs)\b", text)
