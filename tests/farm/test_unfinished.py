"""Rows of trials that have no end: beside the tables of what has finished, typed as these, and gone with the end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import counting
import pandas as pd
import pyarrow.parquet as pq
import pytest
from attempts import attempt, directory, request
from commands import COUNTING

from analysis import load
from analysis.report import write_report
from farm.attempt import Request
from farm.checks import short_path
from farm.cli import main
from farm.ledger import unfinished
from farm.ledger.export import Export, export
from farm.ledger.scan import commits, newest_first
from farm.ledger.store import Attempt
from trials.spec import Row, Spec, parameter_defaults


def rows(result: Export, table: str = "epochs") -> list[dict[str, Any]]:
    return pq.read_table(result.unfinished.directory / f"{table}.parquet").to_pylist()


def epochs(result: Export) -> list[int]:
    return [row["epoch"] for row in rows(result)]


def drained(ledger: Path, at: int, **parameters: Any) -> Request:
    """A trial that has committed each epoch up to one, from 2, and was then asked to end."""
    wanted = request(ledger, **{"epochs": 9} | parameters)
    attempt(wanted, stop_at=at - 1)
    return wanted


def newest(trial: Path) -> list[Path]:
    return newest_first(trial.glob("attempts/*"))


def test_rows_of_a_drained_trial_are_there_with_its_configuration(tmp_path: Path) -> None:
    trial = directory(drained(tmp_path, 3, factor=5))
    result = export(tmp_path, None, "counting")
    assert epochs(result) == [1, 2, 3]
    assert {(r["trial_id"], r["name"], r["config_factor"], r["config_seed"]) for r in rows(result)} == {
        (trial.name[-12:], trial.name, 5, 0)
    }
    assert (result.unfinished.trials, result.unfinished.rows) == (1, 3)


def test_its_columns_and_types_are_those_of_the_finished_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drained(tmp_path, 3, seconds=0)  # an integer where a float is declared
    attempt(request(tmp_path, factor=2, epochs=3))
    result = export(tmp_path, None, "counting")
    assert "another type" not in capsys.readouterr().err
    names = [result.tables["rows"], result.unfinished.directory / "epochs.parquet"]
    finished, own = (pq.read_schema(path) for path in names)
    assert own.equals(finished)
    assert [pd.read_parquet(path).dtypes.to_dict() for path in names] == [
        pd.read_parquet(names[0]).dtypes.to_dict()
    ] * 2


def test_a_trial_that_ends_moves_to_the_finished_table(tmp_path: Path) -> None:
    wanted = drained(tmp_path, 3)
    before = export(tmp_path, None, "counting")
    assert (epochs(before), pq.read_table(before.tables["rows"]).num_rows) == ([1, 2, 3], 0)
    attempt(wanted)
    after = export(tmp_path, None, "counting")
    assert (epochs(after), after.unfinished.trials) == ([], 0)
    assert pq.read_table(after.tables["rows"])["epoch"].to_pylist() == list(range(1, 10))


def test_a_trial_that_failed_is_there_with_what_it_committed(tmp_path: Path) -> None:
    assert attempt(request(tmp_path, epochs=5, end="failed", end_epoch=4)).how == "failed"
    assert epochs(export(tmp_path, None, "counting")) == [1, 2, 3]


def test_what_goes_on_has_its_rows_once(tmp_path: Path) -> None:
    wanted = drained(tmp_path, 3)
    attempt(wanted, stop_at=5)
    result = export(tmp_path, None, "counting")
    assert [(r["epoch"], r["attempt"]) for r in rows(result)] == [(e, 1 + (e > 3)) for e in range(1, 7)]


def test_without_a_commit_there_is_nothing_but_the_columns(tmp_path: Path) -> None:
    Attempt.claim(tmp_path, Spec(**request(tmp_path).spec), {})
    result = export(tmp_path, None, "counting")
    assert (rows(result), result.unfinished.trials) == ([], 0)
    assert pq.read_schema(result.unfinished.directory / "epochs.parquet").equals(pq.read_schema(result.tables["rows"]))


def flip(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-9] + bytes([content[-9] ^ 4]) + content[-8:])


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a flipped bit": lambda commit: flip(commit / "rows.parquet"),
    "its rows gone": lambda commit: (commit / "rows.parquet").unlink(),
    "its manifest gone": lambda commit: (commit / "manifest.json").unlink(),
    "a directory for a file": lambda commit: ((commit / "rows.parquet").unlink(), (commit / "rows.parquet").mkdir()),
    "half removed": lambda commit: [path.unlink() for path in commit.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_commit_is_passed_over(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    trial = directory(drained(tmp_path, 3))
    other = directory(drained(tmp_path, 5, factor=2)).name
    newer, older = newest(trial)
    damage(newer)
    assert len([r for r in rows(export(tmp_path, None, "counting")) if r["name"] == trial.name]) == 2
    damage(older)
    result = export(tmp_path, None, "counting")
    assert ({r["name"] for r in rows(result)}, len(rows(result)), result.damaged) == ({other}, 5, [])


def test_a_commit_that_goes_while_it_is_read_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newer, _ = newest(directory(drained(tmp_path, 3)))
    real = unfinished.read_table

    def slow(commit: Path, name: str) -> Any:
        shutil.rmtree(newer, ignore_errors=True)
        return real(commit, name)

    monkeypatch.setattr(unfinished, "read_table", slow)
    assert epochs(export(tmp_path, None, "counting")) == [1, 2]


def test_a_file_server_without_an_answer_costs_no_finished_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drained(tmp_path, 3)
    attempt(request(tmp_path, factor=2))

    def silent(commit: Path, name: str) -> Any:
        raise OSError(5, "Input/output error", str(commit / name))

    monkeypatch.setattr(unfinished, "read_table", silent)
    result = export(tmp_path, None, "counting")
    assert (epochs(result), pq.read_table(result.tables["rows"]).num_rows) == ([], 3)


def test_exports_beside_the_attempt_that_writes_have_its_rows_up_to_a_commit(tmp_path: Path) -> None:
    """Each waits for nothing and is waited for by nothing: the attempt's next commit is being written meanwhile."""
    from farm.attempt import StopFlag, run_attempt

    wanted, seen = request(tmp_path, epochs=12), []

    def beside(row: dict[str, Any]) -> None:
        result = export(tmp_path, None, "counting")
        assert pq.read_table(result.tables["rows"]).num_rows == 0
        found = epochs(result)
        assert found == list(range(1, len(found) + 1))
        seen.append((row["epoch"], len(found)))

    assert run_attempt(wanted, StopFlag(), beside, lambda claimed: "").how == "completed"
    assert [epoch for epoch, _ in seen] == list(range(1, 13))
    assert all(epoch - 1 <= found <= epoch for epoch, found in seen)
    assert not commits(directory(wanted) / "attempts" / "1")


