"""Problem 2's trial: the ladder, its rungs that do not fit, both modes, the checks that planted mistakes trip."""

from __future__ import annotations

import gc
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rank_tasks
import torch
from commands import exported

from farm import config as configuration
from farm.failures import kind_of
from farm.ledger import schema
from trials import communication, data_parallel, machine, models, plain_loop, problem2, process, timing
from trials.data import Dataset
from trials.data_parallel import Measured, Profiled, Replica, Setup
from trials.ladder import Climb
from trials.problem2 import Parameters, check, resolve
from trials.ranks import MemoryTaken, RankOutOfMemory, Ranks, memory_taken
from trials.spec import Outcome, Row, Spec
from trials.splits import Images

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
SMALL = {"width": 2, "first_batch": 16, "batch_factor": 2, "last_batch": 32, "repeats": 2, "workers": 0}
SMALL |= {"least_iterations": 4, "profiled_iterations": 2, "largest_message": 4096}
SETUP = Setup("dataparallel", 1, 16, "cpu", "tf32", 1, 0, (0.5,) * 3, (0.25,) * 3, width=2, workers=0)


def spec_of(**parameters: Any) -> Spec:
    values = asdict(Parameters(**(SMALL | parameters)))
    return Spec("trials.problem2", values, 0, 1, "tiny", "tiny", problem2.REVISION, True, "cpu")


def run(context: Any, **parameters: Any) -> tuple[list[Row], Outcome]:
    """Rows and outcome of a small trial."""
    trial, rows = problem2.run(spec_of(**parameters), context), []
    while True:
        try:
            rows += next(trial)[0]
        except StopIteration as end:
            return rows, end.value


def fixed(rows: list[Row]) -> list[Row]:
    """Rows without what clocks and hardware produce."""
    measured = {c.name for c in schema.row_columns("trials.problem2") if c.measured}
    return [{k: v for k, v in row.items() if k not in measured} for row in rows]


def noise(count: int) -> Images:
    random = np.random.RandomState(0)
    return Images(random.randint(0, 256, (count, 32, 32, 3)).astype(np.uint8), random.randint(0, 10, count))


def test_every_rung_is_measured_as_often_as_asked(context: Any) -> None:
    rows, outcome = run(context)
    assert [(r["batch"], r["repeat"], r["result"]) for r in rows] == [
        (16, 1, "measured"), (16, 2, "measured"), (32, 1, "measured"), (32, 2, "measured"),
    ]  # fmt: skip
    assert [(r["iterations"], r["passes"], r["samples"]) for r in rows[1:3]] == [(5, 1, 70), (3, 2, 70)]
    assert [r["epoch"] for r in rows] == [1, 2, 3, 4]
    assert (outcome.status, context.looks > 10) == ("completed", True)


def test_the_parts_of_an_epoch_add_up(context: Any) -> None:
    row = run(context, repeats=1, last_batch=16)[0][0]
    parts = sum(float(row[f"{part}_seconds"] or 0) for part in timing.PARTS)
    assert parts == pytest.approx(row["epoch_seconds"], rel=0.02)
    assert (row["device"], "device_seconds" in row) == ("cpu", False)


def test_rows_fit_their_tables(context: Any) -> None:
    rows, _ = run(context)
    check = schema.RowCheck("trials.problem2")
    schema.table([check.plain(row) for row in rows], schema.row_columns("trials.problem2"))


def test_a_resumed_ladder_has_the_rows_of_an_undisturbed_one(context: Any) -> None:
    whole, _ = run(context)
    trial = problem2.run(spec_of(), context)
    assert next(trial)[0] == []  # one GPU on a CPU: no links
    rows, state = next(trial)
    assert state is not None
    trial.close()
    context.state = state()
    assert fixed(rows + run(context)[0]) == fixed(whole)


def out_of_memory_at(batch: int) -> Callable[..., Measured]:
    real = data_parallel.measure

    def measure(setup: Setup, *arguments: Any) -> Measured:
        if setup.batch_per_gpu >= batch:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8.00 GiB.\nMore words.")
        return real(setup, *arguments)

    return measure


