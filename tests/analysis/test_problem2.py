"""Problem 2's tables and answers, from a made-up export whose numbers are known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from data_parallel import COMPUTE, COPY, CPU, H200, TALK, WAIT, Made, S

from analysis import problem2
from analysis.load import Data, load
from analysis.options import Options
from analysis.problem2_answers import answers
from analysis.problem2_groups import groups
from analysis.problem2_numbers import bandwidth, ring_bytes, root_bytes, split
from analysis.problem2_setups import Cell, Group
from analysis.report import write_report


@pytest.fixture
def made() -> Made:
    """One and two GPUs, weak and strong; four are not run; 2048 does not fit, 8192 is skipped."""
    study = Made()
    one, two = study.trial(1), study.trial(2)
    for batch in (32, 128, 512):
        study.epochs(one, batch)
        study.epochs(two, batch)
    for known in (one, two):
        study.other(known, 2048, "oom", "CUDA out of memory.", 100 * 2.0**30)
        study.other(known, 8192, "skipped", "a batch of 2048 was out of memory")
    strong = study.trial(2, scaling="strong")
    study.epochs(strong, 128)
    study.link(two, "all_reduce", S, 248e9)
    study.link(two, "all_reduce", 4096, 1e9)
    study.link(two, "copy", 2**28, 200e9)
    study.trial(4, state="unschedulable", reason="needs 4 GPUs")
    return study


@pytest.fixture
def data(made: Made, tmp_path: Path) -> Data:
    return load(made.write(tmp_path))


def cells(data: Data, name: str) -> dict[str, dict[str, str]]:
    table = problem2.tables(data)[name]
    spaced = [[c.replace("\N{NO-BREAK SPACE}", " ") for c in row] for row in table.cells]
    return {row[0]: dict(zip(table.headings, row, strict=True)) for row in spaced}


def only(data: Data) -> Group:
    (group,) = groups(data)
    return group


def test_table_1_has_the_sheets_rows_and_columns(data: Data) -> None:
    table = cells(data, "table-1")
    assert list(table) == ["1-GPU", "2-GPU", "4-GPU"]
    assert list(table["1-GPU"])[1:5] == [
        "Batch 32 per GPU: Time (s)", "Batch 32 per GPU: Speedup",
        "Batch 128 per GPU: Time (s)", "Batch 128 per GPU: Speedup",
    ]  # fmt: skip


def test_speedup_is_the_ratio_of_whole_epochs(data: Data) -> None:
    frame = problem2.tables(data)["table-1"].frame.set_index("gpus")
    one = WAIT + COPY + COMPUTE
    two = (WAIT + COPY + COMPUTE) * 782 / 1563 + TALK[2]
    assert frame.loc[1, "seconds_32"] == pytest.approx(one)
    assert frame.loc[2, "seconds_32"] == pytest.approx(two)
    assert frame.loc[2, "speedup_32"] == pytest.approx(one / two, rel=1e-4)
    assert frame.loc[1, "speedup_32"] == 1


def test_what_was_not_run_and_what_did_not_fit_say_so(data: Data) -> None:
    table = cells(data, "table-1")
    assert table["4-GPU"]["Batch 32 per GPU: Time (s)"] == "not run"
    assert table["2-GPU"]["Batch 2,048 per GPU: Time (s)"] == "OOM (peak 100.0 GiB)"
    assert "Batch 8,192 per GPU: Time (s)" not in table["1-GPU"]
    ladder = cells(data, "one-gpu")
    assert ladder["8,192"]["Epoch without data I/O (s)"] == "skipped: a batch of 2048 was out of memory"


def test_a_reason_is_said_once_in_a_row(data: Data, tmp_path: Path) -> None:
    table = cells(data, "table-1")
    assert table["4-GPU"]["Batch 32 per GPU: Speedup"] == table["2-GPU"]["Batch 2,048 per GPU: Speedup"] == "–"
    tables = problem2.tables(data)
    rows = {tuple(row[:2]): row[2:] for row in tables["communication"].cells}
    assert rows["4-GPU", "32"] == ["not run", *["–"] * 7]
    assert tables["table-1"].frame["speedup_32_mark"].tolist()[2] == "not run"
    study = Made()
    study.epochs(study.trial(2, scaling="strong"), 32)
    alone = cells(load(study.write(tmp_path / "alone")), "strong")["2-GPU"]
    assert list(alone.values())[2:] == ["1-GPU: not run", "–"]


def test_each_table_says_which_intervals_are_cut_at_zero(data: Data) -> None:
    told = {name: " ".join(table.notes) for name, table in problem2.tables(data).items()}
    assert {name for name, notes in told.items() if "of a time is cut at zero" in notes} == {
        "table-1", "table-1-without-data", "strong", "one-gpu",
    }  # fmt: skip
    assert "Compute is T1/k, its interval cut at zero; communication T_k − T1/k" in told["table-2"]
    assert "By subtraction the interval is Welch's, of a difference, and is not cut at zero" in told["communication"]


def test_compute_is_a_kth_of_one_gpus_epoch_and_communication_the_rest(data: Data) -> None:
    parts = split(only(data), "dataparallel", 2, 32, 0.95)
    alone = COPY + COMPUTE
    assert parts.compute.value == pytest.approx(alone / 2)
    assert parts.communication.value == pytest.approx(alone * 782 / 1563 + TALK[2] - alone / 2)
    assert parts.profiled.value == 0.5
    assert list(cells(data, "table-2")) == ["2-GPU", "4-GPU"]


def test_the_profilers_kinds_stand_beside_the_subtraction(data: Data) -> None:
    table = problem2.tables(data)["communication"]
    row = table.frame[(table.frame["gpus"] == 2) & (table.frame["batch"] == 32)].iloc[0]
    seen = ("profiled_communication", "profiled_broadcast", "profiled_exposed")
    assert [row[name] for name in seen] == [0.5, 0.375, 0.25]
    assert row["communication"] == pytest.approx(split(only(data), "dataparallel", 2, 32, 0.95).communication.value)
    assert math.isnan(row["profiled_all_reduce"])


def test_a_profiler_on_another_machine_makes_no_set_up_of_its_own(tmp_path: Path) -> None:
    study = Made()
    study.epochs(study.trial(1), 32)
    two = study.trial(2)
    study.epochs(two, 32)
    study.profiled(two | {"driver": "570.1"}, 32, profiled_communication_seconds=0.125)
    (group,) = groups(load(study.write(tmp_path)))
    assert split(group, "dataparallel", 2, 32, 0.95).profiled.value == 0.125


def test_rows_of_the_profiler_alone_are_no_repetitions(tmp_path: Path) -> None:
    study = Made()
    one, two = study.trial(1), study.trial(2, revision=2)
    study.epochs(one, 32)
    study.epochs(two, 32, profiled_communication_seconds=None, profiled_broadcast_seconds=None)
    study.profiled(two, 32, profiled_communication_seconds=0.5, profiled_broadcast_seconds=0.125)
    data = load(study.write(tmp_path))
    cell = only(data).cell("dataparallel", "weak", 2, 32)
    assert (len(cell.rows), len(cell.profiled), cell.iterations) == (3, 3, 782)
    assert split(only(data), "dataparallel", 2, 32, 0.95).profiled.value == 0.5
    row = problem2.tables(data)["communication"].frame.iloc[0]
    assert (row["profiled_communication"], row["profiled_broadcast"]) == (0.5, 0.125)


def test_the_profilers_kinds_and_the_report_need_no_one_gpu_run(tmp_path: Path) -> None:
    study = Made()
    study.epochs(study.trial(2), 32)
    data = load(study.write(tmp_path))
    row = problem2.tables(data)["communication"].frame.iloc[0]
    assert (row["communication_mark"], row["profiled_broadcast"]) == ("1-GPU: not run", 0.375)
    text = write_report(data.directory, "2").markdown.read_text(encoding="utf-8")
    assert "One GPU has no results yet." in text
    assert "No set-up of weak scaling with several GPUs can be set beside one GPU yet" in text


def test_bandwidth_is_the_rings_bytes_over_the_communication(data: Data) -> None:
    group = only(data)
    found, parts = (f(group, "dataparallel", 2, 32, 0.95) for f in (bandwidth, split))
    assert found.ring.value == pytest.approx(782 * S / parts.communication.value)
    assert found.root.value == pytest.approx(2 * found.ring.value)
    assert found.share("ring") == pytest.approx(found.ring.value / 248e9)
    assert found.share("root") == pytest.approx(found.root.value / 2 / 200e9)
    assert found.ring.low < found.ring.value < found.ring.high


def test_ring_and_root_traffic_of_the_sheets_network() -> None:
    assert [round(ring_bytes(n, S) / 1e6, 2) for n in (1, 2, 4)] == [0, 44.70, 67.04]
    assert [root_bytes(n, 1) for n in (1, 2, 4)] == [0, 2, 6]


@pytest.mark.parametrize(("more", "mark"), [(-0.3, "negative communication"), (0.001, "communication within noise")])
def test_communication_within_noise_is_marked_and_gives_no_bandwidth(tmp_path: Path, more: float, mark: str) -> None:
    study = Made()
    study.epochs(study.trial(1), 32)
    study.epochs(study.trial(2), 32, step_seconds=COMPUTE / 2 + more, device_seconds=1.0)
    data = load(study.write(tmp_path))
    assert cells(data, "table-2")["2-GPU"]["Batch 32 per GPU: Comm (s)"].endswith("‡")
    assert cells(data, "table-3")["2-GPU"]["Batch 32 per GPU: Bandwidth utilization (GB/s)"] == mark


def test_fewer_than_ten_iterations_are_no_measurement(tmp_path: Path) -> None:
    study = Made()
    study.epochs(study.trial(1), 8192, passes=1)
    study.epochs(study.trial(2), 8192)
    table = cells(load(study.write(tmp_path)), "table-1")
    assert table["1-GPU"]["Batch 8,192 per GPU: Time (s)"].endswith("§")
    assert table["2-GPU"]["Batch 8,192 per GPU: Speedup"] == "under 10 iterations"


def test_a_total_batch_sold_as_each_gpus_is_refused(tmp_path: Path) -> None:
    study = Made()
    study.epochs(study.trial(1), 32)
    study.epochs(study.trial(2), 32, iterations=1563)
    data = load(study.write(tmp_path))
    assert "refused: 1,563 iterations where 782 are expected" in cells(data, "table-1")["2-GPU"].values()
    assert len(answers(data, only(data), Options()).refused) == 1


def test_a_row_timed_without_waiting_is_refused(tmp_path: Path) -> None:
    study = Made()
    study.epochs(study.trial(1), 32, step_seconds=1.16, device_seconds=10.0)
    time = cells(load(study.write(tmp_path)), "table-1")["1-GPU"]["Batch 32 per GPU: Time (s)"]
    assert time == "refused: the clock was read before the GPU had finished"


@pytest.mark.parametrize("change", [{"device": "NVIDIA L40S"}, {"driver": "570.1"}, {"topology": "2 GPUs, SYS"}])
def test_machines_that_differ_share_no_table(tmp_path: Path, change: dict[str, str]) -> None:
    study = Made()
    study.epochs(study.trial(1), 32)
    study.epochs(study.trial(2, machine=H200 | change), 32)
    data = load(study.write(tmp_path))
    assert cells(data, "table-1")["2-GPU"]["Batch 32 per GPU: Time (s)"] == "on another machine"
    assert cells(data, "table-1")["4-GPU"]["Batch 32 per GPU: Time (s)"] == "not run"
    assert cells(data, "table-1-2")["2-GPU"]["Batch 32 per GPU: Speedup"] == "1-GPU: on another machine"
    assert all("not compare" in problem2.tables(data)[n].notes[-1] for n in ("table-1", "table-1-2"))


def test_a_ladder_that_was_resumed_elsewhere_is_taken_apart(tmp_path: Path) -> None:
    study = Made()
    one = study.trial(1)
    study.epochs(one, 32)
    study.epochs(one | {"driver": "570.1"}, 128)
    found = groups(load(study.write(tmp_path)))
    assert [[k.batch for k in g.cells] for g in found] == [[32], [128]]


def test_rows_of_several_machines_of_one_kind_say_so(tmp_path: Path) -> None:
    study = Made()
    two = study.trial(2)
    study.epochs(two, 32, attempt=1)
    study.epochs(two, 128, attempt=2)
    study.attempts = [{"trial_id": two["trial_id"], "attempt": n, "host": "vm", "boot_id": f"b{n}"} for n in (1, 2, 3)]
    table = problem2.tables(load(study.write(tmp_path)))["table-1"]
    assert any(
        "on 2 machines of this kind, or after as many starts of one. The repetitions of a set-up are of one of them;"
        in n
        for n in table.notes
    )


def test_the_ceiling_is_that_of_the_trials_own_gpus(tmp_path: Path) -> None:
    """Links that another trial measured, or the same one on a machine that it left, are not those of its rows."""
    study = Made()
    study.epochs(study.trial(1), 32, attempt=1)
    weak, strong = study.trial(2), study.trial(2, scaling="strong")
    for batch, attempt in ((32, 1), (128, 2), (512, 3)):
        study.epochs(weak, batch, attempt=attempt)
    study.epochs(strong, 32, attempt=1)
    for known, attempt, ceiling in ((weak, 1, 200e9), (weak, 2, 220e9), (strong, 1, 400e9)):
        for link, size in (("all_reduce", S), ("copy", 2**28)):
            study.link(known | {"attempt": attempt}, link, size, ceiling)
    study.attempts = [
        {"trial_id": known["trial_id"], "attempt": n, "host": "vm", "boot_id": f"b{n}"}
        for known in (weak, strong)
        for n in (1, 2, 3)
    ]
    frame = problem2.tables(load(study.write(tmp_path)))["ceiling"].frame
    own = frame[frame["gpus"] == 2].set_index("batch")
    assert own["all_reduce"].tolist()[:2] == [200e9, 220e9]
    assert own["copy"].tolist()[:2] == [200e9, 220e9]
    assert math.isnan(own["all_reduce"][512])


def test_tables_name_the_machines_of_their_own_rows(tmp_path: Path) -> None:
    study = Made()
    two, strong = study.trial(2), study.trial(2, scaling="strong")
    study.epochs(two, 32, attempt=1)
    study.epochs(two, 128, attempt=2)
    study.epochs(strong, 32, attempt=3)
    study.attempts = [
        {"trial_id": known["trial_id"], "attempt": n, "host": "vm", "boot_id": f"b{n}"}
        for known in (two, strong)
        for n in (1, 2, 3)
    ]
    tables = problem2.tables(load(study.write(tmp_path)))
    assert any("Measured on 2 machines" in note for note in tables["table-1"].notes)
    assert not any("machines of this kind" in note for note in tables["strong"].notes)


def test_a_set_up_whose_repetitions_come_from_several_machines_is_named(tmp_path: Path) -> None:
    study = Made()
    two = study.trial(2)
    study.epochs(two, 32)
    for attempt, row in enumerate(study.rows, 1):
        row["attempt"] = attempt
    study.attempts = [{"trial_id": two["trial_id"], "attempt": n, "host": "vm", "boot_id": f"b{n}"} for n in (1, 2, 3)]
    study.epochs(study.trial(2, mode="ddp"), 128)
    tables = problem2.tables(load(study.write(tmp_path)))
    assert not any("but for" in note for note in tables["ddp-table-1"].notes)
    table = tables["table-1"]
    assert any("are of one of them, but for 2-GPU at 32; what" in note for note in table.notes)


def test_precisions_share_no_table(tmp_path: Path) -> None:
    study = Made()
    study.epochs(study.trial(1), 32)
    study.epochs(study.trial(1, precision="fp32"), 32)
    tables = problem2.tables(load(study.write(tmp_path)))
    assert "precision=tf32" in tables["table-1"].title
    assert "precision=fp32" in tables["table-1-2"].title


def test_no_speedup_is_reported_from_a_cpu(tmp_path: Path) -> None:
    study = Made()
    study.epochs(study.trial(1, mode="ddp", machine=CPU), 32)
    two = study.trial(2, mode="ddp", machine=CPU)
    study.epochs(two, 32)
    study.link(two, "all_reduce", S, 1e9)
    data = load(study.write(tmp_path))
    assert cells(data, "ddp-table-1")["2-GPU"]["Batch 32 per GPU: Speedup"] == "not from a CPU"
    assert set(cells(data, "ddp-table-3")["2-GPU"].values()) == {"2-GPU", "not from a CPU"}
    assert problem2.tables(data)["ceiling"].frame["all_reduce"].isna().all()


def test_strong_scaling_compares_with_one_gpu_at_the_total_batch(data: Data) -> None:
    frame = problem2.tables(data)["strong"].frame.set_index("gpus")
    one, two = (only(data).cell("dataparallel", "strong", n, 128) for n in (1, 2))
    assert isinstance(two, Cell)
    assert two.iterations == one.iterations == 391
    assert frame.loc[2, "speedup_128"] == pytest.approx(one.whole.mean() / two.whole.mean(), rel=1e-3)


def test_the_figure_says_where_the_time_goes(data: Data) -> None:
    figure = problem2.main(data)[0]["epoch-time"]
    assert figure.data is not None
    bars = figure.data.set_index(["gpus", "batch"])
    assert len(bars) == 6
    sums = bars[["data", "copy", "compute", "communication"]].sum(axis=1)
    assert sums.tolist() == pytest.approx(bars["epoch"].tolist())
    assert bars.loc[(1, 32), "communication"] == 0
    assert "2 × batch 32: waiting for data 1 s" in figure.alt
    assert figure.caption.endswith("compute is the rest of the step.")


def test_the_report_answers_with_the_measured_numbers(data: Data) -> None:
    text = write_report(data.directory, "2").markdown.read_text(encoding="utf-8").replace("\N{NO-BREAK SPACE}", " ")
    assert "**Weak scaling**" in text
    assert "The ladder ended at a batch of 2,048: OOM (peak 100.0 GiB)." in text
    assert "| 32 | 1,563 | 782 |" in text
    assert "- DataParallel, 2 GPUs, 128: weak" in text
    assert "44.70 MB. For 2 GPUs each sends 44.70 MB an iteration. For 4 GPUs each sends 67.04 MB" in text


@pytest.mark.parametrize("mode", ["dataparallel", "ddp"])
def test_the_best_speedup_is_told_without_the_wait_for_data_too(tmp_path: Path, mode: str) -> None:
    study = Made()
    for gpus, seconds in ((1, 12.0), (2, 8.0)):
        study.epochs(study.trial(gpus, mode=mode), 32, epoch_seconds=seconds, copy_seconds=0.0, step_seconds=4.4 / gpus)
    for row in study.rows:
        row["device_seconds"] = 0.0
    text = " ".join(words(study, tmp_path).split())
    assert "The speedup is 1.50 (all 3) times on 2 GPUs at a batch of 32 per GPU." in text
    assert "Without waiting for data the speedup is 2.00 (all 3) times on 2 GPUs at" in text


def test_only_dataparallel_has_a_root(tmp_path: Path) -> None:
    study = Made()
    for mode in ("dataparallel", "ddp"):
        two = study.trial(2, mode=mode)
        study.epochs(study.trial(1, mode=mode), 32)
        study.epochs(two, 32)
        study.link(two, "copy", 2**28, 200e9)
    tables = problem2.tables(load(study.write(tmp_path)))
    frame = tables["ceiling"].frame[tables["ceiling"].frame["gpus"] == 2].set_index("mode")
    assert frame["ring"].notna().all()
    assert frame["root"].notna().to_dict() == {"DataParallel": True, "DistributedDataParallel": False}
    assert frame["root_share"].notna().to_dict() == {"DataParallel": True, "DistributedDataParallel": False}
    overlaps = {name for name, table in tables.items() if any("all-reduce runs while" in note for note in table.notes)}
    assert overlaps == {"ddp-table-3", "ceiling"}


def test_steps_that_wait_for_the_host_are_called_so(tmp_path: Path) -> None:
    study = Made()
    one = study.trial(1)
    for batch, milliseconds in ((32, 9.5), (128, 10.3), (512, 24.0), (2048, 87.8)):
        study.epochs(one, batch, step_p50_seconds=milliseconds / 1e3)
    data = load(study.write(tmp_path))
    assert answers(data, only(data), Options()).modes["dataparallel"].host == pytest.approx((32, 128, 9.5, 10.3))
    text = write_report(data.directory, "2").markdown.read_text(encoding="utf-8")
    assert "A step takes 9.5 ms with 32 images and 10.3 ms with 128" in text
    assert "launch" not in text.casefold(), "rows older than the column"


def test_the_hosts_pace_is_told_where_the_rows_have_it(tmp_path: Path) -> None:
    study = Made()
    one, two = study.trial(1), study.trial(2)
    for batch, microseconds in ((32, 6.6), (128, 7.0)):
        study.epochs(one, batch, step_p50_seconds=0.01, launch_seconds=microseconds / 1e6)
        study.epochs(two, batch, step_p50_seconds=0.01, launch_seconds=9.9e-6)
    data = load(study.write(tmp_path))
    table = problem2.tables(data)["one-gpu"]
    place = table.headings.index("Launch (µs)")
    assert [row[place] for row in table.cells] == ["6.60", "7.00"]
    text = write_report(data.directory, "2").markdown.read_text(encoding="utf-8")
    assert "Handing over one small kernel took a host 6.6 to 9.9 µs" in text


def test_latex_of_every_table_is_plain(data: Data) -> None:
    assert [name for name, table in problem2.tables(data).items() if not table.latex().isascii()] == []


def test_a_study_without_results_has_empty_tables(tmp_path: Path) -> None:
    study = Made()
    for gpus in (1, 2, 4):
        study.trial(gpus, state="unschedulable", reason="needs a GPU")
    data = load(study.write(tmp_path))
    table = cells(data, "table-1")
    assert {v for row in table.values() for k, v in row.items() if "Time" in k} == {"not run"}
    assert len(problem2.sections(data)) == 6


def test_provenance_names_the_trials_that_are_shown(tmp_path: Path) -> None:
    study = Made()
    known = {m: study.trial(2, mode=m) for m in ("dataparallel", "ddp")}
    for mode in known:
        study.epochs(known[mode], 32)
    data = load(study.write(tmp_path))
    own = {mode: (trial["trial_id"],) for mode, trial in known.items()}
    figures, tables = problem2.main(data)[0], problem2.tables(data)
    assert (figures["epoch-time"].source.trials, figures["ddp-epoch-time"].source.trials) == tuple(own.values())
    assert (figures["epoch-time"].source.rows, tables["table-1"].source.rows) == (3, 3)
    assert (tables["one-gpu"].source.trials, tables["ddp-one-gpu"].source.trials) == ((), ())
    assert all(tables[n].source.trials == own["ddp"] for n in ("ddp-table-1", "ddp-table-2", "ddp-communication"))
    assert tables["ceiling"].source.trials == (*own["dataparallel"], *own["ddp"])


def test_what_is_compared_with_one_gpu_names_its_trial_too(data: Data) -> None:
    tables = problem2.tables(data)
    one, two, strong, _ = data.plan["trial_id"]
    assert tables["table-2"].source.trials == (one, two)
    assert tables["strong"].source.trials == (one, strong)
    assert tables["one-gpu"].source.trials == (one,)


def test_a_trial_that_ran_in_part_is_called_not_finished(tmp_path: Path) -> None:
    study = Made()
    study.trial(1, state="partial", epoch=2)
    study.epochs(study.trial(2), 32)
    data = load(study.write(tmp_path))
    table = cells(data, "table-1")
    assert table["1-GPU"]["Batch 32 per GPU: Time (s)"] == "not finished"
    assert table["2-GPU"]["Batch 32 per GPU: Speedup"] == "1-GPU: not finished"


def test_no_interval_of_a_time_goes_below_zero(tmp_path: Path) -> None:
    study = Made()
    study.epochs(study.trial(1), 32)
    study.epochs(study.trial(2), 32)
    for row, seconds in zip(study.rows[3:], (0.01, 0.1, 1.3), strict=True):
        row["profiled_broadcast_seconds"] = seconds
    for row, seconds in zip(study.rows[:3], (0.1, 1.0, 13.0), strict=True):
        row["copy_seconds"] = seconds
    made = problem2.tables(load(study.write(tmp_path)))
    frames = [made["communication"].frame["profiled_broadcast_low"], made["table-2"].frame["compute_32_low"]]
    assert [frame.iloc[0] for frame in frames] == [0, 0]


def test_modes_of_different_revisions_share_a_group(tmp_path: Path) -> None:
    study = Made()
    study.epochs(study.trial(1), 32)
    study.epochs(study.trial(1, mode="ddp", revision=2), 32)
    assert [g.variation for g in groups(load(study.write(tmp_path)))] == [""]


def words(study: Made, results: Path) -> str:
    """The report's text."""
    return write_report(study.write(results), "2").markdown.read_text(encoding="utf-8")