@pytest.mark.parametrize("content", ["", "{}", "[", '{"id": "000000000000", "module": 3}'])
def test_a_trial_without_its_spec_is_left_out(tmp_path: Path, content: str) -> None:
    trial = directory(drained(tmp_path, 3))
    drained(tmp_path, 2, factor=2)
    (trial / "spec.json").write_text(content)
    assert [(r["epoch"], r["config_factor"]) for r in rows(export(tmp_path, None, "counting"))] == [(1, 2), (2, 2)]


def edited(trial: Path, change: Callable[[dict[str, Any]], object]) -> None:
    spec = json.loads((trial / "spec.json").read_text())
    change(spec["parameters"])
    (trial / "spec.json").write_text(json.dumps(spec))


def test_a_trial_older_than_a_parameter_has_it_at_its_introduced_default(tmp_path: Path) -> None:
    edited(directory(drained(tmp_path, 2)), lambda parameters: parameters.pop("gpus"))
    assert [r["config_gpus"] for r in rows(export(tmp_path, None, "counting"))] == [0.0, 0.0]


@pytest.mark.parametrize("value", ["x", 1.5, 2**70, [1, "x"], {}])
def test_a_value_of_another_type_is_null(tmp_path: Path, value: Any) -> None:
    edited(directory(drained(tmp_path, 2)), lambda parameters: parameters.update(factor=value))
    assert [r["config_factor"] for r in rows(export(tmp_path, None, "counting"))] == [None, None]


def test_a_value_that_has_another_type_now_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edited(directory(drained(tmp_path, 2)), lambda parameters: parameters.update(factor="x"))
    result = export(tmp_path, None, "counting")
    assert "column 'config_factor' has another type now" in capsys.readouterr().err
    export(tmp_path, None, "counting")
    assert capsys.readouterr().err == ""
    (result.unfinished.directory / "epochs.parquet").write_text("junk")
    export(tmp_path, None, "counting")
    assert "column 'config_factor' has another type now" in capsys.readouterr().err


