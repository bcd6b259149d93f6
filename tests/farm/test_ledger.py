"""The ledger: whole or not at all, first one wins, damage is seen."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from attempts import attempt, directory, request
from hypothesis import given, settings
from hypothesis import strategies as st

from farm.attempt import End
from farm.errors import UsageError
from farm.ledger import durable, scan, schema, store, tidy
from farm.ledger.export import export
from farm.ledger.store import Attempt
from trials.spec import Row, Spec, parameter_defaults

ROWS: list[Row] = [{"epoch": 1, "train_loss": 0.5, "value": 7, "attempt": 1}]


def spec(seed: int = 0) -> Spec:
    parameters = {
        "factor": 1,
        "epochs": 3,
        "seconds": 0.0,
        "end": "completed",
        "end_epoch": 2,
        "once": False,
        "gpus": 0.0,
    }
    return Spec("counting", parameters, seed, 1, "none", "", 1, False, None)


def test_each_attempt_has_a_number_of_its_own(tmp_path: Path) -> None:
    assert [Attempt.claim(tmp_path, spec(), {}).number for _ in range(3)] == [1, 2, 3]


def with_default(monkeypatch: pytest.MonkeyPatch, **defaults: Any) -> Spec:
    """The spec of today, had the counting trial these defaults: its id is that of before."""
    known = parameter_defaults("counting") | defaults
    monkeypatch.setattr("trials.spec.parameter_defaults", lambda module: known)
    return dataclasses.replace(spec(), parameters=spec().parameters | defaults)


def test_an_attempt_does_not_go_on_with_another_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Attempt.claim(tmp_path, spec(), {})
    now = with_default(monkeypatch, seconds=0.5)
    assert now.id == first.spec.id
    Attempt.claim(tmp_path, now, {})  # there is nothing of the other value yet
    first.commit(2, b"two", ROWS)
    kept = (first.trial / "spec.json").read_bytes()
    with pytest.raises(UsageError, match=rf"seconds: its default was 0\.0 when trial {now.id} began and is 0\.5 now"):
        Attempt.claim(tmp_path, now, {})
    assert (first.trial / "spec.json").read_bytes() == kept
    wanted = dataclasses.replace(request(tmp_path), spec=now.as_dict())
    assert attempt(wanted) == End("failed", 2, "UsageError", ANY, failure="bug")
    assert [a.name for a in scan.attempt_directories(first.trial)] == ["1", "2"]


def test_a_ledger_of_before_has_the_defaults_in_its_specs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Attempt.claim(tmp_path, spec(), {})
    durable.write_directory(first.path / "commit-2", {}, {"epoch": 2})
    assert scan.progress(first.trial).parameters == spec().parameters
    durable.write_directory(first.trial / "done", {}, {"status": "completed", "epoch": 3})
    assert scan.progress(first.trial).parameters == spec().parameters
    (first.trial / "spec.json").write_text("[]")
    assert scan.progress(first.trial).parameters is None


def test_parameters_that_changed_places_find_the_trial_again(tmp_path: Path) -> None:
    """Its id is the same, and only the readable part of its name another."""
    wanted = dataclasses.replace(spec(), parameters=spec().parameters | {"factor": 2, "epochs": 5})
    moved = dataclasses.replace(wanted, parameters=dict(reversed(wanted.parameters.items())))
    first = Attempt.claim(tmp_path, wanted, {})
    first.commit(2, b"two", ROWS)
    second = Attempt.claim(tmp_path, moved, {})
    assert (second.trial, second.number) == (first.trial, 2)
    assert second.newest_commit() == store.Commit(2, b"two", ROWS)


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_of_two_directories_of_one_trial_the_done_one_counts_else_the_furthest(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    """Such as were made before directories were found by their ids."""
    for name, epoch in zip(names, (2, 3), strict=True):
        attempt = Attempt.claim(tmp_path / name, spec(), {})
        attempt.commit(epoch, b"", ROWS)
        attempt.trial.rename(attempt.trial.with_name(f"{name}-{spec().id}"))
    trials = tmp_path / "both" / "trials"
    trials.mkdir(parents=True)
    short, far = (tmp_path / name / "trials" / f"{name}-{spec().id}" for name in names)
    short, far = (path.rename(trials / path.name) for path in (short, far))
    assert store.trial_path(tmp_path / "both", spec()) == far
    assert scan.scan(tmp_path / "both")[spec().id].epoch == 3
    durable.write_directory(short / "done", {}, {"status": "completed", "epoch": 5})
    assert store.trial_path(tmp_path / "both", spec()) == short
    assert scan.scan(tmp_path / "both")[spec().id].state == "done"


def test_an_attempt_starts_from_the_newest_commit_of_any_earlier_one(tmp_path: Path) -> None:
    first, second, third = (Attempt.claim(tmp_path, spec(), {}) for _ in range(3))
    first.commit(5, b"five", ROWS)
    second.commit(3, b"three", ROWS)
    assert third.newest_commit() == store.Commit(5, b"five", ROWS)
    assert first.newest_commit() is None


def test_the_newest_two_commits_stay(tmp_path: Path) -> None:
    attempt = Attempt.claim(tmp_path, spec(), {})
    for epoch in range(1, 12):
        attempt.commit(epoch, b"state", ROWS)
    assert [scan.commit_epoch(c) for c in scan.commits(attempt.path)] == [10, 11]


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "missing": lambda f: f.unlink(),
    "empty": lambda f: f.write_bytes(b""),
    "truncated": lambda f: f.write_bytes(f.read_bytes()[:-1]),
    "flipped": lambda f: f.write_bytes(bytes([f.read_bytes()[0] ^ 1]) + f.read_bytes()[1:]),
}


@pytest.mark.parametrize("name", ["state.pt", "rows.parquet", "manifest.json"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_commit_is_passed_over_for_the_one_before(tmp_path: Path, name: str, damage: str) -> None:
    attempt = Attempt.claim(tmp_path, spec(), {})
    attempt.commit(1, b"one", ROWS)
    attempt.commit(2, b"two", ROWS)
    DAMAGE[damage](attempt.path / "commit-2" / name)
    found = Attempt.claim(tmp_path, spec(), {}).newest_commit()
    assert found is not None
    assert (found.epoch, found.state) == (1, b"one")


def test_the_first_to_finish_wins_and_the_second_is_told(tmp_path: Path) -> None:
    one, two = (Attempt.claim(tmp_path, spec(), {}) for _ in range(2))
    assert one.finish("completed", 1, ROWS, {"host": "a"}, None)
    assert not two.finish("completed", 1, ROWS, {"host": "b"}, None)
    assert not list(one.trial.glob(".tmp-*"))
    assert scan.progress(one.trial).state == "done"


@pytest.mark.parametrize(("how", "state"), [("failed", "failed"), ("interrupted", "new"), ("drained", "new")])
def test_the_last_attempts_end_is_the_trials_state(tmp_path: Path, how: str, state: str) -> None:
    attempt = Attempt.claim(tmp_path, spec(), {})
    attempt.end(how, {"error": "ValueError: x"})
    assert scan.progress(attempt.trial).state == state
    attempt.end("completed")
    assert (durable.read_json(attempt.path / "end.json") or {})["how"] == how


def test_a_row_with_an_undeclared_column_is_refused(tmp_path: Path) -> None:
    attempt = Attempt.claim(tmp_path, spec(), {})
    with pytest.raises(schema.SchemaError, match="'surprise'"):
        attempt.commit(1, b"", [{"epoch": 1, "surprise": 2}])


def test_a_row_of_the_wrong_type_is_refused(tmp_path: Path) -> None:
    with pytest.raises(schema.SchemaError):
        Attempt.claim(tmp_path, spec(), {}).commit(1, b"", [{"epoch": "one"}])


def test_a_fraction_in_a_column_of_whole_numbers_is_refused_in_a_trials_own_row(tmp_path: Path) -> None:
    attempt = Attempt.claim(tmp_path, spec(), {})
    with pytest.raises(schema.SchemaError, match=r"column 'model_parameters' is declared as int, and has 0\.75"):
        attempt.finish("completed", 1, ROWS, {"model_parameters": 0.75}, None)
    assert attempt.finish("completed", 1, ROWS, {"model_parameters": 2.0}, None)


@pytest.mark.parametrize("damage", sorted(DAMAGE))
def test_results_whose_manifest_is_damaged_give_way_to_new_ones(tmp_path: Path, damage: str) -> None:
    first, second = Attempt.claim(tmp_path, spec(), {}), Attempt.claim(tmp_path, spec(), {})
    first.finish("completed", 3, ROWS, {}, None)
    DAMAGE[damage](first.trial / "done" / "manifest.json")
    replaced = second.finish("completed", 3, ROWS, {}, None)
    readable = scan.progress(first.trial).state == "done"
    assert readable
    assert replaced == (first.trial / "damaged-1").exists()


def test_tidying_a_done_trial_leaves_no_state_behind(tmp_path: Path) -> None:
    attempt = Attempt.claim(tmp_path, spec(), {})
    attempt.commit(1, b"state", ROWS)
    (attempt.path / ".tmp-commit-2-1-ab").mkdir()
    attempt.finish("completed", 1, ROWS, {}, None)
    tidy.tidy(attempt.trial)
    assert sorted(p.name for p in attempt.path.iterdir()) == ["attempt.json"]


def test_a_spec_survives_its_directory(tmp_path: Path) -> None:
    attempt = Attempt.claim(tmp_path, spec(3), {})
    assert store.spec_of(attempt.trial) == spec(3)


OPERATIONS = ("open", "write", "fsync", "rename", "replace", "mkdir")


def crash_at(n: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make the n-th file operation of the ledger, and all after it, fail as they do when a process dies."""
    seen: list[str] = []

    def wrapped(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*arguments: Any, **options: Any) -> Any:
            seen.append(name)
            if len(seen) > n:
                raise KeyboardInterrupt(name)  # no handler of OSError may tidy up: a dead process does not either
            return real(*arguments, **options)

        return operation

    for name in OPERATIONS:
        monkeypatch.setattr(durable.os, name, wrapped(name, getattr(os, name)))
    return seen