def test_the_rung_that_does_not_fit_is_a_row_and_larger_ones_are_skipped(
    context: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_parallel, "measure", out_of_memory_at(32))
    rows, outcome = run(context, last_batch=64)
    assert [(r["batch"], r["result"]) for r in rows[2:]] == [(32, "oom"), (64, "skipped")]
    assert int(rows[2]["peak_memory_bytes"] or 0) > 0
    assert rows[2]["reason"] == "CUDA out of memory. Tried to allocate 8.00 GiB."
    assert rows[3]["reason"] == "a batch of 32 was out of memory"
    assert outcome.status == "completed"


def test_a_rung_that_others_leave_no_room_for_is_no_result(context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_parallel, "measure", out_of_memory_at(32))
    monkeypatch.setattr(process, "memory_of_others", lambda *devices: (60 * 2**30, 80 * 2**30))
    with pytest.raises(MemoryTaken, match=r"other processes hold 60.0 of the GPU's 80.0 GiB \(CUDA out of memory"):
        run(context, last_batch=64)


def test_a_rank_that_runs_out_of_memory_ends_the_ladder_too(context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise RankOutOfMemory("rank 1: CUDA out of memory.", 12_345)

    monkeypatch.setattr(Ranks, "run", full)
    rows, _ = run(context, mode="ddp")
    assert [(r["batch"], r["result"], r.get("peak_memory_bytes")) for r in rows] == [
        (16, "oom", 12_345), (32, "skipped", None),
    ]  # fmt: skip


def test_another_error_is_the_trials_failure(context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_parallel, "measure", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(context)


@pytest.mark.parametrize(("scaling", "rungs"), [("weak", [32]), ("strong", [32, 64])])
def test_a_batch_larger_than_the_data_is_skipped(context: Any, scaling: str, rungs: list[int]) -> None:
    rows, _ = run(context, gpus=2, scaling=scaling, first_batch=32, last_batch=128, repeats=1)
    assert [r["batch"] for r in rows if r["result"] == "measured"] == rungs
    assert [r["batch"] for r in rows if r["result"] == "profiled"] == rungs
    assert "more than the 70 there are" in str(next(r["reason"] for r in rows if r["result"] == "skipped"))


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"gpus": 1, "first_batch": 128}, "128 images are more than the 70 there are"),
        ({"gpus": 2, "first_batch": 64}, "64 images on each of 2 GPUs are more than the 70 there are"),
        ({"gpus": 2, "first_batch": 128, "scaling": "strong"}, "128 images are more than the 70 there are"),
        ({"gpus": 2, "first_batch": 1, "train_examples": 1}, "1 image on each of 2 GPUs is more than the 1 there is"),
    ],
)
def test_a_reason_counts_images_and_gpus(context: Any, asked: dict[str, Any], reason: str) -> None:
    rows, _ = run(context, last_batch=asked["first_batch"], **asked)
    assert [r["reason"] for r in rows if r.get("result") == "skipped"] == [reason]


@pytest.mark.parametrize("gpus", [1, 2])
def test_steps_are_how_often_a_ladder_yields(context: Any, gpus: int) -> None:
    spec = spec_of(gpus=gpus, last_batch=256, train_examples=70)
    assert problem2.steps(spec.parameters) == len(list(problem2.run(spec, context)))


def test_strong_scaling_shares_the_batch(context: Any) -> None:
    rows, _ = run(context, gpus=2, scaling="strong", repeats=1)
    found = [(r["result"], r["batch"], r["batch_per_gpu"], r["total_batch"], r["iterations"]) for r in rows]
    assert found[:2] == [("measured", 16, 8, 16, 5), ("measured", 32, 16, 32, 3)]
    assert found[2:] == [("profiled", *rest) for _, *rest in found[:2]]


def test_ddp_trains_in_processes_that_talk(context: Any) -> None:
    rows, _ = run(context, mode="ddp", gpus=2, repeats=1, last_batch=16)
    links, (epochs, profiled) = [r for r in rows if r.get("table") == "links"], rows[-2:]
    assert {r["backend"] for r in links} == {"gloo"}
    assert epochs["gradient_bytes"] in {r["bytes"] for r in links}
    assert (epochs["iterations"], epochs["samples"], epochs["device"]) == (3, 70, "cpu")
    assert (profiled["result"], profiled["iterations"]) == ("profiled", 3)
    assert float(profiled["profiled_all_reduce_seconds"] or 0) > 0
    assert float(profiled["profiled_broadcast_seconds"] or 0) > 0
    assert float(profiled["profiled_waiting_seconds"] or 0) > 0
    assert not any(name.startswith("profiled_") for name in epochs)


