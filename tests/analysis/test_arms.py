import pandas as pd
import pytest

from analysis.arms import apart, apart_each, arms
from analysis.load import load
from analysis.problem4 import arm_name, study_arms


def plan(**columns):
    frame = pd.DataFrame({f"config_{k}": v for k, v in columns.items()})
    return frame.assign(trial_id=[str(i) for i in range(len(frame))])


def test_seeds_are_one_arm():
    assert [a.trials for a in arms(plan(depth=[8, 8, 20], seed=[0, 1, 0]))] == [("0", "1"), ("2",)]


def test_an_arm_is_named_by_what_varies():
    assert [a.label for a in arms(plan(depth=[8, 20], epochs=[4, 4], seed=[0, 0]))] == ["depth=8", "depth=20"]


def test_a_text_speaks_for_itself():
    grid = plan(smoothing=[0.0, 0.1, 0.1], augmentation=["cutout", "cutout", ""], seed=[0, 0, 0])
    assert [a.label for a in arms(grid)] == [
        "cutout smoothing=0",
        "cutout smoothing=0.1",
        "augmentation= smoothing=0.1",
    ]


def test_short_names_that_do_not_tell_arms_apart_are_not_used():
    grid = plan(first=["a b", "a"], second=["c", "b c"], seed=[0, 0])
    assert [a.label for a in arms(grid)] == ["first=a b, second=c", "first=a, second=b c"]


def test_a_column_with_gaps_does_not_split_or_mar_names():
    assert [a.label for a in arms(plan(copies=[4.0, None, 0.5], seed=[0, 0, 0]))] == [
        "copies=4",
        "copies=none",
        "copies=0.5",
    ]


def test_other_swept_parameters_go_into_the_label():
    grid = plan(augmentation=["standard", "cutout"], M=[1, 4], precision=["fp32", "bf16"], seed=[0, 0])
    labels = [a.label for a in arms(grid, arm_name, ("augmentation", "M"))]
    assert labels == ["baseline, precision=fp32", "cutout M=4, precision=bf16"]


def test_arms_are_in_the_order_of_m_whatever_the_plans(study_dir):
    names = [a.name for a in study_arms(load(study_dir))]
    assert names == ["baseline", *(f"cutout M={m}" for m in (1, 2, 4, 8, 16, 32))]


@pytest.mark.parametrize(("recorded", "timed"), [(True, True), (False, False), (None, True)])
def test_an_arm_knows_whether_its_times_are_results(recorded, timed):
    (arm,) = arms(plan(M=[4], timed=[recorded], seed=[0]))
    assert arm.timed is timed


def test_the_same_point_of_an_older_revision_is_set_apart_by_that_alone():
    grid = pd.DataFrame({"config_mode": ["a", "a", "b"], "config_gpus": [1, 2, 2], "config_revision": [1, 2, 3]})
    older = pd.DataFrame({"config_mode": ["b"], "config_gpus": [2], "config_revision": [2]})
    assert apart(apart_each(older, grid), grid) == {"revision": ["2"]}


def test_of_each_trial_it_is_told_what_sets_it_apart():
    grid = plan(M=[1, 2], dataset=["cifar10"] * 2, fingerprint=["a" * 64] * 2, hardware=["H200"] * 2)
    rest = plan(M=[1, 2], dataset=["cifar10", "drawn"], fingerprint=["a" * 64, "b" * 64], hardware=["L4"] * 2)
    each = apart_each(rest, grid)
    assert each == [{"hardware": "L4"}, {"dataset": "drawn", "hardware": "L4"}]
    assert apart(each, grid) == {"dataset": ["drawn"], "hardware": ["L4"]}
    assert apart_each(rest, grid[:0]) == []
