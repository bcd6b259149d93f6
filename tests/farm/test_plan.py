"""The plan: which trials there are, in which states, in which order."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import counting
import pytest
from commands import COUNTING

from farm import config as configuration
from farm import plan as planning
from farm.errors import UsageError
from farm.ledger.scan import Progress
from farm.plan import Bundle, Node
from farm.study import make_plan
from trials.spec import ModuleError


def grid(*overrides: str) -> list[tuple[planning.Spec, Bundle]]:
    return planning.specs(configuration.load([f"study={COUNTING}", *overrides]), "", None)


def plan(
    *overrides: str, ledger: dict[str, Progress] | None = None, nodes: tuple[Node, ...] = (Node(2, 0),)
) -> planning.Plan:
    config = configuration.load([f"study={COUNTING}", *overrides])
    return planning.make(config, planning.specs(config, "", None), ledger or {}, nodes)


def factors(*overrides: str) -> list[tuple[object, object]]:
    return [(s.parameters["factor"], s.parameters["epochs"]) for s, _ in grid(*overrides)]


def test_a_begun_trial_that_no_node_holds_names_its_epoch_and_no_other_device() -> None:
    identity = grid("resources.gpu=2")[0][0].id
    begun, new = plan("resources.gpu=2", "device=auto", ledger={identity: Progress("partial", epoch=15)}).trials
    assert begun.state == new.state == "unschedulable"
    assert "it goes on after epoch 15" in begun.reason
    assert "device=cpu" not in begun.reason
    assert "device=cpu" in new.reason


def test_lists_are_axes_of_a_product() -> None:
    assert factors("sweep.factor=[1,2]", "sweep.epochs=[3,4]") == [(1, 3), (1, 4), (2, 3), (2, 4)]


def test_zipped_axes_move_together() -> None:
    assert factors("sweep={}", "sweep.factor=[1]", "zip=[{factor: [5, 6], epochs: [7, 8]}]") == [(5, 7), (6, 8)]


def test_extra_points_stand_outside_the_product() -> None:
    assert factors("sweep.factor=[1]", "sweep.epochs=[3,4]", "extra=[{factor: 9}]") == [(1, 3), (1, 4), (9, 3)]


def test_seeds_repeat_the_whole_grid() -> None:
    assert [s.seed for s, _ in grid("seeds=[5,6]")] == [5, 6, 5, 6]


def test_a_point_that_stands_twice_is_one_trial() -> None:
    assert factors("extra=[{factor: 2}]") == [(1, 3), (2, 3)]


def test_unequal_zipped_lists_are_refused() -> None:
    with pytest.raises(UsageError, match="equal length"):
        grid("zip=[{factor: [5, 6], epochs: [7]}]")


def test_a_point_that_the_module_refuses_is_named() -> None:
    with pytest.raises(UsageError, match="factor=13: factor=13 brings bad luck"):
        grid("sweep.factor=[1,13]")


def test_infrastructure_stays_out_of_the_identity() -> None:
    same = ["results=/x", "executor=inline", "commit_seconds=1", "cpus=1", "resources.cpu=2", "retries=0", "site=local"]
    assert [s.id for s, _ in grid()] == [s.id for s, _ in grid(*same)]


def test_threads_seed_and_parameters_are_the_identity() -> None:
    ids = [{s.id for s, _ in grid(o)} for o in ("threads=2", "seeds=[1]", "trial.epochs=4", "timed=true", "threads=1")]
    assert len(set().union(*ids)) == 10


def test_a_parameter_at_its_introduced_default_stays_out_of_the_hash() -> None:
    spec = grid("sweep.factor=[1]")[0][0]
    assert spec.canonical()["parameters"] == {}
    older = planning.Spec(**{**spec.as_dict(), "parameters": {"factor": 1}})  # before the others were introduced
    assert older.id == spec.id


def test_a_trial_is_shown_with_the_defaults_that_it_began_with_and_not_run_with_others() -> None:
    first, second = (s.id for s, _ in grid())
    began = {"factor": 1, "end_epoch": 7, "seconds": 0, "gone": 3}
    ledger = {first: Progress("partial", 2, parameters=began), second: Progress("done", 3, parameters={"end_epoch": 2})}
    made = plan(ledger=ledger)
    assert [t.spec.parameters["end_epoch"] for t in made.trials] == [7, 2]
    assert [(t.id, bool(t.changed)) for t in made.trials] == [(first, True), (second, False)]
    told = (
        f"end_epoch: its default was 7 when trial {first} began and is 2 now; put the default back and use "
        "trial.end_epoch=2, or raise REVISION"
    )
    with pytest.raises(UsageError) as refusal:
        planning.check_defaults(made)
    assert str(refusal.value) == told
    planning.check_defaults(plan("trial.end_epoch=7", ledger={first: Progress("partial", 2, parameters=began)}))
    both = plan("sweep.end_epoch=[2]", ledger=ledger | {second: Progress("done", 3, parameters=began | {"factor": 2})})
    with pytest.raises(UsageError, match=r"use sweep\.end_epoch=\[2\], or raise REVISION \(1 more trial began so\)"):
        planning.check_defaults(both)


def test_the_ids_of_problem_4_are_what_they_were() -> None:
    config = configuration.load(["problem=4", "sweep.M=[2]", "extra=[]", "timed=false"])
    (spec, _), *_ = planning.specs(config, "f" * 64, None)
    assert spec.id == "ce749e3f769d"


def test_states_come_from_the_ledger() -> None:
    first, second = (s.id for s, _ in grid())
    made = plan(ledger={first: Progress("done", 3, "completed"), second: Progress("partial", 2)})
    assert [(t.state, t.epoch) for t in made.trials] == [("done", 3), ("partial", 2)]
    assert [t.id for t in made.to_run] == [second]


def test_a_trial_alone_has_the_label_that_it_has_in_the_grid(tmp_path: Path) -> None:
    words = ("sweep.factor=[1,2]", "seeds=[0,1]", f"results={tmp_path}")
    whole = make_plan(configuration.load([f"study={COUNTING}", *words]))
    for trial in whole.trials:
        (alone,) = make_plan(configuration.load([f"study={COUNTING}", *words, f"trial={trial.id}"])).trials
        assert (alone.id, alone.label) == (trial.id, trial.label)
    assert whole.trials[0].label == "factor=1 seed=0"
    with pytest.raises(UsageError, match="trial=0123: no trial of this grid has that id"):
        make_plan(configuration.load([f"study={COUNTING}", *words, "trial=0123"]))


def test_several_trials_are_chosen_by_how_their_ids_begin(tmp_path: Path) -> None:
    words = [f"study={COUNTING}", f"sweep.factor={list(range(20, 50))}", f"results={tmp_path}"]
    ids = [t.id for t in make_plan(configuration.load(words)).trials]
    first, last = ids[0], ids[-1]
    some = make_plan(configuration.load([*words, f"trial={last[:8]},{first}"]))
    assert [t.id for t in some.trials] == [first, last], "in the grid's order"
    letter = next(i[0] for i in ids if sum(other[0] == i[0] for other in ids) > 1)
    with pytest.raises(UsageError, match=rf"trial={letter}: \d+ trials begin so; `farm plan` lists them"):
        make_plan(configuration.load([*words, f"trial={first},{letter}"]))


def test_a_failed_trial_runs_again_only_when_asked() -> None:
    first, _ = (s.id for s, _ in grid())
    failed = {first: Progress("failed", 1, error="ValueError: no")}
    assert plan(ledger=failed).trials[0].state == "failed"
    assert plan("retry=failed", ledger=failed).trials[0].state == "partial"


@pytest.mark.parametrize(
    ("ended_at", "state"),
    [("2026-11-30T11:59:59.999+00:00", "new"), ("2026-11-30T12:00:00.000+00:00", "failed"), ("", "new")],
)
def test_what_failed_before_a_time_runs_again(ended_at: str, state: str) -> None:
    failed = {grid()[0][0].id: Progress("failed", ended_at=ended_at)}
    assert plan("retry=2026-11-30T13:00:00+01:00", ledger=failed).trials[0].state == state


@pytest.mark.parametrize("wrong", ["all", "2026-11-30", "12:00", "2026-11-30T12:00:00", "0001-01-01T00:00:00+23:00"])
def test_any_other_retry_is_refused(wrong: str) -> None:
    with pytest.raises(UsageError, match=r"retry=.*: none, failed, or a time as 2026-"):
        plan(f"retry={wrong}")


def test_a_trial_that_reserves_nothing_is_refused_but_inline() -> None:
    with pytest.raises(UsageError, match=r"resources\.cpu=0: Ray starts no trial that reserves nothing"):
        grid("resources.cpu=0")
    for more in (["executor=inline"], ["resources.gpu=1"], ["resources.exclusive=node"]):
        assert grid("resources.cpu=0", *more)


def test_what_no_node_holds_is_unschedulable() -> None:
    made = plan("trial.gpus=8", "resources.gpu=gpus", nodes=(Node(8, 4), Node(8, 2)))
    assert {t.state for t in made.trials} == {"unschedulable"}
    assert "8 GPUs on one node; the largest node has 8 CPUs and 4 GPUs" in made.trials[0].reason


def test_a_trial_that_began_on_a_gpu_waits_for_one() -> None:
    first, second = (s.id for s, _ in grid())
    ledger = {first: Progress("partial", 3), second: Progress("done", 5)}
    began, done = plan("device=cuda", ledger=ledger, nodes=(Node(2, 0, cuda=False),)).trials
    assert (began.state, done.state) == ("unschedulable", "done")
    assert began.reason == "device=cuda, and this machine has no GPU; it goes on after epoch 3 where there is one"


def test_two_half_empty_nodes_do_not_hold_one_gang() -> None:
    made = plan("resources.gpu=3", nodes=(Node(8, 2), Node(8, 2)))
    assert {t.state for t in made.trials} == {"unschedulable"}


def test_larger_gangs_are_offered_first() -> None:
    made = plan("sweep.gpus=[1,4,2]", "resources.gpu=gpus", nodes=(Node(8, 4),))
    assert [t.bundle.gpu for t in made.to_run] == [4, 4, 2, 2, 1, 1]


def test_of_several_at_once_the_longest_is_offered_first() -> None:
    config = configuration.load(["problem=4"])
    points = planning.specs(config, "f" * 64, "NVIDIA H200")
    arms = {(s.parameters["augmentation"], s.parameters["M"]): s.id for s, _ in points}

    def order(ledger: dict[str, Progress], seconds: dict[str, float]) -> list[object]:
        made = planning.make(config, points, ledger, (Node(16, 2),), seconds=seconds)
        names = {identity: name for name, identity in arms.items()}
        return [names[t.id] for t in made.longest_first]

    cutout, baseline = [("cutout", m) for m in (32, 16, 8, 4, 2, 1)], ("standard", 1)
    assert order({}, {}) == [*cutout, baseline]  # by the work that the module declares: no trial has finished yet
    nearly = {arms["cutout", 32]: Progress("partial", 99)}  # what is left counts
    assert order(nearly, {}) == [*cutout[1:], baseline, cutout[0]]
    estimates = dict.fromkeys(arms.values(), 100.0)
    assert order({}, estimates | {arms["cutout", 2]: 300.0})[0] == ("cutout", 2)
    assert order({}, {arms["cutout", 2]: 300.0})[0] == ("cutout", 32)  # an estimate of one says nothing beside the rest


def test_a_declared_work_that_fails_is_told_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    made = planning.make(
        configuration.load(["problem=4"]), planning.specs(configuration.load(["problem=4"]), "", "x"), {}, ()
    )
    monkeypatch.setattr("trials.problem4.work", lambda parameters: 1 / 0)
    with pytest.raises(ModuleError, match=r"trials\.problem4\.work: ZeroDivisionError: division by zero"):
        _ = made.longest_first
    monkeypatch.setattr("trials.problem4.work", lambda parameters: -1)
    with pytest.raises(ModuleError, match=r"returned -1\.0: a number above 0"):
        _ = made.longest_first
    estimated = dataclasses.replace(made, trials=tuple(dataclasses.replace(t, seconds=1.0) for t in made.trials))
    with pytest.raises(ModuleError, match=r"returned -1\.0"):
        planning.check_work(estimated)
    monkeypatch.setattr("trials.problem4.work", lambda parameters: 1)
    planning.check_work(estimated)


def test_steps_that_fail_are_told_like_a_declared_work(monkeypatch: pytest.MonkeyPatch) -> None:
    config = configuration.load(["problem=2", "hardware=x"])
    made = planning.make(config, planning.specs(config, "", "x"), {}, ())
    monkeypatch.setattr("trials.problem2.steps", lambda parameters: parameters["nope"])
    with pytest.raises(ModuleError, match=r"trials\.problem2\.steps: KeyError: 'nope'"):
        planning.check_work(made)


def test_larger_gangs_go_before_longer_trials() -> None:
    made = plan("sweep.gpus=[1,4]", "sweep.factor=[1]", "resources.gpu=gpus", nodes=(Node(8, 4),))
    small, large = sorted(made.trials, key=lambda t: t.bundle.gpu)
    longer = dataclasses.replace(
        made, trials=tuple(dataclasses.replace(t, seconds=9 - t.bundle.gpu) for t in made.trials)
    )
    assert [t.id for t in longer.longest_first] == [large.id, small.id]


@pytest.mark.parametrize(
    ("nodes", "overrides", "room"),
    [
        ((Node(8, 2),), (), 2),
        ((Node(8, 1),), (), 1),
        ((Node(1, 4),), (), 1),  # the CPUs hold no more
        ((Node(8, 4), Node(8, 1)), (), 5),
        ((Node(8, 4), Node(8, 4)), ("resources.gpu=1", "resources.exclusive=node"), 2),
        ((Node(8, 1),), ("resources.gpu=0.5",), 2),
        ((Node(8, 0),), ("resources.gpu=0",), 8),
        ((), (), 0),
    ],
)
def test_how_many_fit_at_once(nodes: tuple[Node, ...], overrides: tuple[str, ...], room: int) -> None:
    assert plan(*(overrides or ("resources.gpu=1",)), nodes=nodes).room(nodes) == room


def test_a_fraction_of_several_gpus_is_refused() -> None:
    with pytest.raises(UsageError, match=r"resources\.gpu=1\.5"):
        plan("resources.gpu=1.5")


def test_a_timed_trial_shares_no_gpu() -> None:
    with pytest.raises(UsageError, match="timed"):
        plan("resources.gpu=0.5", "timed=true", "device=cpu")


def test_results_of_other_sources_under_one_revision_are_marked() -> None:
    config = configuration.load([f"study={COUNTING}", "sweep.factor=[1]"])
    specs = planning.specs(config, "", None)
    ledger = {specs[0][0].id: Progress("done", 3, "completed", source_digest="old")}
    assert planning.make(config, specs, ledger, [], "new").trials[0].stale
    assert not planning.make(config, specs, ledger, [], "old").trials[0].stale


def test_a_change_that_concerns_some_trials_makes_only_those_new(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {s.parameters["factor"]: s.id for s, _ in grid("sweep.factor=[1,2]")}
    monkeypatch.setattr(counting, "revision", lambda p: 2 if p["factor"] == 2 else 1, raising=False)
    after = {s.parameters["factor"]: s for s, _ in grid("sweep.factor=[1,2]")}
    assert (after[1].id, after[1].revision) == (before[1], 1)
    assert after[2].id != before[2]
    assert after[2].revision == 2


def test_problem_2_kept_its_trials_of_one_gpu() -> None:
    found = planning.specs(configuration.load(["problem=2", "sweep.gpus=[1,2]"]), "", "cpu")
    assert {(s.parameters["mode"], s.parameters["gpus"], s.revision) for s, _ in found} == {
        ("dataparallel", 1, 1), ("dataparallel", 2, 2), ("ddp", 1, 2), ("ddp", 2, 3),
    }  # fmt: skip


def test_ten_thousand_specs_are_planned_in_two_seconds() -> None:
    began = time.perf_counter()
    made = plan(f"sweep.factor={list(range(100, 200))}", f"seeds={list(range(100))}")
    assert (len(made.trials), len({t.id for t in made.trials})) == (10_000, 10_000)
    assert time.perf_counter() - began < 2