def test_a_crash_at_any_operation_leaves_the_old_or_the_new_state(tmp_path: Path) -> None:
    for n in range(200):
        root = tmp_path / str(n)
        attempt = Attempt.claim(root, spec(), {})
        attempt.commit(1, b"one", ROWS)
        with pytest.MonkeyPatch.context() as monkeypatch:
            seen = crash_at(n, monkeypatch)
            try:
                attempt.commit(2, b"two", [*ROWS, {"epoch": 2}])
                attempt.finish("completed", 2, ROWS, {}, None)
            except KeyboardInterrupt:
                pass
        progress = scan.progress(attempt.trial)
        found = Attempt.claim(root, spec(), {}).newest_commit()
        assert found is not None
        assert (found.epoch, found.state, len(found.rows)) in [(1, b"one", 1), (2, b"two", 2)]
        assert progress.state in ("partial", "done")
        if len(seen) <= n:
            assert progress.state == "done"
            return
    pytest.fail("more operations than expected: raise the bound")


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 9), st.binary(max_size=8)), max_size=6))
def test_whatever_was_committed_the_highest_epoch_is_found(commits: list[tuple[int, bytes]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        expected: dict[int, bytes] = {}
        for epoch, state in commits:
            Attempt.claim(Path(directory), spec(), {}).commit(epoch, state, ROWS)
            expected[epoch] = state
        found = Attempt.claim(Path(directory), spec(), {}).newest_commit()
        assert (found.epoch, found.state) == max(expected.items()) if found else not expected


def test_a_ledger_of_a_thousand_finished_trials_opens_in_two_seconds(tmp_path: Path) -> None:
    for seed in range(1000):
        done = store.trial_path(tmp_path, spec(seed)) / scan.DONE
        done.mkdir(parents=True)
        (done / durable.MANIFEST).write_text('{"files": {}, "status": "completed", "epoch": 3}')
    began = time.perf_counter()
    states = scan.scan(tmp_path)
    assert time.perf_counter() - began < 2
    assert {p.state for p in states.values()} == {"done"}
    assert set(states) == {spec(seed).id for seed in range(1000)}


def test_no_flipped_bit_of_a_manifest_changes_what_it_says(tmp_path: Path) -> None:
    attempt = Attempt.claim(tmp_path, spec(), {})
    attempt.finish("completed", 3, ROWS, {"source_digest": "ab"}, None)
    path, said = attempt.trial / "done" / "manifest.json", durable.read_manifest(attempt.trial / "done")
    assert said is not None
    content = path.read_bytes()
    for bit in range(8 * len(content)):
        path.write_bytes(content[: bit // 8] + bytes([content[bit // 8] ^ 1 << bit % 8]) + content[bit // 8 + 1 :])
        found = durable.read_manifest(attempt.trial / "done")
        assert found is None or {k: found.get(k) for k in said} == said, f"bit {bit}"


def test_a_manifest_from_before_it_had_a_digest_counts(tmp_path: Path) -> None:
    attempt = Attempt.claim(tmp_path, spec(), {})
    attempt.finish("completed", 3, ROWS, {}, None)
    path = attempt.trial / "done" / "manifest.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != durable.OWN_DIGEST}))
    assert scan.progress(attempt.trial).state == "done"


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.ESTALE])
def test_an_error_of_reading_does_not_pass_for_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    attempt = Attempt.claim(tmp_path, spec(), {})
    attempt.finish("completed", 3, ROWS, {}, None)

    def refuse(path: Path) -> bytes:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(OSError, match=os.strerror(number)):
        scan.progress(attempt.trial)


def test_what_another_host_has_just_replaced_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.json").write_text("{}")
    real, errors = Path.read_bytes, [OSError(errno.ESTALE, "Stale file handle")]

    def stale_once(path: Path) -> bytes:
        if errors:
            raise errors.pop()
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", stale_once)
    assert durable.read_json(tmp_path / "x.json") == {}


def test_everything_is_synced_before_it_gets_its_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, str]] = []

    def watch(name: str, label: Callable[..., str]) -> None:
        real = getattr(os, name)
        monkeypatch.setattr(durable.os, name, lambda *a, **k: (done.append((name, label(*a))), real(*a, **k))[1])

    watch("fsync", lambda descriptor: Path(os.readlink(f"/proc/self/fd/{descriptor}")).name.split("-")[0])
    watch("rename", lambda source, target: Path(target).name)
    durable.write_directory(tmp_path / "target", {"a": b"1", "b": b"2"})
    assert done == [
        *(("fsync", name) for name in ("a", "b", "manifest.json", ".tmp")), ("rename", "target"),
        ("fsync", tmp_path.name.split("-")[0]),
    ]  # fmt: skip


