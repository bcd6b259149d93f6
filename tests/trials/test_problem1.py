import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import command, environment, exported, wait_for
from states import through_a_file, without_measured

from farm.ledger import scan
from trials import models, problem1, weight_scaling
from trials.data import (
    CIFAR10_CLASSES,
    CIFAR10_MEAN,
    CIFAR10_STD,
    DataError,
    Dataset,
    Parquet,
    find_cifar10,
    fingerprint_of,
    read_shard,
)
from trials.methods import METHODS
from trials.problem1 import Parameters, check, resolve
from trials.spec import Outcome, Row, Spec, State

SMALL = {"batch_size": 16, "epochs": 2}
every_method = pytest.mark.parametrize("method", METHODS)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")

STUDY = (
    "problem=1", "profile=smoke", "executor=inline", "commit_seconds=0", "sweep.dropout=[true]", "trial.epochs=4",
    "trial.train_examples=128", "trial.test_examples=32", "trial.batch_size=32",
)  # fmt: skip
EXACT = {
    "epochs": ("trial_id", "epoch", "train_loss", "train_error", "train_eval_loss", "test_loss", "test_error"),
    "trials": ("trial_id", "config_method", "weights_sha256", "weight_scaling_difference"),
}
"""Columns of an export that no clock or host produced."""


def spec_of(**parameters: Any) -> Spec:
    values = resolve(asdict(Parameters(**(SMALL | parameters))))
    return Spec("trials.problem1", values, 0, 1, "tiny", "tiny", problem1.REVISION, False, None)


def run(context: Any, stop_after: int = 0, **parameters: Any) -> tuple[list[Row], State | None, Outcome | None]:
    """Rows, and the outcome of a whole trial or the state of one that is given up after an epoch."""
    trial = problem1.run(spec_of(**parameters), context)
    rows: list[Row] = []
    while True:
        try:
            epoch_rows, state = next(trial)
        except StopIteration as end:
            return rows, None, end.value
        rows += epoch_rows
        if len(rows) == stop_after:
            return rows, through_a_file(state()), None


@every_method
def test_a_trial_goes_on_from_an_epochs_state_as_if_it_had_not_stopped(context: Any, method: str) -> None:
    whole, _, outcome = run(context, method=method, dropout=True, epochs=3)
    begun, state, _ = run(context, method=method, dropout=True, epochs=3, stop_after=1)
    resumed, _, resumed_outcome = run(replace(context, state=state), method=method, dropout=True, epochs=3)
    assert [without_measured(r) for r in whole] == [without_measured(r) for r in (*begun, *resumed)]
    assert outcome.summary["weights_sha256"] == resumed_outcome.summary["weights_sha256"]


def test_a_kill_in_the_middle_of_any_method_changes_nothing(tmp_path: Path) -> None:
    calm, stormy = tmp_path / "calm", tmp_path / "stormy"
    undisturbed = start(calm)
    for begun in range(1, len(METHODS) + 1):  # each kill falls on the method that began last; the next run resumes it
        driver = start(stormy)
        wait_for(lambda begun=begun: methods_with_a_commit(stormy) == begun)
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    assert (start(stormy).wait(120), undisturbed.wait(120)) == (0, 0)
    attempts = exported(stormy, "problem1", "attempts")
    assert sorted(a["how"] for a in attempts) == ["completed"] * len(METHODS) + ["lost"] * len(METHODS)
    assert all(a["from_epoch"] > 0 for a in attempts if a["how"] == "completed")
    assert exact_columns(calm) == exact_columns(stormy)


def start(results: Path) -> subprocess.Popen[bytes]:
    """Start the study as the leader of a process group of its own."""
    words = [*command(*STUDY), f"results={results}"]
    return subprocess.Popen(words, env=environment(), stdout=subprocess.DEVNULL, start_new_session=True)


def methods_with_a_commit(results: Path) -> int:
    """How many of the trials, each of another method, have an epoch in the ledger."""
    return sum(bool(p.epoch or p.status) for p in scan.scan(results / "problem1").values())


def exact_columns(results: Path) -> dict[str, list[tuple[Any, ...]]]:
    """A finished study's rows in `EXACT`, by table."""
    tables = {table: exported(results, "problem1", table) for table in EXACT}
    return {table: sorted(tuple(row[c] for c in EXACT[table]) for row in rows) for table, rows in tables.items()}


@needs_cuda
@every_method
def test_a_gpus_captured_steps_train_as_a_cpus_do(context: Any, method: str) -> None:
    cpu, _, _ = run(context, method=method)
    gpu, _, outcome = run(replace(context, device="cuda"), method=method)
    for ours, theirs in zip(cpu, gpu, strict=True):
        assert theirs["train_loss"] == pytest.approx(ours["train_loss"], rel=1e-2)
        assert theirs["test_loss"] == pytest.approx(ours["test_loss"], rel=1e-2)
    assert outcome.status == "completed"


