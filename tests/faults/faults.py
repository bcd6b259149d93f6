"""The faults of a campaign. Each takes a round, runs a driver or damages the ledger, and returns when that is over."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oracle import Violation

from farm.ledger import durable, lock, store
from farm.ledger.scan import attempt_directories, commits, trial_directories

if TYPE_CHECKING:
    from campaign import Driver, Round

OPENING = ("open", "write")
OPERATIONS = ("fsync", "rename", "replace", "link", "mkdir", "unlink", "rmdir", "remove")
CODES = {0, 1, 3, 75, 130}


def on_operation(action: Callable[[int], None]) -> None:
    """Call `action(n)` before the n-th file operation of the ledger, from 0; in this process from now on.

    Operations are every change of a name and every fsync in this process, whoever asks for it (pathlib and shutil go
    through os), and what farm.ledger.durable opens and writes.
    """
    count = iter(range(10**9))

    def wrapped(real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*arguments: Any, **options: Any) -> Any:
            action(next(count))
            return real(*arguments, **options)

        return operation

    class Watched:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

    watched = Watched()
    for name in OPENING:
        setattr(watched, name, wrapped(getattr(os, name)))
    durable.os = watched  # type: ignore[assignment]
    for name in OPERATIONS:
        setattr(os, name, wrapped(getattr(os, name)))


def end(driver: Driver, seconds: float = 120) -> int:
    """Wait for a driver that should end by itself; its exit code is one of the documented."""
    code = driver.wait(seconds)
    if code is None:
        driver.signal(signal.SIGKILL)
        raise Violation("a driver hangs")
    if code not in CODES and code not in (-signal.SIGKILL, -signal.SIGTERM):
        raise Violation(f"a driver ended with {code}")
    return code


def kill_driver(round: Round) -> None:
    """kill -9 of the driver's process group at any instant"""
    driver = round.start()
    driver.wait(round.chance.uniform(0, round.longest))
    driver.signal(signal.SIGKILL)
    driver.wait(10)


def crash_in_operation(round: Round) -> None:
    """the process dies just before the n-th write, fsync, rename or mkdir"""
    n = int(round.chance.expovariate(1 / 60))

    def plant() -> None:
        on_operation(lambda i: os.kill(os.getpid(), signal.SIGKILL) if i == n else None)

    end(round.start(plant))


def _error(round: Round, number: int) -> None:
    first = int(round.chance.expovariate(1 / 60))
    last = first + round.chance.choice([1, 3, 30])

    def fail(i: int) -> None:
        if first <= i < last:
            raise OSError(number, os.strerror(number))

    end(round.start(lambda: on_operation(fail)))


def full_disk(round: Round) -> None:
    """ENOSPC from a random operation on, for a while"""
    _error(round, errno.ENOSPC)


def input_output_error(round: Round) -> None:
    """EIO from a random operation on, for a while"""
    _error(round, errno.EIO)


def read_only(round: Round) -> None:
    """the file system turns read-only, for a while"""
    _error(round, errno.EROFS)


def read_error(round: Round) -> None:
    """EIO from a random read of the ledger on, for a while"""
    first = int(round.chance.expovariate(1 / 60))
    last = first + round.chance.choice([1, 3, 30])
    ledger = round.results / "problem4"

    def plant() -> None:
        real, count = Path.read_bytes, iter(range(10**9))

        def read_bytes(path: Path) -> bytes:
            if path.is_relative_to(ledger) and first <= next(count) < last:
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
            return real(path)

        Path.read_bytes = read_bytes  # type: ignore[method-assign]

    end(round.start(plant))


def slow_file_system(round: Round) -> None:
    """every file operation takes up to 20 ms, and the driver is killed in between"""
    chance = random.Random(round.chance.random())
    driver = round.start(lambda: on_operation(lambda i: time.sleep(chance.uniform(0, 0.02))))
    driver.wait(round.chance.uniform(0, 2 * round.longest))
    driver.signal(signal.SIGKILL)
    driver.wait(10)


def _signalled(round: Round, number: int, code: int) -> None:
    driver = round.start()
    driver.wait(round.chance.uniform(0.1, max(round.longest, 0.2)))
    handled = False
    if driver.poll() is None:
        handled = _handles(driver.pid, number)
        os.kill(driver.pid, number)
    found = end(driver)
    if found not in (0, code, 3) and (handled or found != -number):
        raise Violation(f"signal {number} gave exit code {found}{' with its handler there' if handled else ''}")