def test_a_trial_whose_results_are_damaged_keeps_the_commits_of_its_next_attempt(tmp_path: Path) -> None:
    wanted = request(tmp_path, epochs=10)
    attempt(wanted)
    (directory(wanted) / "done" / "manifest.json").write_text("{}")
    attempt(wanted, stop_at=4)
    assert scan.progress(directory(wanted)).epoch >= 4
    assert (directory(wanted) / "damaged-1").is_dir()
    assert attempt(wanted).how == "completed"
    assert [r["from_epoch"] for r in scan.attempt_records(tmp_path)][-1] >= 4


def test_an_export_beside_such_an_attempt_leaves_it_alone(tmp_path: Path) -> None:
    wanted = request(tmp_path, epochs=10)
    attempt(wanted)
    running = Attempt.claim(tmp_path, Spec(**wanted.spec), {})
    (directory(wanted) / "done" / "manifest.json").write_text("{}")  # rots after the claim
    running.commit(5, b"five", ROWS)
    assert export(tmp_path, None, "counting").damaged == [directory(wanted)]
    assert scan.commits(running.path)


def test_commits_of_many_attempts_do_not_pile_up(tmp_path: Path) -> None:
    wanted = request(tmp_path, epochs=100)
    for epoch in range(3, 30, 3):
        attempt(wanted, stop_at=epoch)
    left = [c for a in scan.attempt_directories(directory(wanted)) for c in scan.commits(a)]
    assert len(left) <= 2 * store.KEPT_COMMITS
    assert scan.progress(directory(wanted)).epoch >= 27


