"""What `farm status` says of a directory of results, and the verbs that need one of its studies."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from attempts import attempt, request
from commands import COUNTING

from farm.cli import main
from farm.ledger.lock import LedgerLock
from farm.overview import lines, overview

STUDY = f"study={COUNTING}"


@pytest.fixture
def results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A study of one's own: the last command's grid has two trials, of which one has failed; one finished before."""
    place = [STUDY, f"results={tmp_path}", "executor=inline"]
    main(["run", *place, "sweep.factor=[7]"])
    main(["run", *place, "sweep.factor=[1]", "extra=[{factor: 2, end: failed}]"])
    capsys.readouterr()
    return tmp_path


def test_every_study_has_a_line_that_says_how_to_name_it(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (results / ".cache").mkdir()
    (results / "problem3" / "trials").mkdir(parents=True)
    assert main(["status", f"results={results}"]) == 0
    head, counting, problem3 = capsys.readouterr().out.splitlines()
    assert head.split() == ["study", "done", "driver", "last", "named", "by"]
    assert counting.split()[:3] == ["counting", "1/2", "-"]
    assert counting.endswith(f"Z  {STUDY} results={results}")
    assert problem3.split() == ["problem3", "0", "-", "-", "study=problem3", f"results={results}"]


def test_a_study_that_runs_has_its_driver(tmp_path: Path) -> None:
    attempt(request(tmp_path / "counting", factor=1))
    with LedgerLock(tmp_path / "counting"):
        (study,) = overview(tmp_path)
    assert (study.finished, study.trials, study.driver and study.driver.pid) == (1, None, os.getpid())
    assert list(lines([study], []))[1].endswith("study=FILE.yaml")


def test_a_file_that_was_named_from_elsewhere_is_told(tmp_path: Path) -> None:
    (tmp_path / "mine" / "trials").mkdir(parents=True)
    (tmp_path / "mine" / "study.yaml").write_text("# farm run study=mine.yaml sweep.factor=[1]\n")
    assert list(lines(overview(tmp_path), []))[1].endswith("study=mine.yaml  (no such file here)")


def test_the_same_as_json(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", f"results={results}", "--json"]) == 0
    (study,) = json.loads(capsys.readouterr().out)
    assert (study["name"], study["finished"], study["trials"], study["words"]) == ("counting", 1, 2, [STUDY])


def test_where_nothing_is_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in (["status"], ["report"], ["why", "0123"]):
        assert main([*verb, f"results={tmp_path}"]) == 3
        assert f"{tmp_path}: no study has results there yet" in capsys.readouterr().err


@pytest.mark.parametrize("verb", [["report"], ["why", "0123"]])
def test_a_study_whose_file_is_not_at_hand_has_to_be_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: list[str]
) -> None:
    (tmp_path / "mine" / "trials").mkdir(parents=True)
    (tmp_path / "mine" / "study.yaml").write_text("# farm run study=mine.yaml\n")
    assert main([*verb, f"results={tmp_path}"]) == 3
    assert "there are results of mine (study=mine.yaml  (no such file here))" in capsys.readouterr().err


def test_a_study_of_ones_own_is_reported_and_explained_beside_the_farms(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (results / "problem3" / "trials").mkdir(parents=True)
    assert main(["report", f"results={results}"]) == 0
    said = capsys.readouterr()
    assert ("counting/report/report.md" in said.out, said.err) == (True, "")
    identity = next(results.glob("counting/trials/factor7-*")).name.rpartition("-")[2]
    assert main(["why", identity, f"results={results}"]) == 0
    assert f"({identity}) of counting is done" in capsys.readouterr().out
    assert main(["why", identity, "problem=3", f"results={results}"]) == 2
    assert f"no such trial in problem3; it is of counting: add {STUDY}" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["status", "report", "plan"])
def test_a_study_named_as_its_results_are_is_told_its_file(
    results: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    assert main([verb, "study=counting", f"results={results}"]) == 2
    assert f"problem4; the results of counting are named by {STUDY}" in capsys.readouterr().err
    assert main([verb, "study=unknown", f"results={results}"]) == 2
    assert "the results of" not in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--watch"], ["sweep.factor=[1]"]])
def test_what_needs_a_study_asks_for_it(results: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert main(["status", f"results={results}", *words]) == 2
    assert "Say which study" in capsys.readouterr().err