@pytest.mark.parametrize("beyond", [True, False])
def test_the_ladder_ended_at_the_training_set_or_at_the_last_batch(tmp_path: Path, beyond: bool) -> None:
    study = Made()
    one = study.trial(1)
    study.epochs(one, 2048)
    if beyond:
        study.other(one, 131_072, "skipped", "131072 images are more than the 50000 there are")
    text = words(study, tmp_path)
    assert ("cannot be larger than the training set" in text) == beyond
    assert ("it ended at 2,048, the largest batch that was to be tried" in text) != beyond


def test_a_ladder_that_one_seed_ended_went_on_with_the_others(tmp_path: Path) -> None:
    study = Made()
    first, second = (study.trial(1, seed=seed) for seed in (0, 1))
    for known in (first, second):
        study.epochs(known, 512)
    study.other(first, 2048, "oom", "CUDA out of memory.", 100 * 2.0**30)
    study.other(first, 8192, "skipped", "a batch of 2048 was out of memory")
    study.epochs(second, 2048)
    study.epochs(second, 8192)
    text = words(study, tmp_path)
    assert "at a batch of 2,048: OOM (peak 100.0 GiB) in 1 of 2 seeds; with other seeds it went on to 8,192." in text


def test_one_gpu_that_ran_in_part_is_not_without_results_yet(tmp_path: Path) -> None:
    study = Made()
    study.trial(1, state="partial", epoch=2)
    study.epochs(study.trial(2), 32)
    text = words(study, tmp_path)
    assert ("One GPU has no results here (not finished)." in text, "no results yet" in text) == (True, False)


