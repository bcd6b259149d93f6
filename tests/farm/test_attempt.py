"""One attempt, in this process: it resumes, and ends in a record whatever the trial does."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import counting
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from attempts import attempt, directory, lose, request

from farm import attempt as attempting
from farm.attempt import End, Request, StopFlag
from farm.ledger import durable, scan
from farm.ledger import tidy as ledger_tidy
from farm.ledger.durable import read_json
from farm.ledger.schema import SchemaError
from farm.ledger.store import Attempt
from trials.spec import Context, Epoch, Outcome, Row, Spec, TrialRun, trial_module


def rows(wanted: Request) -> list[dict[str, Any]]:
    return pq.read_table(directory(wanted) / "done" / "rows.parquet").to_pylist()


def test_a_trial_that_ends_is_done_and_leaves_no_commit(tmp_path: Path) -> None:
    wanted = request(tmp_path)
    assert attempt(wanted).how == "completed"
    assert [r["epoch"] for r in rows(wanted)] == [1, 2, 3]
    assert not list(directory(wanted).glob("attempts/*/commit-*"))


def test_a_signal_that_asks_to_stop_never_waits_for_what_it_interrupts() -> None:
    before = signal.getsignal(signal.SIGALRM)
    try:
        for _ in range(300):
            stop = StopFlag()
            signal.signal(signal.SIGALRM, lambda *_, stop=stop: stop.set())
            signal.setitimer(signal.ITIMER_REAL, 0.0005)
            while not stop.is_set():
                stop.wait(0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_wait_ends_when_the_attempt_is_asked_to_stop() -> None:
    stop = StopFlag()
    threading.Timer(0.3, stop.set).start()
    began = time.monotonic()
    stop.wait(60)
    assert time.monotonic() - began < 10


def test_an_attempt_goes_on_from_the_commit_of_the_one_before(tmp_path: Path) -> None:
    stopped, whole = request(tmp_path / "a", epochs=6), request(tmp_path / "b", epochs=6)
    assert attempt(stopped, stop_at=3) == End("drained", 4)
    assert attempt(stopped).how == attempt(whole).how == "completed"
    assert [r["value"] for r in rows(stopped)] == [r["value"] for r in rows(whole)]
    assert [r["attempt"] for r in rows(stopped)] == [1, 1, 1, 1, 2, 2]


def test_a_drain_abandons_an_epoch_that_is_far_from_its_end(tmp_path: Path) -> None:
    wanted = dataclasses.replace(request(tmp_path, epochs=3, seconds=1.5), drain_seconds=0.2)
    assert attempt(wanted, stop_at=1) == End("drained", 1)


def test_a_drain_loses_no_epoch_that_was_finished(tmp_path: Path) -> None:
    """Also where commit_seconds has not passed since the last commit."""
    wanted = dataclasses.replace(request(tmp_path, 3600, epochs=4, seconds=0.6), drain_seconds=0.1)
    assert attempt(wanted, stop_at=2) == End("drained", 2)
    assert attempt(wanted).how == "completed"
    assert [r["attempt"] for r in rows(wanted)] == [1, 1, 2, 2]


def test_a_failure_loses_no_epoch_that_was_finished(tmp_path: Path) -> None:
    wanted = request(tmp_path, 3600, epochs=4, seconds=0.6, end="storage", end_epoch=3, once=True)
    wanted = dataclasses.replace(wanted, drain_seconds=0.1)
    assert attempt(wanted).how == "interrupted"
    assert attempt(wanted).how == "completed"
    assert [r["attempt"] for r in rows(wanted)] == [1, 1, 2, 2]


def test_a_state_that_takes_long_to_dump_is_not_dumped_each_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dumped: list[int] = []
    real = attempting._dump_state

    def slow(state: Any) -> bytes:
        dumped.append(state["epoch"])
        time.sleep(0.05)
        return real(state)

    monkeypatch.setattr(attempting, "_dump_state", slow)
    wanted = dataclasses.replace(request(tmp_path, 3600, epochs=4, seconds=0.6), drain_seconds=0.1)
    assert attempt(wanted, stop_at=3) == End("drained", 1)
    assert dumped == [1]


def test_a_drain_finishes_an_epoch_that_is_near_its_end(tmp_path: Path) -> None:
    wanted = dataclasses.replace(request(tmp_path, epochs=3, seconds=0.1), drain_seconds=5.0)
    assert attempt(wanted, stop_at=1) == End("drained", 2)


def test_a_drain_abandons_an_epoch_that_is_much_longer_than_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(spec: Spec, context: Context) -> TrialRun:
        yield [{"epoch": 1}], dict
        for _ in range(300):
            time.sleep(0.1)
            context.check_stop()
        raise AssertionError("waited for an epoch that does not end")

    monkeypatch.setattr(counting, "run", run)
    wanted = dataclasses.replace(request(tmp_path), drain_seconds=0.5)
    began = time.monotonic()
    assert attempt(wanted, stop_at=1) == End("drained", 1)
    assert time.monotonic() - began < 15


def test_a_drain_in_the_last_epoch_lets_the_trial_come_to_its_end(tmp_path: Path) -> None:
    assert attempt(wanted := request(tmp_path, epochs=3), stop_at=2) == End("completed", 3)
    assert scan.progress(directory(wanted)).state == "done"


def test_a_trial_that_goes_on_after_its_last_epoch_is_drained_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    yields(monkeypatch, *(([{"epoch": n}], dict) for n in range(1, 9)))
    assert attempt(request(tmp_path, epochs=3), stop_at=2) == End("drained", 4)


def test_commits_are_no_closer_than_commit_seconds(tmp_path: Path) -> None:
    wanted = request(tmp_path, commit_seconds=3600, epochs=5, end="storage", end_epoch=5)
    assert attempt(wanted).how == "interrupted"
    assert not list(directory(wanted).glob("attempts/1/commit-*"))


@pytest.mark.parametrize(
    ("end", "how", "state", "error_class"),
    [
        ("failed", "failed", "failed", "ValueError"),
        ("storage", "interrupted", "partial", "OSError"),
        ("oom", "oom", "done", "OutOfMemoryError"),
        ("diverged", "diverged", "done", ""),
    ],
)
def test_how_a_trial_ended_is_recorded(tmp_path: Path, end: str, how: str, state: str, error_class: str) -> None:
    wanted = request(tmp_path, end=end)
    attempt(wanted)
    record = read_json(directory(wanted) / "attempts" / "1" / "end.json") or {}
    assert (record["how"], record["error_class"]) == (how, error_class)
    assert scan.progress(directory(wanted)).state == state


def test_a_failure_keeps_the_last_lines_of_its_traceback(tmp_path: Path) -> None:
    end = attempt(request(tmp_path, end="failed"))
    assert "counting.py" in end.error
    assert end.error.endswith("ValueError: a bug in the trial")


def test_out_of_memory_keeps_the_rows_before_it(tmp_path: Path) -> None:
    wanted = request(tmp_path, end="oom", end_epoch=3)
    attempt(wanted)
    assert [r["epoch"] for r in rows(wanted)] == [1, 2]
    row = pq.read_table(directory(wanted) / "done" / "trial.parquet").to_pylist()[0]
    assert (row["status"], row["error"]) == ("oom", "CUDA out of memory. Tried to allocate 1 EiB.")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"surprise": 1}, "row column 'surprise' is declared neither in farm/ledger/schema.py nor by counting"),
        ({"surprise": None}, "row column 'surprise' is declared neither"),
        ({"name": "mine"}, "row column 'name' is the ledger's own; counting needs another name"),
        ({"value": 2**70}, "row column 'value' is declared as int, and has 1180591620717411303424"),
        ({"value": 0.75}, "row column 'value' is declared as int, and has 0.75"),
        ({"value": np.float32(0.75)}, "row column 'value' is declared as int, and has 0.75"),
        ({"value": math.nan}, "row column 'value' is declared as int, and has nan"),
        ({"train_loss": "0.5"}, "row column 'train_loss' is declared as float, and has '0.5'"),
        ({"train_loss": torch.zeros(2)}, "row column 'train_loss': "),
    ],
)
def test_a_row_that_does_not_fit_fails_the_trial_as_it_is_yielded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: Row, said: str
) -> None:
    """And not at the end, by which a trial that commits nothing would have lost everything."""

    def run(spec: Spec, context: Context) -> TrialRun:
        yield [{"epoch": 1} | row], None
        raise AssertionError("it went on")

    monkeypatch.setattr(counting, "run", run)
    end = attempt(wanted := request(tmp_path))
    assert (end.how, end.failure, f"SchemaError: {said}" in end.error.splitlines()[-1]) == ("failed", "bug", True)
    assert scan.progress(directory(wanted)).state == "failed"


def test_a_summary_that_nothing_declares_is_told_with_the_way_to_declare_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(spec: Spec, context: Context) -> TrialRun:
        yield [{"epoch": 1}], None
        return Outcome("completed", {"best": 0.5})

    monkeypatch.setattr(counting, "run", run)
    end = attempt(request(tmp_path))
    assert (end.how, end.failure) == ("failed", "bug")
    assert end.error.endswith(
        "SchemaError: summary column 'best' is declared neither in farm/ledger/schema.py nor by counting; "
        "SUMMARY = (Column('best', …),) there declares it"
    )


def test_a_row_keeps_the_values_that_it_had_when_it_was_yielded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(spec: Spec, context: Context) -> TrialRun:
        loss = torch.zeros(())
        for epoch in (1, 2):
            loss += 0.5
            yield [{"epoch": np.int64(epoch), "train_loss": loss, "value": 2.0, "steps": None}], None
        return Outcome("completed", {})

    monkeypatch.setattr(counting, "run", run)
    attempt(wanted := request(tmp_path))
    assert [(r["epoch"], r["train_loss"], r["value"]) for r in rows(wanted)] == [(1, 0.5, 2), (2, 1.0, 2)]


def test_out_of_memory_that_cannot_be_recorded_is_the_trials_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: object) -> None:
        raise SchemaError("a value does not fit")

    monkeypatch.setattr(Attempt, "finish", refused)
    end = attempt(wanted := request(tmp_path, end="oom"))
    assert (end.how, end.failure, "a value does not fit" in end.error) == ("failed", "bug", True)
    assert scan.progress(directory(wanted)).state == "failed"


def test_out_of_memory_that_meets_a_full_disk_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Attempt, "finish", full)
    end = attempt(request(tmp_path, end="oom"))
    assert (end.how, end.failure, end.error_class) == ("interrupted", "storage", "OSError")


def test_keep_weights_leaves_the_final_state(tmp_path: Path) -> None:
    wanted = dataclasses.replace(request(tmp_path), keep="weights")
    attempt(wanted)
    assert (directory(wanted) / "done" / "state.pt").exists()


def test_keep_weights_leaves_it_too_where_the_attempt_before_had_committed_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    states = []
    for name in ("whole", "interrupted"):
        wanted = dataclasses.replace(request(tmp_path / name), keep="weights")
        if name == "interrupted":
            with monkeypatch.context() as patch:
                patch.setattr(Attempt, "finish", full)
                assert attempt(wanted).how == "interrupted"
            assert scan.progress(directory(wanted)).epoch == 3  # of 3
        assert attempt(wanted).how == "completed"
        states.append(torch.load(directory(wanted) / "done" / "state.pt", weights_only=True))
    assert states[0] == states[1]


def test_a_done_trial_is_not_trained_again(tmp_path: Path) -> None:
    wanted = request(tmp_path)
    first = attempt(wanted)
    assert attempt(wanted) == End("completed", 3) == first
    assert len(list(scan.attempt_records(tmp_path))) == 1


@pytest.mark.parametrize("where", ["sync_directory", "tidy"])
def test_an_error_after_the_results_are_in_place_is_none_of_the_attempt(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = request(tmp_path, commit_seconds=3600)

    def fail(path: Path) -> None:
        if (directory(wanted) / "done").exists():
            raise OSError(errno.EIO, "Input/output error")

    if where == "tidy":
        monkeypatch.setattr(ledger_tidy, "attempt_directories", fail)
    else:
        monkeypatch.setattr(durable, "sync_directory", fail)
    end = attempt(wanted)
    assert (end.how, end.failure) == ("completed", "")
    assert scan.progress(directory(wanted)).state == "done"


def test_an_attempt_says_where_it_started_from(tmp_path: Path) -> None:
    wanted = request(tmp_path, epochs=5)
    attempt(wanted, stop_at=2)
    attempt(wanted)
    records = list(scan.attempt_records(tmp_path))
    assert [r["from_epoch"] for r in records] == [0, 3]
    assert [r["how"] for r in records] == ["drained", "completed"]


def seconds_of(wanted: Request) -> float:
    """As the trial's one row has them."""
    return float(pq.read_table(directory(wanted) / "done" / "trial.parquet")["seconds"][0].as_py())