def test_a_profiler_that_saw_nothing_of_a_gpu_gives_a_reason_and_no_zeros() -> None:
    blind = Profiled(communication.profile_of([], on_gpu=True), 2)
    row = data_parallel.profiled_columns(replace(SETUP, device="cuda", gpus=2), [blind], 64)
    assert row == {"iterations": 2, "reason": "the profiler saw no communication between the GPUs"}


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("mode", ["dataparallel", "ddp"])
def test_on_two_gpus_the_profiler_sees_what_they_send(tiny: Dataset, context: Any, mode: str) -> None:
    context.device = "cuda"
    context.dataset = replace(tiny, train_images=noise(512).images, train_labels=noise(512).labels)
    rows, _ = run(context, mode=mode, gpus=2, width=64, first_batch=64, last_batch=64, repeats=1)
    profiled = rows[-1]
    assert (profiled["result"], profiled.get("reason")) == ("profiled", None)
    kind = "profiled_broadcast_seconds" if mode == "dataparallel" else "profiled_all_reduce_seconds"
    assert 0 < float(profiled[kind] or 0) <= float(profiled["profiled_communication_seconds"] or 0)


def test_a_look_reads_each_of_its_batches_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warm-up and profiled iterations share them: reading was most of what a look at large batches took."""
    done: list[tuple[str, int]] = []
    real, step, watched = data_parallel.make_loader, Replica.step, communication.profiled

    def reading(*asked: Any) -> Iterator[Any]:
        for images, labels in real(*asked):
            done.append(("read", len(labels)))
            yield images, labels

    def stepping(replica: Replica, batch: Any) -> None:
        done.append(("step", len(batch[1])))
        step(replica, batch)

    def watching(work: Callable[[], object], *, on_gpu: bool) -> communication.Profile:
        done.append(("watched from here", 0))
        return watched(work, on_gpu=on_gpu)

    monkeypatch.setattr(data_parallel, "make_loader", reading)
    monkeypatch.setattr(Replica, "step", stepping)
    monkeypatch.setattr(communication, "profiled", watching)
    begins = ("watched from here", 0)
    found = data_parallel.profile(replace(SETUP, profiled_iterations=10), noise(40))
    steps = [("step", 16), ("step", 16), ("step", 8)]
    assert done == [*(("read", size) for _, size in steps), *steps, begins, *steps]
    assert found.iterations == 3
    done.clear()
    found = data_parallel.profile(replace(SETUP, profiled_iterations=2), noise(80))
    assert done == [("read", 16)] * 2 + [("step", 16)] * 3 + [begins] + [("step", 16)] * 2
    assert found.iterations == 2


def what_is_done(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What is measured and profiled from now on, with its rung, in this order."""
    found: list[tuple[str, int]] = []
    for name in ("_measured", "_profiled"):
        real = getattr(Climb, name)

        def noted(climb: Climb, rung: int, repeat: int, name: str = name, real: Callable[..., Any] = real) -> Any:
            found.append((name, rung))
            return real(climb, rung, repeat)

        monkeypatch.setattr(Climb, name, noted)
    return found