def test_a_speedup_that_may_be_one_is_said_to_be(tmp_path: Path) -> None:
    study = Made()
    study.epochs(study.trial(1), 32)
    study.epochs(study.trial(2), 32)
    for row, seconds in zip(study.rows, (100.0, 101.0, 102.0, 50.0, 101.0, 200.0), strict=True):
        row["epoch_seconds"] = seconds
    text = " ".join(words(study, tmp_path).split())
    assert "The speedup is 1.01 (0.18 to" in text
    assert "at a batch of 32 per GPU, an interval that holds 1, so chance is not excluded." in text
    assert "There more GPUs are slower than one" not in text


def test_no_text_announces_a_table_that_is_not_there(tmp_path: Path) -> None:
    study = Made()
    study.epochs(study.trial(2, mode="ddp"), 32)
    text = words(study, tmp_path)
    assert text.count("DataParallel has no results here.") == 4
    assert "without the wait for data:" not in text


def test_no_bandwidth_is_more_than_the_links_have(tmp_path: Path) -> None:
    """With one repetition noise has no interval: a millisecond in an epoch would be 35,000 GB/s."""
    study = Made()
    two = study.trial(2)
    study.epochs(study.trial(1), 32, copy_seconds=COPY, step_seconds=COMPUTE)
    study.epochs(two, 32, step_seconds=COMPUTE / 2 + 0.001, copy_seconds=COPY / 2, device_seconds=1.0)
    study.rows = [row for row in study.rows if row["repeat"] == 1]
    study.link(two, "all_reduce", S, 248e9)
    data = load(study.write(tmp_path))
    assert cells(data, "table-3")["2-GPU"]["Batch 32 per GPU: Bandwidth utilization (GB/s)"] == (
        "more than the links carry"
    )
    text = write_report(data.directory, "2").markdown.read_text(encoding="utf-8")
    assert "No set-up of weak scaling has a communication that gives a bandwidth" in text
    assert "not to be told from zero" not in text