def test_the_time_of_attempts_whose_end_nobody_saw_counts_up_to_their_commits(tmp_path: Path) -> None:
    wanted = request(tmp_path, epochs=12)
    for number, (stop_at, seconds) in enumerate([(2, 1000.0), (6, 200.0)], start=1):
        attempt(wanted, stop_at=stop_at)
        lose(wanted, number, seconds)
    attempt(wanted)
    assert seconds_of(wanted) == pytest.approx(1200, abs=60)


def test_after_a_commit_of_an_older_farm_the_time_of_earlier_attempts_is_that_of_their_ends(tmp_path: Path) -> None:
    wanted = request(tmp_path, epochs=12)
    attempt(wanted, stop_at=2)
    end = directory(wanted) / "attempts" / "1" / "end.json"
    end.write_text(json.dumps(json.loads(end.read_text()) | {"seconds": 1000.0}))
    attempt(wanted, stop_at=6)
    lose(wanted, 2, 200.0, "from_epoch", "earlier_seconds")
    attempt(wanted)
    assert seconds_of(wanted) == pytest.approx(1200, abs=60)


def test_a_request_for_absent_cuda_is_the_machines_failure(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    end = attempt(dataclasses.replace(request(tmp_path), device="cuda"))
    assert (end.how, "device=cpu" in end.error) == ("interrupted", True)


def yields(monkeypatch: pytest.MonkeyPatch, *epochs: Any) -> None:
    """Have the counting trial yield these, from the beginning whatever it is to go on from."""

    def run(spec: Spec, context: Context) -> Iterator[Epoch]:
        yield from epochs
        return Outcome("completed", {})

    monkeypatch.setattr(trial_module("counting"), "run", run)


def test_a_trial_that_does_not_go_on_from_its_state_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = request(tmp_path, epochs=5)
    yields(monkeypatch, *(([{"epoch": n}], dict) for n in range(1, 6)))
    assert attempt(wanted, stop_at=2).how == "drained"
    end = attempt(wanted)
    assert (end.how, scan.progress(directory(wanted)).state) == ("failed", "failed")
    assert "a row of epoch 1 after one of 3; does run go on from context.state?" in end.error


@pytest.mark.parametrize(
    ("epoch", "says"),
    [
        (([{"train_loss": 1.0}], None), "a row without its number in `epoch`"),
        (([{"epoch": 1}, {"epoch": 1}], None), "a row of epoch 1 after one of 1"),
        (([{"epoch": 0}], None), "a row of epoch 0: epochs count from 1"),
        (([{"epoch": 1}], {"epoch": 1}), "state is a function that returns the state, or None, and no dict"),
        (({"epoch": 1}, dict), "yield a list of rows and a state; a dict came where a list of rows is expected"),
        ((None, dict), "yield a list of rows and a state; None came where a list of rows is expected"),
        ((["epoch"], dict), "yield a list of rows and a state; a str came where a row, a dict, is expected"),
        ({"epoch": 1}, "yield a list of rows and a state; a dict came alone"),
        ([{"epoch": 1}], "yield a list of rows and a state; a list came alone"),
        (([{"epoch": 1}], lambda: {"model": torch.nn.Linear(1, 1)}), "the state of epoch 1 could not be loaded again"),
    ],
)
def test_a_mistake_in_what_a_trial_yields_is_told_at_once(
    epoch: Any, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    yields(monkeypatch, epoch)
    end = attempt(request(tmp_path))
    assert (end.how, end.failure) == ("failed", "bug")
    assert says in end.error


def test_a_trial_that_forgets_its_outcome_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(spec: Spec, context: Context) -> Iterator[Epoch]:
        yield [{"epoch": 1}], None

    monkeypatch.setattr(trial_module("counting"), "run", run)
    end = attempt(request(tmp_path))
    assert (end.how, end.error_class) == ("failed", "TypeError")
    assert "run has to end with `return Outcome(...)`" in end.error


@pytest.mark.parametrize("status", ["done", "failed", ""])
def test_a_trial_that_ends_in_another_way_than_there_are_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    def run(spec: Spec, context: Context) -> Iterator[Epoch]:
        yield [{"epoch": 1}], None
        return Outcome(status, {})

    monkeypatch.setattr(trial_module("counting"), "run", run)
    wanted = request(tmp_path)
    end = attempt(wanted)
    assert (end.how, scan.progress(directory(wanted)).state) == ("failed", "failed")
    assert f"Outcome({status!r}, …): one of completed, diverged, oom is expected" in end.error
