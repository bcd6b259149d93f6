"""Why a trial is new: its inputs against those of its nearest finished relative."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from attempts import attempt, directory, request
from commands import COUNTING

from farm import config as configuration
from farm import plan as planning
from farm import provenance
from farm import study as planner
from farm import why as why_module
from farm.cli import main
from farm.command_line import is_override
from farm.errors import UsageError
from farm.ledger.scan import progress
from farm.ledger.store import trial_path
from trials.spec import Spec


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Finished: factor=1 and factor=2 of 3 epochs."""
    for factor in (1, 2):
        attempt(request(tmp_path / "counting", factor=factor, epochs=3))
    return tmp_path


def why(results: Path, capsys: pytest.CaptureFixture[str], trial: str, *overrides: str) -> list[str]:
    place = [f"study={COUNTING}", f"results={results}", "executor=inline"]
    assert main(["why", trial, *place, *overrides]) == 0
    return capsys.readouterr().out.splitlines()


def test_the_inputs_that_made_it_new_are_named(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = why(results, capsys, "factor=2", "sweep.factor=[2,3]", "trial.epochs=5")
    assert "is new" in lines[0]
    assert lines[1].startswith("nearest finished relative: factor2-")
    assert [line.split() for line in lines[2:]] == [["epochs", "5", "there", "3"]]


def test_a_raised_revision_is_explained(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for spec in results.glob("counting/trials/factor2-*/spec.json"):
        spec.write_text(json.dumps(json.loads(spec.read_text()) | {"revision": 0}))
        spec.parent.rename(spec.parent.with_name("factor2-0123456789ab"))
    (line,) = [x for x in why(results, capsys, "factor=2") if x.strip().startswith("revision")]
    assert line.split()[:4] == ["revision", "1", "there", "0"]
    assert "REVISION was raised" in line


def test_a_parameter_that_an_old_spec_lacks_is_no_difference(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for spec in results.glob("counting/trials/*/spec.json"):
        content = json.loads(spec.read_text())
        del content["parameters"]["end_epoch"]
        spec.write_text(json.dumps(content))
    assert [line.split()[0] for line in why(results, capsys, "factor=2", "trial.epochs=4")[2:]] == ["epochs"]


def test_a_done_trial_has_its_attempts(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = why(results, capsys, "factor=1", "trial.epochs=3")
    assert "is done (completed)" in lines[0]
    assert lines[1].startswith("  attempt 1 on ")


def test_a_failed_trial_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = request(tmp_path / "counting", end="failed")
    attempt(wanted)
    capsys.readouterr()
    lines = why(tmp_path, capsys, "factor=1", "trial.end=failed")
    assert "retry=failed" in lines[0]
    assert "ValueError: a bug in the trial" in lines[1]
    assert "nothing has finished" in lines[2]


def test_logs_are_found_in_a_ledger_that_was_moved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = request(tmp_path / "counting", end="failed")
    attempt(wanted)
    log = directory(wanted) / "attempts" / "1" / "log.txt"
    log.write_text("a bug")
    end = log.with_name("end.json")
    end.write_text(json.dumps(json.loads(end.read_text()) | {"log_path": "/before/log.txt"}))
    assert progress(directory(wanted)).log == str(log)
    lines = why(tmp_path, capsys, "factor=1", "trial.end=failed")
    assert lines[1].endswith("attempts/1/log.txt)")
    assert "/before" not in lines[1]


def test_the_beginning_of_an_id_is_enough(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    identity = directory(request(results / "counting", factor=2, epochs=3)).name.rpartition("-")[2]
    assert identity in why(results, capsys, identity[:6])[0]


def test_trials_of_the_whole_study_are_known_whatever_was_run_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = [f"study={COUNTING}", f"results={tmp_path}"]
    assert main(["run", *place, "executor=inline", "sweep.factor=[7]"]) == 0
    for factor, state in ((7, "done"), (2, "new")):
        identity = directory(request(tmp_path / "counting", factor=factor)).name.rpartition("-")[2]
        assert main(["why", identity, *place]) == 0
        assert f"({identity}) of counting is {state}" in capsys.readouterr().out


def test_a_trial_outside_the_grid_is_found_in_the_ledger(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    attempt(request(results / "counting", factor=9, epochs=4))
    identity = directory(request(results / "counting", factor=9, epochs=4)).name.rpartition("-")[2]
    lines = why(results, capsys, identity[:8], "trial.epochs=3")
    assert lines[0] == f"factor9-epochs4-seed0 ({identity}) of counting is done (completed), and outside the grid"
    assert lines[1].startswith("  attempt 1 on ")
    assert lines[2].startswith("nearest trial of the grid: factor=1 (")
    assert [line.split() for line in lines[3:]] == [["factor", "9", "there", "1"], ["epochs", "4", "there", "3"]]


def test_no_grid_and_no_ledger_has_it(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["why", "fffffffff", f"study={COUNTING}", f"results={results}"]) == 2
    assert "no such trial in counting" in capsys.readouterr().err


def begun(results: Path, problem: int, hardware: str) -> list[Spec]:
    """The grid of a problem on a GPU model, of which the ledger has the first trial."""
    config = configuration.load([f"problem={problem}", f"results={results}"])
    specs = [spec for spec, _ in planning.specs(config, "published", hardware)]
    path = trial_path(config.ledger, specs[0])
    path.mkdir(parents=True)
    (path / "spec.json").write_text(json.dumps(specs[0].as_dict()))
    return specs


def test_what_could_not_be_looked_at_is_said_beside_what_could(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(provenance, "gpu_models", list)
    _, (there, absent, *_), _ = (
        begun(tmp_path, *of) for of in ((1, "NVIDIA A100"), (1, "NVIDIA H200"), (4, "NVIDIA H200"))
    )
    refusal = "hardware: the results of problem1 are of NVIDIA A100, NVIDIA H200; name the one that is looked at"
    for words in ([], ["slurm.gpu_type=a100|h200"]):  # the latter refuses every grid of both studies
        assert main(["why", there.id, f"results={tmp_path}", *words]) == 0
        first, second, *rest = capsys.readouterr().out.splitlines()
        assert first.endswith(f"({there.id}) of problem1 is new")
        if words:
            assert (second.partition(":")[0], rest) == ("whether it is of the grid was not looked at", [])
        else:  # beside the grid that was run last, which has no GPU model
            assert second.startswith(
                f"it is not of the grid that was planned, and another was not looked at: {refusal}"
            )
            assert rest[0].startswith("nearest trial of the grid: adagrad")
    assert main(["why", absent.id, f"results={tmp_path}"]) == 2
    said = capsys.readouterr().err
    assert f"{absent.id}: no such trial in problem1, problem4; problem1 was not looked at whole: {refusal}" in said


@pytest.mark.parametrize("order", [1, -1])
def test_a_grid_that_was_planned_is_kept_beside_one_of_the_same_study_that_was_refused(
    results: Path, monkeypatch: pytest.MonkeyPatch, order: int
) -> None:
    configs = [configuration.load([f"study={COUNTING}", f"results={results}", f"trial.epochs={n}"]) for n in (3, 4)]
    make_plan = planner.make_plan

    def make(config: configuration.Config, *words: Any) -> planning.Plan:
        if config is configs[1]:
            raise UsageError("of several GPU models")
        return make_plan(config, *words)

    monkeypatch.setattr(planner, "make_plan", make)
    attempt(request(results / "counting", factor=9, epochs=3))
    outside = directory(request(results / "counting", factor=9, epochs=3)).name.rpartition("-")[2]
    first, _, refused, nearest, *_ = why_module.answer(configs[::order], outside)
    assert first.endswith(f"({outside}) of counting is done (completed)")
    assert refused == "it is not of the grid that was planned, and another was not looked at: of several GPU models"
    assert nearest.startswith("nearest trial of the grid: factor=")
    said = "ffffff: no such trial in counting; counting was not looked at whole: of several GPU models"
    with pytest.raises(UsageError, match=said):
        why_module.answer(configs[::order], "ffffff")


@pytest.mark.parametrize(
    ("word", "override"),
    [
        ("hardware=NVIDIA H200", True),
        ("sweep.factor=[1, 2]", True),
        ("factor=2", True),
        ("ddp weak gpus=2", False),
        ("gpus=2 workers=1", False),
        ("0f30d898364f", False),
        ("gpus=", True),
    ],
)
def test_a_label_is_told_from_an_override(word: str, override: bool) -> None:
    assert is_override(word) is override


def test_a_value_may_hold_a_space(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is done" in why(results, capsys, "factor=1", "trial.epochs=3", "title=Two words")[0]


def test_a_wrong_name_gives_the_nearest(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["why", "factor=22", f"study={COUNTING}", f"results={results}"]) == 2
    assert "nearest is factor=2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "lists"),
    [
        ((), "farm plan problem=4"),
        (("problem=4",), "farm plan problem=4"),
        (("study=counting.yaml", "results=here"), "farm plan study=counting.yaml results=here"),
        (("factor=1 epochs=2", "factor=2 epochs=2", "problem=3"), "farm plan problem=3"),
    ],
)
def test_without_one_trial_it_says_what_is_expected(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], lists: str
) -> None:
    assert main(["why", *words]) == 2
    told = capsys.readouterr().err
    assert "one trial, by its id or its label" in told
    assert f"; {lists} lists them" in told