def test_communication_that_is_negative_is_called_so(tmp_path: Path) -> None:
    study = Made()
    study.epochs(study.trial(1), 32)
    study.epochs(study.trial(2), 32, step_seconds=COMPUTE / 2 - 1.0, device_seconds=1.0)
    text = words(study, tmp_path)
    assert "by the profiler (negative: $T_1/k$ is more than the compute was here)" in text
    assert "| negative communication |" in text
    assert "not to be told from zero" not in text
    assert "Where the share is small" not in text


def test_out_of_memory_on_the_first_rung_gives_no_size(tmp_path: Path) -> None:
    study = Made()
    study.other(study.trial(1), 32, "oom", "CUDA out of memory.", 100 * 2.0**30)
    for row in study.rows:
        row["gradient_bytes"] = None
    text = words(study, tmp_path)
    assert "nan" not in text.replace("finance", "")
    assert "an epoch has fewer iterations." in text


def test_ddps_scalings_are_compared_too(tmp_path: Path) -> None:
    study = Made()
    study.epochs(study.trial(1, mode="ddp"), 128)
    study.epochs(study.trial(2, mode="ddp"), 128)
    study.epochs(study.trial(2, mode="ddp", scaling="strong"), 128)
    assert "- DistributedDataParallel, 2 GPUs, 128: weak" in words(study, tmp_path)


