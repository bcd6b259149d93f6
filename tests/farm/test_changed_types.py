"""Columns of a trial module that have another type since its last revision: its ledger stays of use."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from commands import Finished, exported

from farm.ledger.gather import merged
from farm.ledger.schema import fits_columns
from trials.spec import Spec, parameter_defaults

STUDY = """
study: changing
module: changing
data: none
device: cpu
resources: {cpu: 1, gpu: 0}
executor: inline
"""
MODULE = """
from dataclasses import dataclass
from trials.spec import Column, Outcome, parameter

REVISION = %(revision)d
COLUMNS = (Column("score", "%(kind)s"), Column("steps_taken", "%(number)s"))
SUMMARY = (Column("grade", "%(kind)s"),)

@dataclass(frozen=True)
class Parameters:
    size: %(kind)s = parameter(%(value)r, "size")
    width: %(number)s = parameter(%(number)s(1), "width")

def run(spec, context):
    yield [{"epoch": 1, "score": %(value)r, "steps_taken": %(number)s(2)}], None
    return Outcome("completed", {"grade": %(value)r})
"""


@pytest.fixture
def revise(tmp_path: Path) -> Callable[..., None]:
    (tmp_path / "changing.yaml").write_text(STUDY)

    def write(revision: int, value: str | float, number: str) -> None:
        words = {"revision": revision, "value": value, "kind": type(value).__name__, "number": number}
        (tmp_path / "changing.py").write_text(MODULE % words)

    return write


@pytest.fixture
def command(farm: Callable[..., Finished]) -> Callable[..., Finished]:
    """A verb on the study that `revise` writes; no bytecode, or an edit in the same second would go unseen."""

    def command(verb: str, *words: str) -> Finished:
        return farm("study=changing.yaml", *words, verb=verb, variables={"PYTHONDONTWRITEBYTECODE": "1"})

    return command


def test_what_is_of_no_use_any_more_is_null_and_told_once(
    command: Callable[..., Finished], tmp_path: Path, revise: Callable[..., None]
) -> None:
    revise(1, "good", "int")
    assert command("run").code == 0
    done = {p: p.read_bytes() for p in tmp_path.glob("results/changing/trials/*/done/*")}
    revise(2, 0.5, "float")
    plan = command("plan")
    assert (plan.code, plan.err) == (0, "")
    run = command("run")
    told = [line for line in run.err.splitlines() if "has another type now" in line]
    assert (run.code, len(told), "farm prune" in told[0]) == (0, 3, True)
    assert [line.split("'")[1] for line in told] == ["config_size", "grade", "score"]
    assert command("export").err == ""
    expected: dict[str, list[Any]] = {
        "trials": [(None, None, 1.0, 1), (0.5, 0.5, 1.0, 2)],
        "epochs": [(None, None, 2.0, 1), (0.5, 0.5, 2.0, 2)],
    }
    for table, own in (("trials", ("grade", "config_width")), ("epochs", ("score", "steps_taken"))):
        rows = exported(tmp_path / "results", "changing", table)
        names = (own[0], "config_size", own[1], "config_revision")
        assert sorted((tuple(r[n] for n in names) for r in rows), key=lambda r: r[-1]) == expected[table]
    assert {p: p.read_bytes() for p in done} == done


def test_types_that_an_unfinished_trial_does_not_have_are_told_by_the_first_export(
    farm: Callable[..., Finished], tmp_path: Path, revise: Callable[..., None]
) -> None:
    def command(verb: str) -> Finished:
        return farm("study=changing.yaml", "commit_seconds=0", verb=verb, variables={"PYTHONDONTWRITEBYTECODE": "1"})

    revise(1, "good", "int")
    module = tmp_path / "changing.py"
    text = module.read_text().replace("], None", "], dict").replace("    return Outcome(", "    raise ValueError(")
    module.write_text(text)
    assert command("run").code == 1
    assert [command("export").err for _ in range(2)] == ["", ""]
    revise(2, 0.5, "float")
    first, second = (command("export").err for _ in range(2))
    assert [line.split("'")[1] for line in first.splitlines()] == ["config_size", "score"]
    assert second == ""


def test_values_that_a_type_lost_come_back_with_it(
    farm: Callable[..., Finished], tmp_path: Path, revise: Callable[..., None]
) -> None:
    for revision, value in ((1, "good"), (2, 0.5), (3, "bad")):
        revise(revision, value, "int")
        assert farm("study=changing.yaml", variables={"PYTHONDONTWRITEBYTECODE": "1"}).code == 0
    rows = exported(tmp_path / "results", "changing", "trials")
    assert sorted((r["config_revision"], r["grade"]) for r in rows) == [(1, "good"), (2, "0.5"), (3, "bad")]


def test_what_has_parameters_of_other_types_is_in_no_report_and_can_be_pruned(
    command: Callable[..., Finished], tmp_path: Path, revise: Callable[..., None]
) -> None:
    revise(1, "good", "int")
    command("run", "sweep.size=[bad,worse]")
    old = set(tmp_path.glob("results/changing/trials/*"))
    revise(0, 0.5, "int")
    command("prune", "--yes")
    assert old == set(tmp_path.glob("results/changing/trials/*"))  # of a newer revision than the checkout's
    revise(1, 0.5, "int")
    assert command("run", "sweep.size=[0.5,1.5]").code == 0  # 0.5 is the default, and so no part of the id
    report = command("report")
    assert (report.code, command("export").code, report.err) == (0, 0, "")
    assert {r["config_size"] for r in exported(tmp_path / "results", "changing", "plan")} == {0.5, 1.5}
    assert "2 trials with parameters of other types" in command("prune", "--yes").out
    assert not old & set(tmp_path.glob("results/changing/trials/*"))
    assert {r["config_size"] for r in exported(tmp_path / "results", "changing", "trials")} == {0.5, 1.5}


@pytest.mark.parametrize(
    ("parameters", "fits"),
    [
        ({}, True),
        ({"seconds": 1}, True),  # as a module's `resolve` may put it
        ({"factor": 1.5}, False),
        ({"factor": "1"}, False),
        ({"factor": True}, False),
        ({"factor": 2**70}, False),
        ({"gone": "x"}, True),
    ],
)
def test_a_spec_fits_where_its_values_are_kept_as_they_are(parameters: dict[str, Any], fits: bool) -> None:
    values = parameter_defaults("counting") | parameters
    assert fits_columns(Spec("counting", values, 0, 1, "none", "none", 1, False, None)) is fits


def test_results_of_another_default_pass_for_no_others(
    command: Callable[..., Finished], tmp_path: Path, revise: Callable[..., None]
) -> None:
    def planned() -> list[tuple[Any, Any]]:
        return [(r["config_size"], r["state"]) for r in exported(tmp_path / "results", "changing", "plan")]

    revise(1, 1.5, "int")
    assert command("run").code == 0
    revise(1, 5.5, "int")
    for verb, words in (("run", ()), ("plan", ()), ("submit", ("site=greene", "--dry-run"))):
        refused = command(verb, *words)
        assert (refused.code, len(refused.err.splitlines())) == (2, 1), refused.err
        assert refused.err.startswith("farm: size: its default was 1.5 when trial ")
        assert refused.err.endswith(
            "began and is 5.5 now; put the default back and use trial.size=5.5, or raise REVISION\n"
        )
    for verb in ("status", "export", "report"):
        assert (command(verb).code, command(verb).err) == (0, "")
        assert planned() == [(1.5, "done")]
    (identity,) = {r["trial_id"] for r in exported(tmp_path / "results", "changing", "plan")}
    assert "size: its default was 1.5" in command("why", identity).out
    revise(1, 1.5, "int")
    assert command("run", "trial.size=5.5").code == 0
    assert sorted(r["config_size"] for r in exported(tmp_path / "results", "changing", "trials")) == [1.5, 5.5]
    revise(2, 5.5, "int")
    assert command("run").code == 0
    assert planned() == [(5.5, "done")]


def test_a_default_of_another_type_is_shown_as_none(
    command: Callable[..., Finished], tmp_path: Path, revise: Callable[..., None]
) -> None:
    revise(1, "good", "int")
    assert command("run").code == 0
    revise(1, 0.5, "int")
    assert "size: its default was 'good' when trial" in command("run").err
    assert command("report").code == command("status").code == 0
    assert [r["config_size"] for r in exported(tmp_path / "results", "changing", "plan")] == [None]


WAYS = """
from dataclasses import dataclass
from typing import Optional, Union
from trials.spec import Outcome, parameter

