"""Estimates from history, the gate in front of a run, predicted against actual."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from attempts import attempt, directory, request
from commands import COUNTING
from hypothesis import given
from hypothesis import strategies as st

from farm import budget
from farm import config as configuration
from farm.errors import PreflightError
from farm.history import estimated_seconds, law_of
from farm.ledger.export import export
from farm.ledger.schema import config_columns
from farm.plan import Bundle, Plan, Trial
from farm.study import make_plan
from trials.problem4 import work
from trials.spec import Spec, parameter_defaults

STUDY = [f"study={COUNTING}", "executor=inline"]


def finish(ledger: Path, seconds: float, driver: str = "", **parameters: Any) -> Spec:
    """A finished trial that says of itself that it took so many seconds."""
    wanted = request(ledger, **parameters)
    attempt(wanted)
    trial = directory(wanted)
    end = trial / "attempts" / "1" / "end.json"
    end.write_text(json.dumps(json.loads(end.read_text()) | {"seconds": seconds}))
    begun = trial / "attempts" / "1" / "attempt.json"
    begun.write_text(json.dumps(json.loads(begun.read_text()) | {"driver": driver}))
    return Spec(**wanted.spec)


def spec(**parameters: Any) -> Spec:
    return Spec(**request(Path(), **parameters).spec)


@pytest.fixture
def timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ledger with three finished trials whose time is known: 10 s an epoch at factor 1, 20 s at 2, 30 s at 0."""
    for factor, seconds in ((1, 30.0), (2, 60.0), (0, 90.0)):
        finish(tmp_path, seconds, factor=factor, epochs=3)
    export(tmp_path, None, "counting")
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    path = tmp_path / "export" / "trials.parquet"
    table = pq.read_table(path)
    seconds = pc.multiply(pc.choose(table["config_factor"], 30.0, 10.0, 20.0), 3.0)
    position = table.column_names.index("seconds")
    pq.write_table(table.set_column(position, "seconds", seconds), path)
    return tmp_path


def test_an_estimate_is_scaled_by_the_epochs_that_are_left(timed: Path) -> None:
    wanted = spec(factor=1, epochs=12)
    assert estimated_seconds(timed, [wanted], {})[wanted.id] == pytest.approx(120)
    assert estimated_seconds(timed, [wanted], {wanted.id: 9})[wanted.id] == pytest.approx(30)


def test_a_trial_without_epochs_has_less_to_go_by_the_steps_that_are_done(tmp_path: Path) -> None:
    def problem2(gpus: int) -> Spec:
        values = parameter_defaults("trials.problem2") | {"gpus": gpus}
        return Spec("trials.problem2", values, 0, 1, "cifar10", "x", 1, True, "NVIDIA H200")

    (tmp_path / "export").mkdir()
    row = config_columns(problem2(2)) | {"trial_id": problem2(2).id, "seconds": 600.0}
    pd.DataFrame([row]).to_parquet(tmp_path / "export" / "trials.parquet")
    wanted = problem2(1)  # 20 steps: the links, 18 repetitions that the data hold, and a rung that they do not
    assert estimated_seconds(tmp_path, [wanted], {})[wanted.id] == pytest.approx(600)
    assert estimated_seconds(tmp_path, [wanted], {wanted.id: 15})[wanted.id] == pytest.approx(600 / 4)


def test_relatives_along_one_number_give_a_law(timed: Path) -> None:
    wanted = spec(factor=8, epochs=3)
    assert estimated_seconds(timed, [wanted], {})[wanted.id] == pytest.approx(3 * 80)


def test_relatives_that_differ_in_a_word_give_their_median(timed: Path) -> None:
    wanted = spec(factor=1, epochs=3, end="diverged")
    assert estimated_seconds(timed, [wanted], {})[wanted.id] == pytest.approx(30)


def problem4(copies: int, epochs: int = 100) -> Spec:
    values = parameter_defaults("trials.problem4") | {"M": copies, "epochs": epochs}
    return Spec("trials.problem4", values, 0, 1, "cifar10", "x", 1, True, "NVIDIA H200")


@pytest.fixture
def one_arm(tmp_path: Path) -> Path:
    """A ledger with one finished trial of problem 4: M=16, 100 epochs, 545 s."""
    (tmp_path / "export").mkdir()
    row = config_columns(problem4(16)) | {"trial_id": problem4(16).id, "seconds": 545.0}
    pd.DataFrame([row]).to_parquet(tmp_path / "export" / "trials.parquet")
    return tmp_path