def test_untimed_trials_have_no_seconds_and_the_report_says_why(tmp_path: Path) -> None:
    study = Made()
    one, two = (study.trial(gpus, timed=False, hardware=None) for gpus in (1, 2))
    study.epochs(one, 32)
    study.epochs(two, 32)
    study.other(one, 512, "oom", "CUDA out of memory.", 100 * 2.0**30)
    study.link(two, "all_reduce", S, 248e9)
    study.link(two, "copy", 2**28, 200e9)
    data = load(study.write(tmp_path))
    tables = problem2.tables(data)
    shown = {cell for name, table in tables.items() for row in table.cells for cell in row[1:]}
    assert {"untimed", "OOM (peak 100.0 GiB)"} <= shown
    assert not any("." in cell for cell in shown - {"OOM (peak 100.0 GiB)"})
    assert any(note.startswith("Untimed:") for note in tables["table-1"].notes)
    assert problem2.figures(data, groups(data), Options()) == {}
    text = write_report(data.directory, "2").markdown.read_text(encoding="utf-8")
    assert "**These trials were not timed** (`timed=false`)." in text
    assert "can be set beside one GPU yet" not in text


def test_a_step_that_grows_with_its_images_is_the_gpus(tmp_path: Path) -> None:
    study = Made()
    one = study.trial(1)
    study.epochs(one, 128)
    study.epochs(one, 256)
    for row in study.rows:
        row["step_p50_seconds"] = 0.041 if row["batch"] == 128 else 0.061
    assert "sooner than the host" not in words(study, tmp_path / "a")
    for row in study.rows:
        row["step_p50_seconds"] = 0.041 if row["batch"] == 128 else 0.043
    assert "sooner than the host" in " ".join(words(study, tmp_path / "b").split())