REVISION = 1

@dataclass
class Parameters:
    rate: int | float = parameter(2, "")
    share: Optional[float] = parameter(0.5, "")
    either: Union[int, float, None] = parameter(None, "")
    on: "bool | None" = parameter(True, "")
    name: Optional[str] = parameter(None, "")

def run(spec, context):
    yield [{"epoch": 1}], None
    return Outcome("completed", {})
"""


def test_every_way_to_write_a_type_gives_its_column(farm: Callable[..., Finished], tmp_path: Path) -> None:
    (tmp_path / "changing.yaml").write_text(STUDY)
    (tmp_path / "changing.py").write_text(WAYS)
    assert farm("study=changing.yaml", "sweep.rate=[2,0.5]", "sweep.either=[null,0.25]").code == 0
    found = [
        {k: r[f"config_{k}"] for k in ("rate", "share", "either", "on", "name")}
        for r in exported(tmp_path / "results", "changing", "trials")
    ]
    assert {(r["rate"], r["either"]) for r in found} == {(2.0, None), (2.0, 0.25), (0.5, None), (0.5, 0.25)}
    assert all((r["share"], r["on"], r["name"]) == (0.5, True, None) for r in found)


@pytest.mark.parametrize(
    ("values", "kind", "found"),
    [
        ([1, 2], pa.float64(), [1.0, 2.0]),
        ([1.0], pa.int64(), [1]),
        ([1.5], pa.int64(), [None]),
        ([2**60 + 1], pa.float64(), [None]),
        ([5], pa.bool_(), [None]),
        ([0.5, None], pa.string(), ["0.5", None]),
        (["0.5"], pa.float64(), [0.5]),
        (["0.5", "x"], pa.float64(), [None, None]),
        ([True], pa.string(), ["true"]),
    ],
)
def test_a_column_is_cast_where_it_loses_nothing(values: list[Any], kind: pa.DataType, found: list[Any]) -> None:
    misfits: set[str] = set()
    assert merged([pa.table({"a": values})], {"a": kind}, misfits)["a"].to_pylist() == found
    assert misfits == ({"a"} if found[0] is None else set())


def test_what_is_declared_no_more_and_had_two_types_is_text() -> None:
    tables = [pa.table({"a": ["x"]}), pa.table({"a": [0.5]}), pa.table({"b": [1]})]
    assert merged(tables, {}, set()).to_pydict() == {"a": ["x", "0.5", None], "b": [None, None, 1]}


RENAMED = """
from dataclasses import dataclass
from trials.spec import Outcome, parameter

