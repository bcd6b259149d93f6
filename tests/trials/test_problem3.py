"""Problem 3's trials: what they yield, what they refuse, that planning needs no torch."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from farm import config as configuration
from farm.errors import UsageError
from farm.study import make_plan
from trials import problem3, stacks
from trials.network_names import NAMES, OWN, unknown
from trials.problem3 import Parameters, check
from trials.problem3_tables import LAYERS
from trials.spec import Outcome, Row, Spec

ROOT = Path(__file__).parents[2]


def run(context: Any, **parameters: Any) -> tuple[list[Row], Outcome]:
    spec = Spec("trials.problem3", asdict(Parameters(**parameters)), 0, 1, "none", "none", 1, False, None)
    trial, rows = problem3.run(spec, context), []
    while True:
        try:
            rows += next(trial)[0]
        except StopIteration as end:
            return rows, end.value


@pytest.mark.parametrize("network", [*OWN, "squeezenet1_1"])
def test_a_network_gives_a_row_a_layer_and_totals(context: Any, network: str) -> None:
    rows, outcome = run(context, network=network)
    assert {row["network"] for row in rows} == {network}
    assert [row["position"] for row in rows] == list(range(1, len(rows) + 1))
    assert set().union(*rows) <= {c.name for c in LAYERS}
    assert outcome.summary["parameters"] == sum(row["parameters"] for row in rows)
    assert outcome.summary["macs"] == sum(row["macs"] for row in rows) > 0


def test_the_input_s_size_and_the_filters_can_be_chosen(context: Any) -> None:
    rows, _ = run(context, network="inception_reduced", input_size=14, channels=192, filters_project=32)
    assert rows[0]["input_shape"] == "192x14x14"
    assert rows[-1]["output_shape"] == f"{128 + 192 + 96 + 32}x14x14"


def test_stacks_are_measured(context: Any) -> None:
    rows, _ = run(context, task="receptive_field", most_layers=3, largest_filter=5)
    assert [(r["layers"], r["filter"]) for r in rows] == [(n, f) for n in (1, 2, 3) for f in (2, 3, 4, 5)]
    for row in rows:
        side = row["layers"] * row["filter"] - row["layers"] + 1
        assert row["predicted"] == side == row["height"] == row["width"] == row["single_height"] == row["single_width"]
        assert row["touched"] == side**2
    assert rows[-1]["predicted"] == 13  # three filters of 5x5


def test_a_measure_does_not_follow_the_prediction() -> None:
    assert stacks.extent([3, 5], 20, seed=0) == (7, 7, 49)
    assert stacks.extent([1, 1], 9, seed=0) == (1, 1, 1)


@pytest.mark.parametrize(
    ("name", "nearest"), [("vgg-16", "vgg16"), ("Resnet50", "resnet50"), ("alexnetpaper", "alexnet_paper")]
)
def test_an_unknown_network_is_told_with_the_nearest(name: str, nearest: str) -> None:
    assert f"nearest is {nearest}." in (check(asdict(Parameters(network=name))) or "")


def test_every_known_network_passes_and_other_tasks_need_none() -> None:
    assert [unknown(name) for name in NAMES] == [None] * len(NAMES)
    assert check(asdict(Parameters())) is not None
    assert check(asdict(Parameters(task="proposals"))) is None


def test_any_torchvision_network_can_be_planned(tmp_path: Path) -> None:
    config = configuration.load(["problem=3", f"results={tmp_path}", "sweep.network=[vgg16,googlenet]"])
    labels = [t.label.strip() for t in make_plan(config).trials]
    assert labels == ["architecture vgg16", "architecture googlenet", "receptive_field", "proposals"]


def test_a_misspelt_network_is_a_usage_error(tmp_path: Path) -> None:
    config = configuration.load(["problem=3", f"results={tmp_path}", "sweep.network=[vgg16,goglenet]"])
    with pytest.raises(UsageError, match="network=goglenet: 'goglenet' is no network; nearest is googlenet"):
        make_plan(config)


def test_trials_take_no_gpu(tmp_path: Path) -> None:
    for profile in ([], ["profile=smoke"]):
        plan = make_plan(configuration.load(["problem=3", f"results={tmp_path}", *profile]))
        assert {t.bundle.gpu for t in plan.trials} == {0}
        assert {"alexnet_paper", "alexnet", "vgg19", "inception_naive", "inception_reduced"} <= {
            t.spec.parameters["network"] for t in plan.trials
        }


def test_planning_imports_no_torch() -> None:
    code = (
        "import sys; from trials import problem3; problem3.check({'network': 'vgg16'});"
        "from farm.ledger import schema; schema.row_tables('trials.problem3'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_ids_of_specs_never_change() -> None:
    def identity(**parameters: Any) -> str:
        return Spec("trials.problem3", asdict(Parameters(**parameters)), 0, 1, "none", "none", 1, False, None).id

    assert [identity(network="vgg16"), identity(task="receptive_field"), identity(task="proposals")] == [
        "70278e69ef08",
        "f958824f1755",
        "52a5b94e8eb4",
    ]