DEFAULTS = (
    "| loader | 2 worker processes, ordinary memory,", "| optimizer | SGD 0.1, momentum 0.9, weight decay 5e-4 |",
    "| arithmetic | tf32: torch's default, TF32 in convolutions, float32 elsewhere |", "11,173,962 parameters",
    "fewer than ten iterations is repeated until there are ten, and", "| data | cifar10; torchvision",
)  # fmt: skip


def test_the_protocol_states_the_settings_that_were_run(tmp_path: Path) -> None:
    usual, other = Made(), Made()
    usual.epochs(usual.trial(2), 32)
    text = " ".join(words(usual, tmp_path / "a").split())
    assert all(usually in text for usually in DEFAULTS)
    changes = {"learning_rate": 0.01, "momentum": 0.5, "weight_decay": 0.0, "least_iterations": 2, "width": 4}
    changes |= {"cudnn_benchmark": True, "pinned": True, "precision": "fp32", "workers": 3, "train_examples": 50_000}
    for mode in ("dataparallel", "ddp"):
        other.epochs(other.trial(2, mode=mode, **changes), 32)
    text = " ".join(words(other, tmp_path / "b").split())
    assert not any(usually in text for usually in DEFAULTS)
    assert "| optimizer | SGD 0.01, momentum 0.5, weight decay 0 |" in text
    assert "| arithmetic | fp32; cuDNN tries its algorithms out (`cudnn_benchmark=true`) |" in text
    assert "fewer than 2 iterations is repeated until there are 2, and" in text
    assert "| loader | 3 worker processes, pinned memory," in text


def test_a_setting_that_varies_is_a_list(tmp_path: Path) -> None:
    study = Made()
    for gpus, workers, rate in ((1, 0, 0.1), (2, 4, 0.05)):
        study.epochs(study.trial(gpus), 32, config_workers=workers, config_learning_rate=rate)
    text = " ".join(words(study, tmp_path).split())
    assert "| optimizer | SGD 0.05 and 0.1, momentum 0.9," in text
    assert "| loader | 0 and 4 worker processes," in text
    assert "the same loader processes feed any number of GPUs" in text


def test_without_loader_processes_none_are_spoken_of(tmp_path: Path) -> None:
    study = Made()
    for mode in ("dataparallel", "ddp"):
        study.epochs(study.trial(1, mode=mode, workers=0), 32)
        study.epochs(study.trial(2, mode=mode, workers=0), 32)
    text = " ".join(words(study, tmp_path).split())
    assert "loader processes" not in text
    assert "| loader | no worker process (whoever trains also loads), ordinary memory" in text
    assert "the process that trains also loads, for any number of GPUs, and where that is the bottleneck" in text
    assert "more GPUs also have more processes that load, so a speedup that" in text


@pytest.mark.parametrize(
    ("asked", "there", "text"),
    [(0, 50_000, "cifar10;"), (128, 128, "the first 128 training images;"), (60_000, 50_000, "all 50,000 training")],
)
def test_the_training_images_are_those_of_the_rows(tmp_path: Path, asked: int, there: int, text: str) -> None:
    study = Made()
    iterations = math.ceil(there / 32)
    study.epochs(study.trial(1, train_examples=asked), 32, examples=there, iterations=iterations)
    assert f"| data | cifar10{', ' if asked else ''}{text.removeprefix('cifar10')}" in words(study, tmp_path)


@pytest.mark.parametrize(
    ("known", "text"),
    [
        ((0, 2), "| others | 2 other compute processes on the GPUs when the trials began |"),
        (
            (0, None),
            "| others | 0 other compute processes on the GPUs when the trials began, as far as that is known |",
        ),
        ((None, None), ""),
    ],
)
def test_other_processes_are_counted_only_where_they_are_known(
    tmp_path: Path, known: tuple[Any, Any], text: str
) -> None:
    study = Made()
    for gpus, cotenants in zip((1, 2), known, strict=True):
        study.epochs(study.trial(gpus), 32, cotenants=cotenants)
    written = words(study, tmp_path)
    assert text in written
    assert ("other compute process" in written) == bool(text)


def test_the_figure_calls_no_communication_compute(tmp_path: Path) -> None:
    study = Made()
    study.epochs(study.trial(1), 32)
    two = study.trial(2)
    study.epochs(two, 32)
    study.epochs(two, 128)
    figure = problem2.main(load(study.write(tmp_path)))[0]["epoch-time"]
    assert figure.data is not None
    bars = figure.data.set_index(["gpus", "batch"])
    assert bars["step"].notna().tolist() == bars["compute"].isna().tolist() == [False, False, True]
    assert bars.loc[(2, 128), "step"] == pytest.approx(COMPUTE * 196 / 1563 + TALK[2] / 4)
    assert bars.loc[(2, 128), ["data", "copy", "step"]].sum() == pytest.approx(bars.loc[(2, 128), "epoch"])
    assert "step with communication 1.4 s." in figure.alt
    assert figure.caption.endswith("where that is not known, the step is one part.")
    (axes,) = figure.drawing.axes
    figure.drawing.canvas.draw()
    legend, edge = axes.get_legend().get_window_extent(), figure.drawing.bbox
    assert edge.x0 <= legend.x0 < legend.x1 <= edge.x1
    assert legend.y1 <= edge.y1