@needs_cuda
@every_method
def test_a_gpus_trial_goes_on_from_an_epochs_state_as_if_it_had_not_stopped(context: Any, method: str) -> None:
    gpu, same = replace(context, device="cuda"), {"method": method, "dropout": True, "deterministic": True, "epochs": 3}
    whole, _, outcome = run(gpu, **same)
    begun, state, _ = run(gpu, stop_after=1, **same)
    resumed, _, resumed_outcome = run(replace(gpu, state=state), **same)
    assert [without_measured(r) for r in whole] == [without_measured(r) for r in (*begun, *resumed)]
    assert outcome.summary["weights_sha256"] == resumed_outcome.summary["weights_sha256"]


@needs_cuda
@every_method
@pytest.mark.parametrize("devices", [("cuda", "cpu"), ("cpu", "cuda")])
def test_a_trial_goes_on_on_another_kind_of_device(context: Any, method: str, devices: tuple[str, str]) -> None:
    first, second = (replace(context, device=device) for device in devices)
    whole, _, _ = run(second, method=method)
    _, state, _ = run(first, method=method, stop_after=1)
    (row,), _, outcome = run(replace(second, state=state), method=method)
    assert row["train_loss"] == pytest.approx(whole[1]["train_loss"], rel=1e-2)
    assert outcome.status == "completed"


def test_the_state_holds_the_optimizers_and_without_it_the_end_is_another(context: Any) -> None:
    _, _, outcome = run(context, method="rmsprop_nesterov")
    _, state, _ = run(context, method="rmsprop_nesterov", stop_after=1)
    assert {k for held in state["optimizer"].values() for k in held} == {"square", "velocity"}
    for held in state["optimizer"].values():
        held["velocity"].zero_()
    _, _, other = run(replace(context, state=state), method="rmsprop_nesterov")
    assert other.summary["weights_sha256"] != outcome.summary["weights_sha256"]


def test_a_trial_reports_its_columns(context: Any) -> None:
    rows, _, outcome = run(context, method="adam")
    assert [row["epoch"] for row in rows] == [1, 2]
    assert set(rows[0]) == {
        "epoch", "learning_rate", "train_loss", "train_error", "train_eval_loss", "train_eval_error", "test_loss",
        "test_error", "steps", "samples", "train_seconds", "evaluation_seconds", "wall_seconds", "peak_memory_bytes",
    }  # fmt: skip
    assert (rows[0]["steps"], rows[0]["learning_rate"]) == (4, METHODS["adam"].learning_rate)
    assert (outcome.status, outcome.summary["model_parameters"]) == ("completed", 4_084_010)
    assert "weight_scaling_difference" not in outcome.summary


def test_an_evaluation_in_eval_mode_has_no_dropout(context: Any) -> None:
    (row,), _, _ = run(context, method="adam", dropout=True, epochs=1, learning_rate=1e-30)
    (same,), _, _ = run(context, method="adam", dropout=False, epochs=1, learning_rate=1e-30)
    assert row["train_eval_loss"] == same["train_eval_loss"]
    assert row["train_loss"] != same["train_loss"]


def test_a_holdout_takes_the_last_training_images_and_leaves_the_test_set_alone(context: Any, tiny: Dataset) -> None:
    unseen = replace(tiny, test_images=None, test_labels=None)
    (row,), _, _ = run(replace(context, dataset=unseen), holdout=30, epochs=1, dropout=True)
    assert "test_error" not in row
    assert row["steps"] == 2
    assert row["validation_error"] * 30 == pytest.approx(round(row["validation_error"] * 30))
    changed = replace(unseen, train_images=np.concatenate([tiny.train_images[:40], 255 - tiny.train_images[40:]]))
    (other,), _, _ = run(replace(context, dataset=changed), holdout=30, epochs=1, dropout=True)
    assert other["train_loss"] == row["train_loss"]
    assert other["validation_loss"] != row["validation_loss"]


def test_a_holdout_that_leaves_nothing_to_train_on_is_told(context: Any) -> None:
    with pytest.raises(ValueError, match="leaves 10 training images"):
        run(context, holdout=60)


def test_a_loss_that_is_not_finite_ends_a_trial_as_diverged(context: Any, tiny: Dataset) -> None:
    rows, _, outcome = run(replace(context, dataset=replace(tiny, std=(0.0,) * 3)))
    assert (rows, outcome.status, outcome.summary["diverged_epoch"]) == ([], "diverged", 1)


@every_method
def test_weights_that_overflow_in_the_second_epoch_diverge_there(context: Any, method: str) -> None:
    _, state, _ = run(context, method=method, stop_after=1)
    for name in state["model"]:
        state["model"][name] *= 1e20
    rows, _, outcome = run(replace(context, state=state), method=method)
    assert (rows, outcome.status, outcome.summary["diverged_epoch"]) == ([], "diverged", 2)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_dropout_inverted_is_weight_scaling(context: Any, precision: str) -> None:
    _, _, outcome = run(context, method="adam", dropout=True, learning_rate=1e-3, precision=precision)
    summary = outcome.summary
    assert 0 < summary["weight_scaling_difference"] < 1e-5 * summary["weight_scaling_largest_logit"]
    assert summary["weight_scaling_train_difference"] < 1e-4 * summary["weight_scaling_largest_logit"]
    assert summary["weight_scaling_changed"] == 0