def begun(ledger: Path, module: str, revision: int, parameters: Mapping[str, Any], content: Sequence[Row]) -> None:
    spec = Spec(module, parameter_defaults(module) | parameters, 0, 1, "none", "none", revision, False, None)
    Attempt.claim(ledger, spec, {}).commit(1, b"state", content)


def test_rows_of_several_tables_land_in_their_own(tmp_path: Path) -> None:
    content: list[Row] = [
        {"epoch": 1, "batch": 32, "result": "measured", "epoch_seconds": 2.5, "attempt": 1},
        {"epoch": 2, "batch": 64, "result": "oom", "attempt": 1},
        {"table": "links", "link": "all_reduce", "bytes": 1024, "seconds": 0.5, "attempt": 1},
    ]
    begun(tmp_path, "trials.problem2", 1, {"gpus": 2}, content)
    result = export(tmp_path, None, "trials.problem2")
    assert [(r["batch"], r["epoch_seconds"], r["config_gpus"]) for r in rows(result)] == [(32, 2.5, 2), (64, None, 2)]
    assert [(r["link"], r["seconds"], r["config_mode"]) for r in rows(result, "links")] == [
        ("all_reduce", 0.5, "dataparallel")
    ]
    assert (rows(result, "gpus"), result.unfinished.trials, result.unfinished.rows) == ([], 1, 3)
    for name, path in result.tables.items():
        if name not in ("trials", "attempts", "plan"):
            assert pq.read_schema(result.unfinished.directory / path.name).equals(pq.read_schema(path))


def test_what_a_killed_export_left_there_goes(tmp_path: Path) -> None:
    folder = export(tmp_path, None, "counting").unfinished.directory
    (folder / ".tmp-epochs.parquet-1").write_text("half")
    export(tmp_path, None, "counting")
    assert [path.name for path in folder.iterdir()] == ["epochs.parquet"]


def test_pruned_trials_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = tmp_path / "counting"
    drained(ledger, 3)
    before = export(ledger, None, "counting")
    monkeypatch.setattr(counting, "REVISION", 2)
    assert len(rows(before)) == 3
    assert main(["prune", f"study={COUNTING}", f"results={tmp_path}", "--yes"]) == 0
    assert rows(before) == []


@pytest.fixture
def failed(tmp_path: Path) -> list[str]:
    """Words for a study whose factor=1 completed and whose factor=2 failed after two epochs."""
    words = [f"study={COUNTING}", f"results={tmp_path}"]
    run = ["executor=inline", "commit_seconds=0", "sweep.factor=[1]", "extra=[{factor: 2, end: failed, end_epoch: 3}]"]
    assert main(["run", *words, *run]) == 1
    return words


def test_a_run_writes_it_and_an_export_says_so(
    failed: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "counting" / "export" / "unfinished"
    assert pd.read_parquet(folder / "epochs.parquet")["config_factor"].tolist() == [2, 2]
    capsys.readouterr()
    assert main(["export", *failed]) == 0
    said = capsys.readouterr().out
    assert f"unfinished: 1 trial, 2 rows in {short_path(folder)}\n" in said
    shutil.rmtree(next(t for t in (tmp_path / "counting" / "trials").iterdir() if not (t / "done").exists()))
    assert main(["export", *failed]) == 0
    assert "unfinished" not in capsys.readouterr().out


def test_analysis_has_those_of_the_plan_beside_the_finished(failed: list[str], tmp_path: Path) -> None:
    data = load.load(tmp_path / "counting")
    assert data.unfinished["epochs"]["epoch"].tolist() == [1, 2]
    assert set(data.rows["config_factor"]) == set(data.tables["epochs"]["config_factor"]) == {1}
    assert main(["export", *failed, "sweep.factor=[1]"]) == 0
    assert load.load(tmp_path / "counting").unfinished["epochs"].empty


def test_no_report_reads_it(failed: list[str], tmp_path: Path) -> None:
    def written() -> dict[Path, bytes]:
        return {p: p.read_bytes() for p in (tmp_path / "counting" / "report").rglob("*") if p.is_file()}

    assert main(["report", *failed]) == 0
    before = written()
    (tmp_path / "counting" / "export" / "unfinished" / "epochs.parquet").write_bytes(b"damaged")
    assert main(["report", *failed, "--check"]) == 0
    write_report(tmp_path / "counting", "counting")
    assert written() == before