@pytest.mark.parametrize(
    ("gpus", "legend"),
    [
        ((1, 2), ["waiting for data", "copy to the GPU", "compute", "communication"]),
        ((2,), ["waiting for data", "copy to the GPU", "step with communication"]),
    ],
)
def test_the_legend_names_the_parts_that_are_drawn(tmp_path: Path, gpus: tuple[int, ...], legend: list[str]) -> None:
    study = Made()
    for number in gpus:
        study.epochs(study.trial(number), 32)
    figure = problem2.main(load(study.write(tmp_path)))[0]["epoch-time"]
    (axes,) = figure.drawing.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == legend


def test_one_refused_cell_takes_no_number_of_gpus_from_the_iterations(tmp_path: Path) -> None:
    study = Made()
    one, two = study.trial(1), study.trial(2)
    study.epochs(one, 32, iterations=7)
    study.epochs(one, 128)
    for batch in (32, 128):
        study.epochs(two, batch)
    text = words(study, tmp_path)
    assert "| batch per GPU | 1 GPU | 2 GPUs |" in text
    assert "| 32 | – | 782 |" in text
    assert "| 128 | 391 | 196 |" in text


def test_notes_tell_the_mean_of_several_epochs_from_the_second(tmp_path: Path) -> None:
    study = Made()
    two = study.trial(2)
    for batch in (32, 4096, 8192):
        study.epochs(two, batch)
    study.epochs(study.trial(2, scaling="strong"), 512)
    tables = problem2.tables(load(study.write(tmp_path)))
    assert {n: "mean of several" in tables[n].notes[0] for n in ("table-1", "communication", "ceiling", "strong")} == {
        "table-1": True, "communication": True, "ceiling": True, "strong": False
    }  # fmt: skip
    assert "the mean of several from it on (at 4,096 and 8,192 images); the first" in tables["table-1"].notes[0]
    assert tables["strong"].notes[0].endswith("All times are of the second epoch, the first warms up.")


def test_a_rung_out_of_memory_ended_the_ladder_also_where_a_row_of_it_is_refused(tmp_path: Path) -> None:
    study = Made()
    one = study.trial(1)
    study.epochs(one, 32)
    study.epochs(one, 2048, iterations=7)
    study.other(one, 2048, "oom", "CUDA out of memory.", 100 * 2.0**30)
    study.other(one, 8192, "skipped", "a batch of 2048 was out of memory")
    text = words(study, tmp_path)
    assert "The ladder ended at a batch of 2,048: OOM (peak 100.0 GiB)." in text
    assert "No rung of the ladder was out of memory" not in text


def test_noise_is_not_named_where_one_repetition_tells_none(tmp_path: Path) -> None:
    study = Made()
    study.epochs(study.trial(1), 32)
    study.epochs(study.trial(2), 32, step_seconds=COMPUTE / 2 - 1.0, device_seconds=1.0)
    study.rows = [row for row in study.rows if row["repeat"] == 1]
    text = " ".join(words(study, tmp_path).split())
    assert "| not above zero in one repetition |" in text
    assert "by the profiler (not above zero, and one repetition does not tell whether that is noise)" in text
    assert "within noise" not in text
    assert "not to be told from zero" not in text


@pytest.mark.parametrize("seeds", [1, 2])
def test_one_repetition_of_several_seeds_has_intervals(tmp_path: Path, seeds: int) -> None:
    study = Made()
    for seed in range(seeds):
        study.epochs(study.trial(1, seed=seed, repeats=1), 32)
    study.rows = [row for row in study.rows if row["repeat"] == 1]
    text = words(study, tmp_path)
    assert ("**One repetition: nothing here has an interval,**" in text) == (seeds == 1)


@pytest.mark.parametrize(("samples", "said"), [(102, True), (100, False), (None, False)])
def test_what_ddps_sampler_repeats_is_said(tmp_path: Path, samples: int | None, said: bool) -> None:
    study = Made()
    study.epochs(study.trial(3, mode="ddp"), 8, examples=100, iterations=5, samples=samples)
    text = " ".join(words(study, tmp_path).split())
    assert ("so that each GPU gets as many: here up to 2 of 100.)" in text) == said
    assert ("sampler repeats" in text) == said


def test_traffic_is_of_the_numbers_of_gpus_that_were_run(tmp_path: Path) -> None:
    study = Made()
    study.epochs(study.trial(3, mode="ddp"), 32)
    assert "For 3 GPUs each sends 59.59 MB an iteration." in words(study, tmp_path)


def test_scalings_are_compared_without_a_run_on_one_gpu(tmp_path: Path) -> None:
    study = Made()
    trials = [study.trial(2, mode="ddp", scaling=scaling) for scaling in ("weak", "strong")]
    for known in trials:
        study.epochs(known, 128, attempt=1)
    for row in study.rows[3:]:  # strong scaling waits longer for data
        row |= {"data_seconds": row["data_seconds"] + 3, "epoch_seconds": row["epoch_seconds"] + 3}
    study.attempts = [{"trial_id": t["trial_id"], "attempt": 1, "host": "vm", "boot_id": t["name"]} for t in trials]
    weak, strong = ((COPY + COMPUTE) * share / 1563 + TALK[2] * 32 / each for share, each in ((196, 128), (391, 64)))
    waits = [WAIT * share / 1563 for share in (196, 391)]
    whole = (strong + waits[1] + 3) / (weak + waits[0])
    text = " ".join(words(study, tmp_path).split())
    assert f"- DistributedDataParallel, 2 GPUs, 128: strong scaling's epoch takes {whole:.2f} (" in text
    assert f"; without waiting for data strong scaling's epoch takes {strong / weak:.2f} (" in text
    assert "$T_1$ stands in both, so weak scaling's is that many times strong" in text
    assert "as long as weak scaling's (on 2 machines, or after as many starts of one)" in text
    assert "not yet a measurement" not in text


def test_speedups_name_the_machine_of_one_gpu_too_and_waits_are_of_weak_scaling(tmp_path: Path) -> None:
    study = Made()
    trials = [study.trial(1), study.trial(2), study.trial(2, scaling="strong")]
    for known in trials:
        study.epochs(known, 128, attempt=1)
    for row in study.rows[6:]:  # strong scaling waits for data nearly all of its epoch
        row |= {"data_seconds": row["data_seconds"] + 997, "epoch_seconds": row["epoch_seconds"] + 997}
    study.attempts = [{"trial_id": t["trial_id"], "attempt": 1, "host": "vm", "boot_id": t["name"]} for t in trials]
    text = " ".join(words(study, tmp_path).split())
    assert "(on 3 machines, or after as many starts of one)" in text
    assert "Waiting for data takes up to 99 %" not in text
    assert "Waiting for data takes up to " in text


