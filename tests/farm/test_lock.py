"""One driver for each ledger."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from farm.errors import PreflightError
from farm.ledger.lock import LedgerLock, identity, process_start


def hold(root: Path, **changes: Any) -> Path:
    """Write a lock as another driver would have left it."""
    path = root / "lock" / "1.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(identity() | {"heartbeat": 1, "heartbeat_seconds": 0.1, "released": False} | changes))
    return path


def test_the_second_driver_is_told_host_and_pid_of_the_first(tmp_path: Path) -> None:
    with LedgerLock(tmp_path), pytest.raises(PreflightError, match=f"pid {os.getpid()} on host {os.uname().nodename}"):
        LedgerLock(tmp_path).__enter__()


def test_a_released_lock_is_free(tmp_path: Path) -> None:
    for _ in range(3):
        with LedgerLock(tmp_path):
            pass
    assert len(list((tmp_path / "lock").iterdir())) == 1


def test_a_dead_holder_of_this_boot_is_replaced_at_once(tmp_path: Path) -> None:
    child = subprocess.Popen(["sleep", "60"])
    hold(tmp_path, pid=child.pid, pid_start=process_start(child.pid))
    with pytest.raises(PreflightError):
        LedgerLock(tmp_path).__enter__()
    child.kill()
    child.wait()
    with LedgerLock(tmp_path):
        pass


def test_a_pid_that_was_given_to_another_process_does_not_count(tmp_path: Path) -> None:
    hold(tmp_path, pid_start=1)
    with LedgerLock(tmp_path):
        pass


def test_a_holder_elsewhere_is_replaced_after_three_unchanged_heartbeats(tmp_path: Path) -> None:
    hold(tmp_path, boot_id="elsewhere", host="gr001")
    began = time.monotonic()
    with LedgerLock(tmp_path):
        assert time.monotonic() - began >= 0.3


def test_a_holder_elsewhere_whose_heart_beats_keeps_the_lock(tmp_path: Path) -> None:
    path = hold(tmp_path, boot_id="elsewhere", host="gr001", pid=7)
    stop = threading.Event()

    def beat() -> None:
        count = 1
        while not stop.wait(0.05):
            count += 1
            draft = path.with_suffix(".draft")
            draft.write_text(json.dumps({**json.loads(path.read_text()), "heartbeat": count}))
            draft.replace(path)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(PreflightError, match="pid 7 on host gr001"):
            LedgerLock(tmp_path).__enter__()
    finally:
        stop.set()
        thread.join()


def test_of_many_that_find_a_dead_holder_one_gets_the_lock(tmp_path: Path) -> None:
    hold(tmp_path, pid_start=1)
    barrier, outcomes = threading.Barrier(8), []

    def attempt() -> None:
        lock = LedgerLock(tmp_path)
        lock._me["pid_start"] = process_start(os.getpid())
        barrier.wait()
        try:
            lock.__enter__()
            outcomes.append(lock)
        except PreflightError:
            outcomes.append(None)

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [lock for lock in outcomes if lock is not None]
    assert len(winners) == 1
    winners[0].__exit__(None, None, None)


def test_a_holder_that_was_replaced_learns_it(tmp_path: Path) -> None:
    lost = threading.Event()
    with LedgerLock(tmp_path, heartbeat_seconds=0.05, on_lost=lost.set) as lock:
        (tmp_path / "lock" / "2.json").write_text("{}")
        assert lost.wait(5)
    assert lock.lost
    assert json.loads((tmp_path / "lock" / "2.json").read_text()) == {}


@pytest.mark.parametrize("damage", [b"", b"pid_start", b'"pid"'])
def test_a_damaged_lock_file_does_not_lock_for_ever(damage: bytes, tmp_path: Path) -> None:
    """`damage` is a key in which a bit has flipped, of a holder that is dead."""
    path = hold(tmp_path, pid=2**22 + 1)
    content = path.read_bytes()
    path.write_bytes(content.replace(damage, damage.replace(b"p", b"q", 1)) if damage else b"")
    with LedgerLock(tmp_path, heartbeat_seconds=0.05):
        pass


def test_who_comes_late_with_a_lower_number_does_not_hold_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others took 2 and 3, and 2 is gone again, between this one's look (at 1) and its claim of 2."""
    hold(tmp_path, released=True)
    late = LedgerLock(tmp_path)
    real = late._create

    def create(number: int) -> Path | None:
        monkeypatch.setattr(late, "_create", real)
        (tmp_path / "lock" / "1.json").rename(tmp_path / "lock" / "3.json")
        (tmp_path / "lock" / "3.json").write_text(json.dumps(identity() | {"released": False}))
        return real(number)

    monkeypatch.setattr(late, "_create", create)
    with pytest.raises(PreflightError, match="another driver works"):
        late.__enter__()
    assert [p.name for p in (tmp_path / "lock").glob("*.json")] == ["3.json"]


def test_a_holder_can_ask_whether_it_still_is_one(tmp_path: Path) -> None:
    with LedgerLock(tmp_path) as lock:
        lock.check()
        (tmp_path / "lock" / "9.json").write_text(json.dumps(identity()))
        with pytest.raises(PreflightError, match="has taken"):
            lock.check()