REVISION = %(revision)d

@dataclass(frozen=True)
class Parameters:
%(parameters)s

def run(spec, context):
    yield [{"epoch": 1, "train_loss": 0.5}], dict
    if spec.parameters.get("fails"):
        raise ValueError("a bug")
    return Outcome("completed", {})
"""


@pytest.fixture
def declare(farm: Callable[..., Finished], tmp_path: Path) -> Callable[..., Callable[..., Finished]]:
    """Write the module with these parameters and their defaults; returns what runs a command of its study."""
    (tmp_path / "changing.yaml").write_text(STUDY)

    def command(verb: str, *words: str) -> Finished:
        return farm("study=changing.yaml", *words, verb=verb, variables={"PYTHONDONTWRITEBYTECODE": "1"})

    def write(revision: int = 1, **parameters: Any) -> Callable[..., Finished]:
        lines = [f"    {k}: {type(v).__name__} = parameter({v!r}, '')" for k, v in parameters.items()]
        text = RENAMED % {"revision": revision, "parameters": "\n".join(lines)}
        (tmp_path / "changing.py").write_text(text)
        return command

    return write


@pytest.mark.parametrize("export_before", [True, False])
def test_what_a_renamed_parameter_was_nobody_makes_up(
    declare: Callable[..., Callable[..., Finished]], tmp_path: Path, export_before: bool
) -> None:
    assert declare(number=2.0)("run", "sweep.number=[2.0,9.0]").code == 0
    if not export_before:
        shutil.rmtree(tmp_path / "results" / "changing" / "export")
    command = declare(value=2.0)
    told = (
        "changing: 2 finished trials began with a parameter `number` that is no more; export/ has them with "
        "config_value empty; raise REVISION if results change\n"
    )
    assert command("plan", "sweep.value=[4.0,9.0]").err == told
    run = command("run", "sweep.value=[4.0,9.0]")
    assert (run.code, run.err.count(told)) == (0, 1)
    expected = [("4.0", "None"), ("9.0", "None"), ("None", "2.0"), ("None", "9.0")]
    for verb in ("export", "report"):  # what the run has exported, and again with nothing new
        for table in ("epochs", "trials"):
            rows = exported(tmp_path / "results", "changing", table)
            assert sorted((str(r["config_value"]), str(r["config_number"])) for r in rows) == expected
        assert command(verb).code == 0
    assert declare(revision=2, value=2.0)("plan", "sweep.value=[4.0,9.0]").err == ""


def test_a_parameter_that_was_added_is_at_its_default_and_one_that_was_removed_is_kept(
    declare: Callable[..., Callable[..., Finished]], tmp_path: Path
) -> None:
    assert declare(number=2.0)("run", "sweep.number=[2.0,9.0]").code == 0
    added = declare(number=2.0, scale=1)("run", "sweep.number=[2.0,9.0]", "trial.scale=3")
    removed = declare(number=2.0)("run", "sweep.number=[2.0,9.0]")
    assert (added.code, added.err, removed.code, removed.err) == (0, "", 0, "")
    for table in ("epochs", "trials"):
        rows = exported(tmp_path / "results", "changing", table)
        found = sorted((r["config_number"], r["config_scale"]) for r in rows)
        assert found == [(2.0, 1), (2.0, 3), (9.0, 1), (9.0, 3)]


def test_a_renamed_parameter_of_an_unfinished_trial_is_kept_too(
    declare: Callable[..., Callable[..., Finished]], tmp_path: Path
) -> None:
    assert declare(number=2.0, fails=False)("run", "trial.number=9.0", "trial.fails=true", "commit_seconds=0").code == 1
    assert declare(value=2.0, fails=False)("export").code == 0
    (row,) = exported(tmp_path / "results", "changing", "unfinished/epochs")
    assert (row["config_value"], row["config_number"], row["config_fails"]) == (None, 9.0, True)


@pytest.mark.parametrize(("default", "then"), [(5, "another"), (6, "6")])
def test_an_id_that_a_default_has_formed_otherwise_is_explained(
    declare: Callable[..., Callable[..., Finished]], tmp_path: Path, default: int, then: str
) -> None:
    """The study names the value, so that the trial is another and no default is amiss."""
    assert declare(number=2.0, epochs=default)("run", "trial.epochs=6").code == 0
    (done,) = {r["trial_id"] for r in exported(tmp_path / "results", "changing", "trials")}
    now = 11 - default
    command = declare(number=2.0, epochs=now)
    plan = command("plan", "trial.epochs=6", "--json")
    ((identity, state),) = ((t["id"], t["state"]) for t in json.loads(plan.out)["trials"])
    assert (plan.err, state) == ("", "new")
    for wanted in (identity, done):
        last = command("why", wanted, "trial.epochs=6").out.splitlines()[-1]
        said = f"nothing but how the id was formed: the default of `epochs` was {then} when it began and is {now} now"
        assert last.endswith(f"differs in {said}")
