import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from trials import problem4
from trials.data import fingerprint_of
from trials.problem4 import Parameters, check, learning_rates
from trials.spec import Outcome, Row, Spec

SMALL = {"depth": 8, "batch_size": 16, "epochs": 2}


def spec_of(**parameters: Any) -> Spec:
    values = asdict(Parameters(**parameters))
    return Spec("trials.problem4", values, 0, 1, "tiny", "tiny", problem4.REVISION, False, None)


def run(context: Any, **parameters: Any) -> tuple[list[Row], Outcome]:
    """Rows and outcome of a small trial."""
    trial = problem4.run(spec_of(**(SMALL | parameters)), context)
    rows = []
    while True:
        try:
            rows += next(trial)[0]
        except StopIteration as end:
            return rows, end.value


def first_rates(epochs: int, schedule: str) -> list[float]:
    p = Parameters(epochs=epochs, schedule=schedule)
    return [learning_rates(p, epoch, 3)[0] for epoch in range(epochs)]


def test_hoffer_drops_at_the_82nd_123rd_and_165th_epoch() -> None:
    rates = first_rates(200, "hoffer")
    drops = [epoch for epoch in range(1, 200) if rates[epoch] != rates[epoch - 1]]
    assert drops == [81, 122, 164]
    assert [rates[e] for e in (0, 81, 122, 164)] == pytest.approx([0.1, 0.01, 0.001, 0.0001])


def test_hoffer_drops_once_in_100_epochs() -> None:
    assert sorted(set(first_rates(100, "hoffer"))) == pytest.approx([0.01, 0.1])


def test_budget_fits_all_drops_into_the_epochs() -> None:
    assert problem4.budget_drops(100) == (41, 61, 82)
    assert problem4.budget_drops(200) == problem4.HOFFER_DROPS
    assert [round(r, 6) for r in first_rates(5, "budget")] == [0.1, 0.1, 0.01, 0.001, 0.0001]


def test_onecycle_is_torch_s() -> None:
    steps, epochs = 7, 5
    p = Parameters(epochs=epochs, schedule="onecycle")
    ours = [rate for epoch in range(epochs) for rate in learning_rates(p, epoch, steps)]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.1, total_steps=epochs * steps, cycle_momentum=False
    )
    theirs = []
    for _ in range(epochs * steps):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert ours == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_onecycle_of_a_few_steps_is_finite(steps: int) -> None:
    rates = learning_rates(Parameters(epochs=1, schedule="onecycle"), 0, steps)
    assert all(0 < rate <= 0.1 for rate in rates)


def test_every_schedule_gives_one_rate_a_step() -> None:
    for schedule in ("hoffer", "budget", "onecycle"):
        assert len(learning_rates(Parameters(schedule=schedule), 99, 781)) == 781


@pytest.mark.parametrize(
    ("parameters", "message"),
    [({"depth": 45}, "nearest is 44"), ({"train_examples": 63}, "do not fill one batch")],
)
def test_impossible_parameters_are_told(parameters: dict[str, int], message: str) -> None:
    assert message in (check(asdict(Parameters(**parameters))) or "")


def test_the_defaults_are_possible() -> None:
    assert check(asdict(Parameters())) is None


def test_a_trial_reports_its_columns(context: Any) -> None:
    rows, outcome = run(context, M=2)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert set(rows[0]) == {
        "epoch", "learning_rate", "train_loss", "train_error", "validation_loss", "validation_error", "steps",
        "samples", "train_seconds", "evaluation_seconds", "wall_seconds", "peak_memory_bytes",
    }  # fmt: skip
    assert (rows[0]["steps"], rows[0]["samples"]) == (4, 128)
    assert outcome.status == "completed"
    assert len(str(outcome.summary["weights_sha256"])) == 64


def test_a_trial_trains_and_validates_on_the_first_examples(context: Any) -> None:
    rows, _ = run(context, train_examples=40, validation_examples=10, epochs=1)
    assert rows[0]["steps"] == 2
    assert (rows[0]["validation_error"] * 10) == pytest.approx(round(rows[0]["validation_error"] * 10))


@pytest.mark.parametrize("change", [{"M": 2}, {"augmentation": "standard"}, {"schedule": "budget"}])
def test_arms_differ_and_repetitions_do_not(context: Any, change: dict[str, object]) -> None:
    one, again, other = (run(context, **p)[1].summary["weights_sha256"] for p in ({}, {}, change))
    assert one == again != other


def test_the_id_of_the_default_spec_never_changes() -> None:
    spec = Spec(
        "trials.problem4",
        asdict(Parameters()),
        0,
        1,
        "cifar10",
        fingerprint_of("cifar10"),
        1,
        True,
        "NVIDIA H200",
    )
    assert spec.id == "6ffaea39e495"
    assert spec.canonical()["parameters"] == {}


def test_planning_imports_no_torch() -> None:
    code = "import sys; from trials import problem4; problem4.check({}); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_the_declared_work_is_what_the_arms_took_on_an_h200() -> None:
    export = Path(__file__).parents[2] / "analysis" / "reference" / "problem4" / "export"
    arm = ["config_M", "config_augmentation", "config_schedule"]
    rows = pd.read_parquet(export / "epochs.parquet", columns=[*arm, "config_seed", "train_seconds"])
    trials = rows.groupby([*arm, "config_seed"])["train_seconds"].sum()
    works = [problem4.work(asdict(Parameters(M=int(m), precision="bf16"))) for m, *_ in trials.index]
    assert trials.groupby(level=arm).ngroups == 10
    assert list(trials / works) == pytest.approx([trials.sum() / sum(works)] * len(works), rel=0.05)


def test_the_declared_work_tells_the_precisions_apart() -> None:
    """fp32 takes 7.6 times as long as bf16 at M=32: docs/performance.md, images a second at batch 2,048."""
    fp32, bf16 = (problem4.work(asdict(Parameters(M=32, precision=p))) for p in ("fp32", "bf16"))
    assert fp32 / bf16 == pytest.approx(159_954 / 21_106, rel=0.02)