def test_the_profiler_looks_when_nothing_is_left_to_be_timed(context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process in which it has run launches kernels more slowly: later repetitions took a tenth to a third longer."""
    monkeypatch.setattr(data_parallel, "measure", out_of_memory_at(32))
    done = what_is_done(monkeypatch)
    rows, _ = run(context, gpus=2, first_batch=8, last_batch=32)
    rungs = [8, 8, 16, 16]
    assert done == [*(("_measured", rung) for rung in (*rungs, 32)), *(("_profiled", rung) for rung in rungs)]
    assert [(r["batch"], r["repeat"]) for r in rows[-4:]] == [(8, 1), (8, 2), (16, 1), (16, 2)]
    assert {r["result"] for r in rows[-4:]} == {"profiled"}


def test_the_profiler_runs_in_no_process_that_measures_another_trial(
    context: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With executor=inline the next trial is measured in the same process."""
    here, real = os.getpid(), communication.profiled

    def elsewhere(work: Callable[[], object], *, on_gpu: bool) -> communication.Profile:
        assert os.getpid() != here
        return real(work, on_gpu=on_gpu)

    monkeypatch.setattr(communication, "profiled", elsewhere)
    assert run(context, gpus=2, last_batch=16)[0][-1]["result"] == "profiled"


@pytest.mark.parametrize("yields", [2, 3, 4])
def test_a_ladder_that_goes_on_measures_nothing_after_it_has_profiled(
    context: Any, monkeypatch: pytest.MonkeyPatch, yields: int
) -> None:
    monkeypatch.setattr(data_parallel, "measure", out_of_memory_at(32))
    whole, _ = run(context, gpus=2, last_batch=64)
    done = what_is_done(monkeypatch)
    trial, rows = problem2.run(spec_of(gpus=2, last_batch=64), context), []
    for found, state in itertools.islice(trial, yields):
        rows += found
        context.state = state and state()
    trial.close()
    before = len(done)
    rows += run(context, gpus=2, last_batch=64)[0]
    assert fixed(rows) == fixed(whole)
    for part in (done[:before], done[before:]):
        assert part == sorted(part, key=lambda entry: entry[0]), "m before p"


def test_a_ladder_of_ranks_that_ran_out_of_memory_is_profiled_by_new_ones(
    context: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_parallel, "measure", rank_tasks.out_of_memory_at_32)
    rows, outcome = run(context, mode="ddp", gpus=2, repeats=1, last_batch=64)
    found = [(r["batch"], r["result"]) for r in rows if "table" not in r]
    assert found == [(16, "measured"), (32, "oom"), (64, "skipped"), (16, "profiled")]
    assert float(rows[-1]["profiled_all_reduce_seconds"] or 0) > 0
    assert outcome.status == "completed"


def test_links_are_measured_on_each_machine_that_a_trial_comes_to(
    context: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = machine.facts("cpu", 1)[0]
    found = [{"uuid": "a"}]
    monkeypatch.setattr(machine, "facts", lambda *a: (common, list(found)))
    monkeypatch.setattr(Climb, "_links", lambda self: [{"table": "links", "link": "copy", "bytes": 1}])
    tables = []
    for uuid in ("a", "a", "b"):
        found[0] = {"uuid": uuid}
        trial = problem2.run(spec_of(), context)
        rows, state = next(trial)
        tables.append([row.get("table", "epochs") for row in rows])
        context.state = state and state()
        trial.close()
    assert tables == [["gpus", "links"], ["epochs"], ["gpus", "links", "epochs"]]


def test_memory_that_the_profiler_lacks_costs_its_row_alone(context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_parallel, "profile", rank_tasks.out_of_memory)
    rows, outcome = run(context, gpus=2, last_batch=16)
    assert [r["result"] for r in rows] == ["measured", "measured", "profiled", "profiled"]
    assert [r.get("reason") for r in rows] == [None, None, *2 * ["rank 0: CUDA out of memory."]]
    assert outcome.status == "completed"


def test_a_slow_loader_of_one_rank_is_data_wait_and_not_communication() -> None:
    wait, setup = 0.3, replace(SETUP, mode="ddp", gpus=2, batch_per_gpu=4, least_iterations=1)
    with Ranks(2, "cpu", 1) as ranks:
        found = ranks.run(rank_tasks.measured_with_a_slow_loader, setup, noise(24), wait)
    for rank in found:
        assert min(rank.laps.data) >= 0.8 * wait  # the other rank may have begun its wait before this one
        assert sorted(rank.laps.step)[1] < wait  # the median of three: the machine may be busy


@pytest.mark.parametrize("mode", ["dataparallel", "ddp"])
@pytest.mark.parametrize(("batch", "counts"), [(32, (1563, 782, 391)), (512, (98, 49, 25))])
def test_loaders_of_the_full_set_have_the_sheets_iterations(mode: str, batch: int, counts: tuple[int, ...]) -> None:
    full = Images(np.zeros((50_000, 1, 1, 3), np.uint8), np.zeros(50_000, np.int64))
    setups = [replace(SETUP, mode=mode, gpus=gpus, batch_per_gpu=batch) for gpus in (1, 2, 4)]
    assert tuple(len(data_parallel.make_loader(s, full, 0)) for s in setups) == counts


def test_loader_processes_are_forked_wherever_the_loader_is() -> None:
    loader = data_parallel.make_loader(replace(SETUP, workers=1), noise(16), 0)
    assert loader.multiprocessing_context.get_start_method() == "fork"


def test_a_planted_fixed_total_batch_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = data_parallel.make_loader
    monkeypatch.setattr(data_parallel, "make_loader", lambda s, i, r: right(replace(s, gpus=1), i, r))
    with pytest.raises(
        timing.WrongIterations, match="a pass had 4 iterations where 16 images on each of 2 GPUs make 2"
    ):
        data_parallel.measure(replace(SETUP, gpus=2), noise(64))


def test_a_repetition_starts_afresh_and_from_its_own_seed() -> None:
    losses = [data_parallel.measure(replace(SETUP, seed=seed), noise(64)).loss for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]


def test_the_training_step_is_the_plain_loops(context: Any) -> None:
    replica = data_parallel.Replica(SETUP, noise(16))
    twin = data_parallel.resnet18(2, 0)
    optimizer = torch.optim.SGD(twin.parameters(), 0.1, 0.9, weight_decay=5e-4)
    images, labels = next(iter(replica.loader))
    replica.model.train()
    replica.step((images, labels))
    plain_loop.train_step(twin, optimizer, images, labels)
    assert models.weights_sha256(twin) == models.weights_sha256(replica.model.module)


def test_the_sheets_network_has_its_gradient() -> None:
    assert data_parallel.gradient_bytes(64) == 44_695_848
    twins = [models.resnet18(3), data_parallel.resnet18(64, 3)]
    assert len({models.weights_sha256(m) for m in twins}) == 1


def test_one_gpu_is_weak_and_strong_at_once() -> None:
    assert resolve(asdict(Parameters(scaling="strong")))["scaling"] == "weak"
    assert resolve(asdict(Parameters(scaling="strong", gpus=2)))["scaling"] == "strong"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [({"last_batch": 16}, "no rung"), ({"scaling": "strong", "gpus": 3}, "cannot be shared equally by gpus=3")],
)
def test_impossible_parameters_are_told(parameters: dict[str, Any], message: str) -> None:
    assert message in (check(asdict(Parameters(**parameters))) or "")


def test_the_defaults_are_possible_and_stay_out_of_the_hash() -> None:
    assert check(asdict(Parameters())) is None
    spec = Spec("trials.problem2", asdict(Parameters()), 0, 1, "cifar10", "f", 1, True, "NVIDIA H200")
    assert spec.canonical()["parameters"] == {}


def test_planning_imports_no_torch() -> None:
    code = "import sys; from trials import problem2; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_the_smoke_profile_ends_with_the_sheets_tables(farm: Callable[..., Any], tmp_path: Path) -> None:
    small = ("executor=inline", "sweep.mode=[ddp]", "sweep.gpus=[2]", "trial.repeats=1", "trial.last_batch=16")
    done = farm("problem=2", "profile=smoke", *small)
    assert done.code == 0, done.err
    rows = exported(tmp_path / "results", "problem2", "epochs")
    assert [(r["result"], r["device"]) for r in rows] == [("measured", "cpu"), ("profiled", "cpu")]
    tables = {p.stem for p in (tmp_path / "results" / "problem2" / "report" / "tables").glob("*.md")}
    assert tables == {"ddp-table-1", "ddp-table-2", "ddp-table-3"}


def test_a_machine_with_one_gpu_runs_what_it_holds_and_lists_the_rest(farm: Callable[..., Any]) -> None:
    done = farm("problem=2", "device=cpu", "cpus=2", "gpus=1", "--json", verb="plan")
    trials = json.loads(done.out)["trials"]
    assert [t["label"] for t in trials if t["state"] == "new"] == ["dataparallel weak gpus=1", "ddp weak gpus=1"]
    others = [t["reason"] for t in trials if t["state"] == "unschedulable"]
    assert len(others) == 8
    assert "needs 1 CPU and 4 GPUs on one node; the largest node has 2 CPUs and 1 GPU" in others


class Hasty(timing.DeviceClock):
    """A clock as public solutions have it: read without waiting for the GPU."""

    def now(self) -> float:
        return time.perf_counter()


CUDA_SETUP = replace(SETUP, device="cuda", width=64, batch_per_gpu=512)


def test_every_measurement_asks_whether_its_clock_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(timing, "check_clock", lambda laps: asked.append(laps.iterations))
    data_parallel.measure(SETUP, noise(64))
    assert asked == [12], "three epochs of four iterations make at least ten"


@needs_cuda
def test_a_planted_clock_that_does_not_wait_is_caught_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "DeviceClock", Hasty)
    with pytest.raises(timing.WrongClock):
        data_parallel.measure(CUDA_SETUP, noise(5120))