def test_one_relative_is_scaled_by_the_work_that_its_module_declares(one_arm: Path) -> None:
    arms = {m: problem4(m) for m in (1, 8, 32)}
    found = estimated_seconds(one_arm, list(arms.values()), {arms[32].id: 50})
    assert {m: found[spec.id] for m, spec in arms.items()} == {
        1: pytest.approx(545 * share(1)), 8: pytest.approx(545 * share(8)), 32: pytest.approx(545 * share(32) / 2),
    }  # fmt: skip
    longer = problem4(8, epochs=200)
    assert estimated_seconds(one_arm, [longer], {})[longer.id] == pytest.approx(2 * 545 * share(8))


def test_an_estimate_does_not_hang_on_the_order_of_the_grid(one_arm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trials.problem4.work", lambda parameters: parameters["epochs"] ** 2)
    grid = [problem4(16, epochs) for epochs in (200, 50)]
    for order in (grid, grid[::-1]):
        found = estimated_seconds(one_arm, order, {})
        assert [found[spec.id] for spec in grid] == [pytest.approx(4 * 545), pytest.approx(545 / 4)]


def test_work_tells_of_trials_without_epochs_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trials.problem2.work", lambda parameters: parameters["gpus"], raising=False)
    values = parameter_defaults("trials.problem2")
    one, four = (
        Spec("trials.problem2", values | {"gpus": n}, 0, 1, "cifar10", "x", 1, True, "NVIDIA H200") for n in (1, 4)
    )
    (tmp_path / "export").mkdir()
    row = config_columns(one) | {"trial_id": one.id, "seconds": 600.0}
    pd.DataFrame([row]).to_parquet(tmp_path / "export" / "trials.parquet")
    assert estimated_seconds(tmp_path, [four], {})[four.id] == pytest.approx(2400)


@pytest.mark.parametrize("work", [lambda parameters: 1 / 0, lambda parameters: math.nan, lambda parameters: 0])
def test_work_of_no_use_leaves_the_median(one_arm: Path, monkeypatch: pytest.MonkeyPatch, work: Any) -> None:
    monkeypatch.setattr("trials.problem4.work", work)
    wanted = problem4(1)
    assert estimated_seconds(one_arm, [wanted], {})[wanted.id] == pytest.approx(545)


def share(copies: int) -> float:
    """What M=copies takes beside M=16, as problem 4 declares it."""
    parts = [work(problem4(m).parameters | {"M": m}) for m in (copies, 16)]
    return parts[0] / parts[1]


def arm(revision: int = 1, **parameters: Any) -> Spec:
    return Spec(**(problem4(1).as_dict() | {"revision": revision, "parameters": problem4(1).parameters | parameters}))


def ledger_of(root: Path, done: Iterable[tuple[Spec, float, str]]) -> Path:
    """A ledger that has exported these trials: their seconds and how they ended."""
    (root / "export").mkdir(parents=True)
    rows = [config_columns(s) | {"trial_id": s.id, "seconds": seconds, "status": how} for s, seconds, how in done]
    pd.DataFrame(rows).to_parquet(root / "export" / "trials.parquet")
    return root


@pytest.mark.parametrize("how", ["oom", "diverged"])
def test_only_completed_trials_tell_how_long_one_takes(tmp_path: Path, how: str) -> None:
    short = arm(M=32), 12.0, how
    assert estimated_seconds(ledger_of(tmp_path / "alone", [short]), [arm()], {}) == {}
    beside = ledger_of(tmp_path / "beside", [short, (arm(M=16), 545.0, "completed")])
    assert estimated_seconds(beside, [arm()], {})[arm().id] == pytest.approx(545 * share(1))


def test_trials_of_the_same_revision_tell_first_and_else_those_of_the_newest(tmp_path: Path) -> None:
    done = [(arm(1), 400.0, "completed"), (arm(2), 200.0, "completed"), (arm(2, momentum=0.8), 210.0, "completed")]
    ledger = ledger_of(tmp_path, done)
    wanted = [arm(3), arm(2, momentum=0.7), arm(1, momentum=0.7)]
    assert [estimated_seconds(ledger, [w], {})[w.id] for w in wanted] == [pytest.approx(s) for s in (200, 205, 400)]


def test_the_same_parameters_of_another_revision_tell_more_than_other_parameters(tmp_path: Path) -> None:
    old, older = (arm(2, momentum=0.8), 605.0, "completed"), (arm(1, momentum=0.8), 700.0, "completed")
    ledger = ledger_of(tmp_path, [older, old, (arm(3), 395.0, "completed")])
    wanted = [arm(3, momentum=0.8), arm(3, momentum=0.7), arm(1, momentum=0.8)]
    assert [estimated_seconds(ledger, [w], {})[w.id] for w in wanted] == [605, pytest.approx(395), 700]


def test_close_learning_rates_say_nothing_of_a_far_one(tmp_path: Path) -> None:
    done = [(arm(learning_rate=rate), seconds, "completed") for rate, seconds in ((0.1, 500.0), (0.11, 540.0))]
    wanted = arm(learning_rate=0.001)
    assert estimated_seconds(ledger_of(tmp_path, done), [wanted], {})[wanted.id] == pytest.approx(520)


@pytest.mark.parametrize(
    ("numbers", "rates", "at", "foreseen"),
    [
        ([1, 2], [10, 20], 32, 320),
        ([1, 1, 1, 2], [9, 10, 70, 20], 8, 80),  # each number by the median of its seeds
        ([16, 64], [8, 2], 256, 0.5),  # a larger batch, fewer steps
        ([0, 1, 2], [90, 10, 20], 4, 40),
        ([1, 2], [10, 40], 4, 160),  # steeper than in proportion
        ([1, 4], [1.1, 2.0], 32, 10.4),  # a fixed part, 0.8, beside 0.3 for each
        ([1, 4, 8], [1.1, 2.0, 3.2], 32, 10.4),
        ([32, 128], [22, 7], 8192, 2.078125),  # a fixed part beside each step's: 2 + 640 / batch
        ([1e17, 4e17], [1.1, 2.0], 32e17, 10.4),
        ([1e-310, 1], [20, 10], 1, 10),
        ([0.01, 0.1], [40, 29], 1e-5, 105.0),  # no count: a thousand times less of it is not a thousand times the work
        ([1, 2, 64], [1, 2.5, 64], 128, 128.9),  # no fixed part above 0: 1.114 * number ** 0.979
    ],
)
def test_a_law_goes_on_as_its_numbers_do(numbers: list[float], rates: list[float], at: float, foreseen: float) -> None:
    found = law_of(numbers, rates)
    assert found is not None
    assert found(at) == pytest.approx(foreseen, rel=0.01)


@pytest.mark.parametrize(
    ("numbers", "rates"),
    [
        ([1, 1.9], [10, 19]),  # too near
        ([0.1] * 50 + [0.2] * 50, [500] * 50 + [540] * 50),  # noise, however many seeds share it
        ([1, 2, 4], [10, 60, 25]),  # up and down again
        ([3, 3], [10, 20]),
        ([0, 5], [10, 20]),
        ([], []),
    ],
)
def test_a_law_is_more_than_noise(numbers: list[float], rates: list[float]) -> None:
    assert law_of(numbers, rates) is None


@given(
    st.tuples(st.floats(1, 100), st.floats(2, 100)),
    st.tuples(st.floats(0.1, 100), st.floats(0.1, 100)),
    st.floats(0.01, 100),
)
def test_a_law_meets_its_two_points_and_stays_positive(
    numbers: tuple[float, float], rates: tuple[float, float], factor: float
) -> None:
    low, times = numbers
    found = law_of([low, low * times], rates)
    if found is not None:
        assert [found(low), found(low * times)] == pytest.approx(list(rates), rel=1e-6)
        assert 0 < found(low * factor) < math.inf
        assert (found(low * times) > found(low)) == (found(low * times * 2) > found(low * times))


def test_ten_thousand_trials_are_estimated_in_seconds(tmp_path: Path) -> None:
    rates = [0.001 * number for number in range(1, 5001)]
    ledger = ledger_of(tmp_path, [(arm(learning_rate=rate), 500.0, "completed") for rate in rates])
    one_other, two_others = (
        [arm(learning_rate=rate * factor, weight_decay=0.01) for rate in rates] for factor in (1, 1.0001)
    )
    for wanted in (one_other, two_others):
        began = time.process_time()  # of this process, however busy the machine is
        assert len(estimated_seconds(ledger, wanted, {})) == 5000
        assert time.process_time() - began < 4


def test_another_dataset_is_no_relative(timed: Path) -> None:
    other = Spec(**(spec(factor=1).as_dict() | {"dataset": "cifar10"}))
    assert estimated_seconds(timed, [other], {}) == {}


def test_what_finished_since_the_last_export_counts(tmp_path: Path) -> None:
    done = finish(tmp_path, 1.0, factor=1, epochs=3)
    assert done.id in estimated_seconds(tmp_path, [done], {})


def trial(number: int, seconds: float | None, gpu: float = 2) -> Trial:
    wanted = spec(factor=number)
    return Trial(wanted.id, wanted, f"factor={number}", Bundle(1, gpu), "new", seconds=seconds)


def test_a_plan_above_the_limit_is_refused() -> None:
    plan = Plan("counting", (trial(1, 1800), trial(2, 3600)))
    budget.check(plan, 3.0)
    budget.check(plan, None)
    with pytest.raises(PreflightError, match=r"max_gpu_hours=2.9: 2 trials will take about 3.00 GPU-hours"):
        budget.check(plan, 2.9)


def test_a_trial_without_an_estimate_is_refused_and_named() -> None:
    with pytest.raises(PreflightError, match=r"1 trial of counting without an estimate.*is factor=2"):
        budget.check(Plan("counting", (trial(1, 10), trial(2, None))), 100)


def test_trials_without_a_gpu_take_no_gpu_hours() -> None:
    budget.check(Plan("counting", (trial(1, None, gpu=0),)), 0.0)


def test_predicted_stands_against_actual(tmp_path: Path) -> None:
    finish(tmp_path, 4500, "run-1", factor=1)
    finish(tmp_path, 900, "another run", factor=2)
    plan = Plan("counting", (trial(1, 3600), trial(2, 3600)))
    assert budget.comparison(plan, tmp_path, "run-1") == "predicted 2 GPU-hours for 1 trial, actual 2.5 (+25%)"
    assert budget.comparison(plan, tmp_path, "run-2") == ""


def test_a_prediction_below_a_second_has_no_percentage(tmp_path: Path) -> None:
    finish(tmp_path, 1, "run-1", factor=1)
    texts = [budget.comparison(Plan("counting", (trial(1, s, gpu=0),)), tmp_path, "run-1") for s in (1e-5, 2)]
    assert texts[0] == "predicted 0 s of trials' time for 1 trial, actual 1 s"
    assert texts[1].endswith("actual 1 s (-50%)")


def test_a_refused_run_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from farm.cli import main

    arguments = [*STUDY, f"results={tmp_path}", "resources.gpu=1", "gpus=4", "max_gpu_hours=1"]
    assert main(["run", *arguments]) == 3
    assert "without an estimate" in capsys.readouterr().err
    assert not (tmp_path / "counting" / "trials").exists()


def test_a_plan_says_that_a_run_would_be_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from farm.cli import main

    arguments = [*STUDY, f"results={tmp_path}", "resources.gpu=1", "max_gpu_hours=1"]
    for command in (["plan"], ["plan", "--json"], ["run", "--dry-run"]):
        assert main([*command, *arguments]) == 3
        captured = capsys.readouterr()
        assert "without an estimate" in captured.err
        assert "factor=2" in captured.out
        if "--json" in command:
            assert len(json.loads(captured.out)["trials"]) == 2


def test_a_run_on_the_cpu_says_nothing_of_a_gpu(tmp_path: Path) -> None:
    finish(tmp_path / "counting", 1.0, factor=1)
    words = [*STUDY, f"results={tmp_path}", "sweep.factor=[2]", "resources.gpu=1"]
    seconds = {d: make_plan(configuration.load([*words, f"device={d}"])).trials[0].seconds for d in ("cpu", "auto")}
    assert seconds["cpu"] is not None
    assert seconds["auto"] is None


def test_without_a_gpu_here_the_ledgers_own_model_is_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farm.provenance.gpu_models", lambda: ())
    arguments = [*STUDY, f"results={tmp_path}", "timed=true", "resources.gpu=1", "device=auto"]
    measured = configuration.load([*arguments, "hardware=NVIDIA H200"])
    for planned in make_plan(measured).trials:
        folder = tmp_path / "counting" / "trials" / f"x-{planned.id}"
        folder.mkdir(parents=True)
        (folder / "spec.json").write_text(json.dumps({"id": planned.id} | planned.spec.as_dict()))
    here = make_plan(configuration.load(arguments))
    assert [t.spec.hardware for t in here.trials] == ["NVIDIA H200"] * 2
