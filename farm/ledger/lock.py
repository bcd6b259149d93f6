"""One driver for each ledger, also across hosts on shared storage, and after a holder's death.

The lock is a directory of numbered files. To take it is to create the next number with O_EXCL, which the
file system grants once; the holder is whoever made the highest number. Nobody ever removes the highest, so
two that find the same dead holder cannot both succeed, and a holder that was presumed dead finds a higher
number at its next heartbeat and stops.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from farm.errors import PreflightError
from farm.ledger.durable import read_json, write_file, write_new
from farm.ledger.store import now

HEARTBEAT_SECONDS = 5.0
UNCHANGED_HEARTBEATS = 3
SILENT_SECONDS = 60.0
"""Whoever only looks takes a driver elsewhere whose heartbeat is this old for dead (clocks differ a little)."""


class LedgerLock:
    """Context manager that holds a ledger's lock and refreshes its heartbeat from a thread.

    Raises `PreflightError` naming host and pid when another driver holds it. `on_lost` is called, once, when
    another driver has taken the lock over (this one was suspended so long that it was presumed dead). `run` is the
    driver's id in its attempts' records: a pid means nothing in another container, or after a reboot.
    """

    def __init__(
        self,
        root: Path,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        on_lost: Callable[[], None] = lambda: None,
        say: Callable[[str], None] = lambda text: None,
        run: str = "",
    ) -> None:
        self.directory = root / "lock"
        self.heartbeat_seconds = heartbeat_seconds
        self.lost = False
        self._on_lost = on_lost
        self._say = say
        self._me = identity() | {"run": run}
        self._beats = 0
        self._path: Path | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="ledger-lock", daemon=True)

    def __enter__(self) -> LedgerLock:
        self.directory.mkdir(parents=True, exist_ok=True)
        while self._path is None:
            number, holder = self._highest()
            if holder is not None and not holder.get("released") and self._alive(number, holder):
                raise PreflightError(
                    f"another driver works on {self.directory.parent}: pid {holder.get('pid')} on host "
                    f"{holder.get('host')}, since {holder.get('since')}"
                )
            self._path = self._create(number + 1)
            if self._path is not None and not self._held():  # others came and went while this one looked
                self._path.unlink(missing_ok=True)
                self._path = None
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if not self.lost and self._path is not None:
            try:
                self._write(released=True)
            except OSError as problem:  # the next driver finds a dead holder, which is as good
                self._say(f"lock not released: {problem}")

    def check(self) -> None:
        """Raise `PreflightError` where another driver has taken the lock over, as while this one was suspended."""
        if not self._held():
            raise PreflightError(f"another driver has taken {self.directory.parent} over; nothing was changed")

    def _highest(self) -> tuple[int, dict[str, Any] | None]:
        return newest(self.directory)

    def _create(self, number: int) -> Path | None:
        """The file of `number`, whole from the first moment (a hard link to a finished file), or None."""
        path = self.directory / f"{number}.json"
        draft = self.directory / f"draft-{secrets.token_hex(8)}"
        try:
            write_new(draft, json.dumps(self._content()).encode())
            os.link(draft, path)
        except (FileExistsError, FileNotFoundError):  # another was first, and may have removed the draft
            return None
        finally:
            draft.unlink(missing_ok=True)
        for old in self.directory.iterdir():
            if not old.stem.isdigit() or int(old.stem) < number:
                old.unlink(missing_ok=True)
        return path

    def _alive(self, number: int, holder: dict[str, Any]) -> bool:
        """On the same boot the process table decides; from elsewhere, whether the heartbeat still changes."""
        if (lives := lives_here(holder, self._me)) is not None:
            return lives
        beat = holder.get("heartbeat_seconds")
        seconds = UNCHANGED_HEARTBEATS * (beat if isinstance(beat, float) and 0 < beat < 60 else self.heartbeat_seconds)
        self._say(f"watching the heartbeat of pid {holder.get('pid')} on {holder.get('host')} for {seconds:g} s")
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            time.sleep(min(0.2, seconds / 10))
            if self._highest() != (number, holder):
                return not (self._highest()[1] or {}).get("released")
        return False

    def _beat(self) -> None:
        while not self._stop.wait(self.heartbeat_seconds):
            self._beats += 1
            try:
                if not self._held():
                    self.lost = True
                    self._on_lost()
                    return
                self._write()
            except OSError as error:  # a full disk must not look like a dead driver for long; try again
                self._say(f"heartbeat not written: {error}")

    def _held(self) -> bool:
        assert self._path is not None
        return self._highest()[0] == int(self._path.stem)

    def _content(self, released: bool = False) -> dict[str, Any]:
        return self._me | {
            "heartbeat": self._beats,
            "heartbeat_seconds": self.heartbeat_seconds,
            "released": released,
        }

    def _write(self, released: bool = False) -> None:
        assert self._path is not None
        write_file(self._path, json.dumps(self._content(released)).encode())


def newest(directory: Path) -> tuple[int, dict[str, Any] | None]:
    """The highest number in a lock's directory and what its file says ({} where it is damaged); (0, None): no lock."""
    numbers = [int(p.stem) for p in directory.glob("*.json") if p.stem.isdecimal()]
    if not numbers:
        return 0, None
    return max(numbers), read_json(directory / f"{max(numbers)}.json") or {}


def living_holder(root: Path, now_seconds: float) -> dict[str, Any] | None:
    """What the lock says of the living driver that holds it: by the process table here, by its heartbeat elsewhere."""
    number, holder = newest(root / "lock")
    if not holder or holder.get("released") or not isinstance(holder.get("pid"), int):
        return None
    alive = lives_here(holder, identity())
    if alive is None:
        try:
            alive = now_seconds - (root / "lock" / f"{number}.json").stat().st_mtime < SILENT_SECONDS
        except FileNotFoundError:  # the next driver has just taken it
            return living_holder(root, now_seconds)
    return holder if alive else None


def is_driven(root: Path) -> bool:
    """Whether a living driver other than this process holds a ledger's lock."""
    holder, me = living_holder(root, time.time()), identity()
    return holder is not None and any(holder.get(k) != me[k] for k in ("boot_id", "pid_space", "pid"))


def lives_here(holder: dict[str, Any], me: dict[str, Any]) -> bool | None:
    """Whether a lock's holder is a living process of this boot; None where only its heartbeat can tell."""
    if any(holder.get(k) != me[k] for k in ("boot_id", "pid_space")):
        return None
    pid, start = holder.get("pid"), holder.get("pid_start")
    if type(pid) is not int or type(start) is not int:  # the file is damaged
        return None
    return process_start(pid) == start


def identity() -> dict[str, Any]:
    """Who this process is, so that others can tell whether it still lives."""
    return {
        "host": socket.gethostname(),
        "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "pid_space": os.readlink("/proc/self/ns/pid"),
        "pid": os.getpid(),
        "pid_start": process_start(os.getpid()),
        "since": now(),
    }


def process_start(pid: int) -> int | None:
    """Start time of a living process in clock ticks since boot (/proc/PID/stat, field 22); None if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])