@needs_cuda
def test_wall_clock_and_events_agree_on_a_gpu() -> None:
    laps = data_parallel.measure(CUDA_SETUP, noise(5120)).laps
    assert sum(laps.device) == pytest.approx(sum(laps.step), rel=0.05)
    assert sum(laps.device) > 0.05


@needs_cuda
def test_the_hosts_pace_is_measured_on_a_gpu() -> None:
    launch = data_parallel.measure(CUDA_SETUP, noise(5120)).launch_seconds
    assert launch is not None
    assert 1e-6 < launch < 1e-4


def test_a_row_has_the_mean_pace_of_its_ranks_and_none_on_a_cpu() -> None:
    found = data_parallel.measure(SETUP, noise(64))
    assert "launch_seconds" not in data_parallel.columns([found])
    ranks = [replace(found, launch_seconds=seconds) for seconds in (6e-6, 8e-6)]
    assert data_parallel.columns(ranks)["launch_seconds"] == pytest.approx(7e-6)


@needs_cuda
def test_the_ladder_ends_where_a_gpus_memory_does(tiny: Dataset, context: Any) -> None:
    context.device = "cuda"
    context.dataset = replace(tiny, train_images=noise(4096).images, train_labels=noise(4096).labels)
    gc.collect()  # what earlier tests left
    torch.cuda.empty_cache()
    room = torch.cuda.memory_allocated() + 3 * 2**30
    torch.cuda.set_per_process_memory_fraction(room / torch.cuda.get_device_properties(0).total_memory)
    try:
        rows, _ = run(context, width=64, first_batch=64, batch_factor=8, last_batch=4096, repeats=1)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    results = [(r["batch"], r["result"]) for r in rows if r.get("table") != "gpus"]
    assert results == [(64, "measured"), (512, "measured"), (4096, "oom")]
    assert 2**30 < int(rows[-1]["peak_memory_bytes"] or 0) <= room


