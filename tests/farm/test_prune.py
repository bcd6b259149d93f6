"""farm prune: it removes what nobody counts, after asking, and nothing else."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import counting
import pytest
from attempts import attempt, directory, request
from commands import COUNTING, exported

from farm import prune
from farm.cli import main
from farm.ledger.export import export
from farm.ledger.lock import LedgerLock
from farm.ledger.store import quarantine

STUDY = f"study={COUNTING}"


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "counting"


@pytest.fixture
def pruned(ledger: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def command(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        code = main(["prune", STUDY, f"results={ledger.parent}", *words])
        found = capsys.readouterr()
        return code, found.out + found.err

    return command


def finished(ledger: Path, **parameters: Any) -> Path:
    """A trial that was drained twice before it was done."""
    wanted = request(ledger, epochs=6, **parameters)
    for stop in (1, 3):
        attempt(wanted, stop_at=stop)
    attempt(wanted)
    return directory(wanted)


def files(directory: Path) -> list[str]:
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file())


def test_a_done_trial_keeps_at_most_ten_files_however_often_it_was_tried(ledger: Path) -> None:
    wanted = dataclasses.replace(request(ledger, epochs=30), keep="weights")
    for stop in range(1, 28, 2):
        attempt(wanted, stop_at=stop)
    attempt(wanted)
    assert len(files(directory(wanted))) <= 10
    export(ledger, None, "counting")
    attempts = exported(ledger.parent, "counting", "attempts")
    assert [r["attempt"] for r in attempts] == list(range(1, len(attempts) + 1))
    assert [r["how"] for r in attempts] == ["drained"] * (len(attempts) - 1) + ["completed"]


def test_pruning_changes_no_table_but_for_the_paths_of_logs(
    ledger: Path, pruned: Callable[..., tuple[int, str]]
) -> None:
    trial = finished(ledger)
    export(ledger, None, "counting")
    tables = ("epochs", "trials", "attempts")
    before = {name: exported(ledger.parent, "counting", name) for name in tables}
    code, said = pruned("--yes")
    assert (code, "1 attempts at finished trials" in said) == (0, True)
    after = {name: exported(ledger.parent, "counting", name) for name in tables}
    for row in before["attempts"]:
        row["log_path"] = ""
    assert after == before
    assert files(trial) == ["attempts.json", *(f"done/{n}" for n in ("manifest.json", "rows.parquet", "trial.parquet")),
                            "spec.json"]  # fmt: skip
    assert pruned("--yes") == (0, "counting: nothing to remove\n")


def test_a_trial_that_is_not_done_loses_nothing(ledger: Path, pruned: Callable[..., tuple[int, str]]) -> None:
    wanted = request(ledger, epochs=6)
    attempt(wanted, stop_at=3)
    before = files(directory(wanted))
    assert pruned("--yes")[1] == "counting: nothing to remove\n"
    assert files(directory(wanted)) == before


def test_without_a_terminal_and_without_yes_nothing_goes(ledger: Path, pruned: Callable[..., tuple[int, str]]) -> None:
    before = files(finished(ledger))
    code, said = pruned()
    assert (code, "nothing was removed" in said, "--yes" in said) == (0, True, True)
    assert files(next((ledger / "trials").iterdir())) == before


@pytest.mark.parametrize(("answer", "goes"), [("y", True), ("n", False), ("", False)])
def test_on_a_terminal_it_asks(
    ledger: Path, pruned: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch, answer: str, goes: bool
) -> None:
    trial = finished(ledger)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda question: answer)
    assert pruned()[0] == 0
    assert (trial / "attempts" / "3").exists() is not goes


def test_beside_a_driver_it_is_refused(ledger: Path, pruned: Callable[..., tuple[int, str]]) -> None:
    before = files(finished(ledger))
    with LedgerLock(ledger):
        code, said = pruned("--yes")
    assert (code, "another driver works on" in said) == (3, True)
    assert files(next((ledger / "trials").iterdir())) == before


def test_damaged_results_go_once_they_have_been_made_again(
    ledger: Path, pruned: Callable[..., tuple[int, str]]
) -> None:
    trial = finished(ledger)
    quarantine(trial)
    pruned("--yes")
    assert (trial / "damaged-1" / "rows.parquet").exists()
    attempt(request(ledger, epochs=6))
    assert "1 damaged results" in pruned("--yes")[1]
    assert not (trial / "damaged-1").exists()


def test_trials_of_older_revisions_go_with_their_rows(
    ledger: Path, pruned: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = finished(ledger)
    export(ledger, None, "counting")
    monkeypatch.setattr(counting, "REVISION", 2)
    wanted = request(ledger, epochs=4)
    new = dataclasses.replace(wanted, spec=wanted.spec | {"revision": 2})
    attempt(new)
    assert "1 trials of older revisions" in pruned("--yes")[1]
    assert not old.exists()
    assert {r["trial_id"] for r in exported(ledger.parent, "counting", "epochs")} == {directory(new).name[-12:]}


def test_a_module_that_raised_the_revision_of_some_trials_keeps_the_others(
    ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(ledger)
    monkeypatch.setattr(counting, "revision", lambda p: 1, raising=False)
    monkeypatch.setattr(counting, "REVISION", 2)
    assert "revisions" not in {f.kind for f in prune.leftovers(ledger, "counting")}
    monkeypatch.setattr(counting, "revision", lambda p: 2)
    assert "revisions" in {f.kind for f in prune.leftovers(ledger, "counting")}


def test_a_flipped_revision_condemns_no_trial(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = finished(ledger)
    spec = json.loads((trial / "spec.json").read_text())
    (trial / "spec.json").write_text(json.dumps(spec | {"revision": 0}))
    assert "revisions" not in {f.kind for f in prune.leftovers(ledger, "counting")}


def test_a_flipped_type_condemns_no_trial(ledger: Path) -> None:
    trial = finished(ledger, factor=7)
    text = (trial / "spec.json").read_text()
    (trial / "spec.json").write_text(text.replace('"factor": 7', '"factor": "7"'))
    assert text != (trial / "spec.json").read_text()
    assert {f.kind for f in prune.leftovers(ledger, "counting")} == {"attempts"}


def test_trials_of_a_newer_revision_stay(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished(ledger)
    monkeypatch.setattr(counting, "REVISION", 0)
    assert "revisions" not in {f.kind for f in prune.leftovers(ledger, "counting")}


def test_numbers_of_folded_attempts_are_not_given_again(ledger: Path, pruned: Callable[..., tuple[int, str]]) -> None:
    trial = finished(ledger)
    pruned("--yes")
    quarantine(trial)
    attempt(request(ledger, epochs=6))
    export(ledger, None, "counting")
    assert [r["attempt"] for r in exported(ledger.parent, "counting", "attempts")] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 bytes"), (999, "999 bytes"), (3_400_000, "3.4 MB"), (2e15, "2000.0 TB")]
)
def test_sizes_are_told_in_powers_of_a_thousand(count: float, text: str) -> None:
    assert prune.size(count) == text


def test_without_a_ledger_it_says_so(pruned: Callable[..., tuple[int, str]]) -> None:
    assert pruned("--yes")[0] == 3


def test_attempts_whose_records_rotted_are_counted_as_lost(ledger: Path) -> None:
    trial = finished(ledger)
    (trial / "attempts.json").write_text("")
    export(ledger, None, "counting")
    attempts = exported(ledger.parent, "counting", "attempts")
    assert [(r["attempt"], r["how"]) for r in attempts] == [(1, "lost"), (2, "lost"), (3, "completed")]


def test_a_second_directory_of_a_done_trial_goes_and_its_attempts_are_counted_once(
    ledger: Path, pruned: Callable[..., tuple[int, str]]
) -> None:
    """Such as was made before directories were found by their ids, where a module's parameters had changed places."""
    attempt(request(ledger, epochs=6), stop_at=2)
    done = directory(request(ledger, epochs=6))
    twin = done.with_name(f"another-{done.name.rpartition('-')[2]}")
    shutil.copytree(done, twin)
    attempt(dataclasses.replace(request(ledger, epochs=6), directory=done.name))
    export(ledger, None, "counting")
    assert [(r["attempt"], r["how"]) for r in exported(ledger.parent, "counting", "attempts")] == [
        (1, "drained"),
        (2, "completed"),
    ]
    code, said = pruned("--yes")
    assert (code, "1 second directories of trials that are done in another" in said) == (0, True)
    assert (twin.exists(), done.exists()) == (False, True)