def _handles(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal: not before its run begins, nor once that has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")), "0")
    return bool(int(caught, 16) >> (number - 1) & 1)


def sigterm(round: Round) -> None:
    """SIGTERM at any instant: exit 75, or 0 when all was done"""
    _signalled(round, signal.SIGTERM, 75)


def sigint(round: Round) -> None:
    """SIGINT at any instant: exit 130, or 0 when all was done"""
    _signalled(round, signal.SIGINT, 130)


def two_drivers(round: Round) -> None:
    """two drivers at once: one runs, the other is refused or finds all done"""
    drivers = [round.start(), round.start()]
    codes = sorted(end(d) for d in drivers)
    if codes not in ([0, 0], [0, 3]):
        raise Violation(f"two drivers ended with {codes}")


def stopped_driver(round: Round) -> None:
    """a driver is suspended while another comes (refused: the first lives), then killed"""
    first = round.start()
    first.wait(round.chance.uniform(0, round.longest))
    first.signal(signal.SIGSTOP)
    second = end(round.start())
    if second not in (0, 3):
        raise Violation(f"beside a suspended driver the second ended with {second}")
    first.signal(signal.SIGKILL)
    first.wait(10)


def zombie_trial(round: Round) -> None:
    """a trial whose driver died is suspended, the study is finished by another driver, and the zombie goes on"""
    ledger = round.results / "problem4"
    specs = [s for t in trial_directories(ledger) if (s := store.spec_of(t)) and not (t / "done").exists()]
    if not specs:
        return kill_driver(round)
    spec = round.chance.choice(specs)
    pid = os.fork()
    if pid == 0:
        try:
            from farm.attempt import Request, StopFlag, run_attempt

            request = Request(str(ledger), spec.as_dict(), "cpu", None, str(round.results / ".cache"), 0.0)
            run_attempt(request, StopFlag(), lambda row: None, lambda attempt: "")
        finally:
            os._exit(0)
    time.sleep(round.chance.uniform(0, round.longest / 2))
    os.kill(pid, signal.SIGSTOP)
    end(round.start())
    os.kill(pid, signal.SIGCONT)
    os.waitpid(pid, 0)
    return None


def jumping_clock(round: Round) -> None:
    """the wall clock jumps by up to ten years either way, and the driver is killed"""
    jump = round.chance.uniform(-3e8, 3e8)

    def plant() -> None:
        real, stamp = time.time, store.now
        time.time = lambda: real() + jump
        store.now = lock.now = lambda: stamp().replace("20", "19" if jump < 0 else "21", 1)  # type: ignore[attr-defined]

    driver = round.start(plant)
    driver.wait(round.chance.uniform(0, round.longest))
    driver.signal(signal.SIGKILL)
    driver.wait(10)


def torn_commit(round: Round) -> None:
    """after a kill, a file of a commit is missing, empty, cut, or has a bit flipped"""
    kill_driver(round)
    found = [
        c for t in trial_directories(round.results / "problem4") for a in attempt_directories(t) for c in commits(a)
    ]
    damage([f for c in found for f in sorted(c.iterdir())], round.chance)


def torn_results(round: Round) -> None:
    """a file of a finished trial is missing, empty, cut, or has a bit flipped; the export is lost"""
    kill_driver(round)
    found = [f for t in trial_directories(round.results / "problem4") for f in sorted((t / "done").glob("*"))]
    damage(found, round.chance)
    for table in (round.results / "problem4" / "export").glob("*.parquet"):
        table.unlink()


def torn_table(round: Round) -> None:
    """an exported table, the lock, or a small JSON file is damaged"""
    kill_driver(round)
    ledger = round.results / "problem4"
    tables = [p for p in ledger.glob("export/**/*") if p.is_file()]
    damage(sorted([*tables, *ledger.glob("trials/*/*.json")]), round.chance)
    damage(sorted(ledger.glob("lock/*.json")), round.chance)


def lock_of_another_host(round: Round) -> None:
    """the lock is held by a driver on a host that is gone"""
    kill_driver(round)
    for path in (round.results / "problem4" / "lock").glob("*.json"):
        holder = {"host": "gone", "boot_id": "another", "pid": 1, "pid_start": 1, "heartbeat_seconds": 0.05}
        path.write_text(json.dumps(holder | {"heartbeat": 3, "released": False}))


def damage(files: list[Path], chance: random.Random) -> None:
    """Damage one of the files in one of four ways."""
    if not files:
        return
    path = chance.choice(files)
    content = path.read_bytes()
    how = chance.choice(["missing", "empty", "cut", "flipped"])
    if how == "missing":
        path.unlink()
    elif how == "empty" or not content:
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(content[: chance.randrange(len(content))])
    else:
        at = chance.randrange(len(content))
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :])


FAULTS: dict[str, Callable[[Round], None]] = {
    f.__name__: f
    for f in (
        kill_driver, crash_in_operation, full_disk, input_output_error, read_error, read_only, slow_file_system,
        sigterm, sigint, two_drivers, stopped_driver, zombie_trial, jumping_clock, torn_commit, torn_results,
        torn_table, lock_of_another_host,
    )
}  # fmt: skip
UNWRITTEN = frozenset({"full_disk", "input_output_error", "read_only", "real_full_disk", "read_only_mount"})


def ends_after(fault: str) -> frozenset[str]:
    """How attempts of a driver that met a fault ("" for none) can end: kills drain none, signals lose none."""
    if fault in ("", "two_drivers"):
        return frozenset({"completed"})
    if fault in ("sigterm", "sigint"):
        return frozenset({"completed", "drained"})
    if fault == "read_error":
        return frozenset({"completed", "interrupted"})
    return frozenset({"completed", "lost"} | ({"interrupted"} if fault in UNWRITTEN else set()))


ORDERLY = frozenset({"sigterm", "sigint", "two_drivers", "read_error"})
"""After these alone each attempt has recorded its end: none counts as lost."""