@needs_cuda
def test_ddp_on_a_gpu_spawns_ranks_whose_loaders_start_at_once(tiny: Dataset, context: Any) -> None:
    torch.cuda.init()
    context.device = "cuda"
    context.dataset = replace(tiny, train_images=noise(512).images, train_labels=noise(512).labels)
    rows, _ = run(context, mode="ddp", width=64, first_batch=64, last_batch=64, repeats=1, workers=2)
    assert [(r["result"], r["iterations"]) for r in rows if r.get("table") != "gpus"] == [("measured", 8)]
    assert float(rows[-1]["data_seconds"] or 0) < 2


HOLDER = """
import sys, torch
held = torch.empty(int(0.6 * torch.cuda.get_device_properties(0).total_memory), dtype=torch.uint8, device="cuda")
print("held", flush=True)
sys.stdin.read()
"""


@needs_cuda
def test_memory_that_another_process_holds_is_not_the_trials() -> None:
    gc.collect()
    torch.cuda.empty_cache()
    size = torch.cuda.get_device_properties(0).total_memory
    with pytest.raises(torch.OutOfMemoryError) as alone:
        torch.empty(2 * size, dtype=torch.uint8, device="cuda")
    assert memory_taken(alone.value) is None
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(torch.OutOfMemoryError) as beside:
            torch.empty(size // 2, dtype=torch.uint8, device="cuda")
        taken = memory_taken(beside.value)
        other.kill()
    assert taken is not None
    assert kind_of(taken) == "device"


def test_every_repetition_is_committed() -> None:
    assert configuration.load(["problem=2"]).settings.commit_seconds == 0