def test_earlier_attempts_commits_stay_until_two_later_ones_are_durable(tmp_path: Path) -> None:
    first, second = (Attempt.claim(tmp_path, spec(), {}) for _ in range(2))
    first.commit(5, b"five", ROWS)
    second.commit(6, b"six", ROWS)
    assert scan.commits(first.path)
    second.commit(7, b"seven", ROWS)
    assert not scan.commits(first.path)


def test_an_error_that_passes_sets_no_results_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "PAUSE_SECONDS", 0)
    attempt(wanted := request(tmp_path))
    real, left = Path.read_bytes, {"errors": 2}

    def read_bytes(path: Path) -> bytes:
        if path.name == "rows.parquet" and left["errors"]:
            left["errors"] -= 1
            raise OSError(errno.EIO, "Input/output error", str(path))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    assert export(tmp_path, None, "counting").damaged == []
    left["errors"] = 100
    shutil.rmtree(tmp_path / "export")
    with pytest.raises(OSError, match="Input/output error"):
        export(tmp_path, None, "counting")
    assert scan.progress(directory(wanted)).state == "done"


def test_a_file_system_without_locks_still_exports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    attempt(request(tmp_path))

    def flock(file: Any, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    assert export(tmp_path, None, "counting").tables
    assert "locks no files" in capsys.readouterr().err


def test_a_claim_that_fails_is_not_repeated_at_once(tmp_path: Path) -> None:
    (tmp_path / "trials").write_text("no directory")
    wanted = dataclasses.replace(request(tmp_path), back_off_seconds=0.5)
    began = time.monotonic()
    assert attempt(wanted).failure == "storage"
    assert time.monotonic() - began >= 0.5