def test_without_scaling_the_weights_the_logits_differ() -> None:
    model = models.multilayer_perceptron(0, True, (3072, 50, 50, 10))
    images = torch.randn(40, 3, 32, 32)
    twin = weight_scaling.classical(model)
    difference = (model.eval()(images) - twin.eval()(images)).abs().max()
    assert difference > 1
    assert weight_scaling.compare(model, [images], 0)["weight_scaling_difference"] < 1e-5


def test_classical_dropout_scales_nothing_and_drops_its_share() -> None:
    dropped = weight_scaling.ClassicalDropout(0.2).train()(torch.ones(100_000))
    assert set(dropped.unique().tolist()) == {0.0, 1.0}
    assert dropped.mean().item() == pytest.approx(0.8, abs=0.01)


def test_the_weights_are_the_same_before_training_with_and_without_dropout() -> None:
    with_it, without = (models.multilayer_perceptron(3, dropout).parameters() for dropout in (True, False))
    assert all(torch.equal(a, b) for a, b in zip(with_it, without, strict=True))


@pytest.mark.parametrize("change", [{"dropout": True}, {"method": "rmsprop"}, {"weight_decay": 0.0}])
def test_arms_differ_and_repetitions_do_not(context: Any, change: dict[str, Any]) -> None:
    same = {"epochs": 1, "learning_rate": 1e-3}
    one, again, other = (run(context, **same, **p)[2].summary["weights_sha256"] for p in ({}, {}, change))
    assert one == again != other


@every_method
def test_a_spec_says_the_rate_that_it_trains_with(method: str) -> None:
    parameters = asdict(Parameters(method=method))
    assert resolve(parameters)["learning_rate"] == METHODS[method].learning_rate
    assert resolve({**parameters, "learning_rate": 0.5})["learning_rate"] == 0.5


def test_impossible_parameters_are_told() -> None:
    assert "do not fill one batch" in (check(asdict(Parameters(train_examples=127))) or "")
    assert check(asdict(Parameters())) is None


def test_the_id_of_a_spec_never_changes() -> None:
    values = asdict(Parameters(learning_rate=0.001))
    spec = Spec("trials.problem1", values, 0, 1, "cifar10", fingerprint_of("cifar10"), 1, True, "NVIDIA H200")
    assert spec.id == "70ab02cdb663"
    assert spec.canonical()["parameters"] == {"learning_rate": 0.001}


def test_planning_imports_no_torch() -> None:
    code = "import sys; from trials import problem1; problem1.check({}); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_an_unknown_method_is_told_with_the_five_names(farm: Callable[..., Any]) -> None:
    done = farm("problem=1", "sweep.method=[adamw]", "data=synthetic")
    assert done.code == 2
    assert all(name in done.err for name in METHODS)


def test_the_smoke_profile_gives_the_figure_and_the_tables(farm: Callable[..., Any], tmp_path: Path) -> None:
    done = farm("problem=1", "profile=smoke", "executor=inline", "trial.epochs=1", "sweep.method=[adam]")
    assert done.code == 0, done.err
    trials = exported(tmp_path / "results", "problem1", "trials")
    assert {t["config_learning_rate"] for t in trials} == {METHODS["adam"].learning_rate}
    report = tmp_path / "results" / "problem1" / "report"
    assert (report / "figures" / "training-loss.svg").is_file()
    assert {p.stem for p in (report / "tables").glob("*.csv")} == {"training-loss", "training-time", "test-accuracy"}


@pytest.fixture(scope="module")
def real() -> Dataset:
    """1,000 real images: 750 to train on, 250 to test on."""
    try:
        source = find_cifar10(os.environ.get("FARM_TEST_CIFAR10", Path(__file__).parents[3] / "shared" / "cifar10"))
    except DataError as error:
        pytest.skip(f"{error}; set FARM_TEST_CIFAR10")
    parquet = isinstance(source, Parquet)
    images, labels = read_shard(source.shards["test"][0]) if parquet else source.read()["test"]
    parts = images[:750], labels[:750], images[750:1000], labels[750:1000]
    return Dataset("real", "real", *parts, CIFAR10_MEAN, CIFAR10_STD, CIFAR10_CLASSES)


@pytest.mark.cifar10
@every_method
@pytest.mark.parametrize("dropout", [False, True])
def test_on_real_images_the_loss_falls(context: Any, real: Dataset, method: str, dropout: bool) -> None:
    rows, _, _ = run(replace(context, dataset=real), method=method, dropout=dropout, batch_size=32)
    assert rows[1]["train_loss"] < rows[0]["train_loss"]
    assert rows[1]["train_eval_loss"] < rows[0]["train_loss"]
    assert all(np.isfinite(v) for row in rows for v in row.values())