@pytest.mark.parametrize(
    ("seconds", "remark"),
    [
        ((6.0, 6.1, 6.2), ""),
        ((3.0, 3.1, 3.2), ", here the better one"),
        ((2.0, 4.0, 8.0), ", a difference that may be chance"),
    ],
)
def test_strong_is_called_better_only_where_chance_is_excluded(
    tmp_path: Path, seconds: tuple[float, ...], remark: str
) -> None:
    study = Made()
    study.epochs(study.trial(1), 128)
    study.epochs(study.trial(2), 128, epoch_seconds=4.0)
    study.epochs(study.trial(2, scaling="strong"), 128)
    for row, epoch in zip(study.rows[-3:], seconds, strict=True):
        row["epoch_seconds"] = epoch
    text = " ".join(words(study, tmp_path).split())
    assert f") times{remark}; without waiting for data weak" in text


def test_a_seed_out_of_memory_leaves_the_others_their_time_and_is_named(tmp_path: Path) -> None:
    study = Made()
    for seed in (0, 1):
        one, two = study.trial(1, seed=seed), study.trial(2, seed=seed)
        for known in (one, two):
            study.epochs(known, 32)
        study.epochs(two, 2048)
        if seed:
            study.epochs(one, 2048)
            study.other(one, 8192, "oom", "CUDA out of memory.", 120 * 2.0**30)
        else:
            study.epochs(one, 2048)
            del study.rows[-1]  # the third repetition did not fit
            study.other(one, 2048, "oom", "CUDA out of memory.", 100 * 2.0**30)
            study.other(one, 8192, "skipped", "a batch of 2048 was out of memory")
    data = load(study.write(tmp_path))
    tables = problem2.tables(data)
    frame = tables["table-1"].frame.set_index("gpus")
    assert (frame.loc[1, "seconds_32_n"], frame.loc[1, "seconds_2048_n"], frame.loc[2, "seconds_2048_n"]) == (6, 3, 6)
    table = cells(data, "table-1")
    assert table["1-GPU"]["Batch 2,048 per GPU: Time (s)"].endswith(") †")
    assert table["2-GPU"]["Batch 2,048 per GPU: Speedup"].endswith(") †")
    assert table["1-GPU"]["Batch 8,192 per GPU: Time (s)"] == "OOM (peak 120.0 GiB)"
    marked = {k for row in table.values() for k, v in row.items() if "†" in v}
    assert marked == {"Batch 2,048 per GPU: Time (s)", "Batch 2,048 per GPU: Speedup"}
    told = "1-GPU at 2,048: OOM (peak 100.0 GiB) in 1 of 2 seeds, n = 3."
    marks = ("table-1", "table-1-without-data", "table-2", "communication", "one-gpu", "table-3", "ceiling")
    assert [n for n in marks if not any(note.startswith("†") and told in note for note in tables[n].notes)] == []
    assert "the bar is of the others" in problem2.main(data)[0]["epoch-time"].caption
    text = write_report(data.directory, "2").markdown.read_text(encoding="utf-8")
    assert "at a batch of 2,048: OOM (peak 100.0 GiB) in 1 of 2 seeds, and of 8,192: OOM (peak 120.0 GiB)." in text


def test_a_seed_that_came_to_no_larger_batch_is_named_there_too(tmp_path: Path) -> None:
    study = Made()
    first, second = (study.trial(1, seed=seed) for seed in (0, 1))
    study.other(first, 32, "oom", "CUDA out of memory.", 100 * 2.0**30)
    study.other(first, 128, "skipped", "a batch of 32 was out of memory")
    study.epochs(second, 128)
    table = problem2.tables(load(study.write(tmp_path)))["one-gpu"]
    assert table.cells[1][1].endswith("†")
    assert any("1-GPU at 128: skipped in 1 of 2 seeds, n = 3." in note for note in table.notes)


@pytest.mark.parametrize(
    ("mode", "revision", "said"), [("ddp", 2, True), ("ddp", 3, True), ("ddp", 1, False), ("dataparallel", 2, False)]
)
def test_the_protocol_says_where_the_meeting_of_ddps_ranks_counts(
    tmp_path: Path, mode: str, revision: int, said: bool
) -> None:
    study = Made()
    study.epochs(study.trial(2, mode=mode, revision=revision), 32)
    text = " ".join(words(study, tmp_path).split())
    assert ("and what a rank waits there for the slowest loader, is counted as waiting for data" in text) == said


@pytest.mark.parametrize("iterations", [0, 10])
@pytest.mark.parametrize("alone", [True, False])
def test_a_profiler_that_was_not_used_is_said_to_have_seen_nothing(
    tmp_path: Path, iterations: int, alone: bool
) -> None:
    study, seen = Made(), ("communication", "broadcast", "exposed")
    for mode in ("dataparallel", "ddp"):
        for gpus in (1, 2) if alone else (2,):
            changes = {f"profiled_{name}_seconds": 0.5 if iterations and gpus > 1 else None for name in seen}
            study.epochs(study.trial(gpus, mode=mode, profiled_iterations=iterations), 32, **changes)
    text = words(study, tmp_path)
    said = [line for line in text.splitlines() if "profiler" in line.lower()]
    if iterations:
        assert len(said) > 4
        assert "not used" not in text
    else:
        assert len(said) == 1
        assert said[0].startswith("The profiler was not used (`trial.profiled_iterations=0`)")
        assert "| GPUs | Batch per GPU | By subtraction (s) |\n" in text


def test_of_a_profiler_that_is_not_planned_it_is_said_once(tmp_path: Path) -> None:
    study = Made()
    study.trial(2, state="new", profiled_iterations=0)
    text = words(study, tmp_path)
    said = "The profiler was not used (`trial.profiled_iterations=0`), so there is nothing beside the subtraction."
    assert (said in text, text.count("rofiler")) == (True, 1)
