"""The actor's side of the fork server: find or start the node's server, start attempts, hear from them."""

from __future__ import annotations

import fcntl
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from farm.attempt import Request
from farm.ledger.lock import process_start
from farm.private import private_directory

PRELOAD = ("farm.attempt", "trials.preload")
START_SECONDS = 180.0
OLD_SECONDS = 86_400.0
STARTER = "FARM_FORKSERVER_STARTER"
STUDY_DIRECTORY = "FARM_STUDY_DIRECTORY"
"""Directory of a study's own trial module; last on the path, so that no file there hides another module (and -P: the
current directory, which may be the same, is not on the path at all)."""
ROOT = Path(__file__).resolve().parent.parent
_DETACH = 'exec "$@" < /dev/null >> "$0" 2>&1 & echo $!'
"""Shell that leaves its command behind as nobody's child: when a worker ends, Ray kills the children it had."""


def see_study_modules() -> None:
    """Make the study's own modules importable in this process, an actor or a server."""
    if (directory := os.environ.get(STUDY_DIRECTORY)) and directory not in sys.path:
        sys.path.append(directory)


def socket_path(run: str) -> Path:
    """Socket of a run's server on this node, in a directory that only this user can enter.

    The node's name is part of it: nodes that are namespaces of one machine share /tmp.
    """
    return private_directory() / f"{run}@{socket.gethostname()[:40].replace('.', '-')}.sock"


def start_server(run: str, modules: tuple[str, ...] = (), directory: Path | None = None) -> Path:
    """Start the node's server unless it runs already; does not wait until it is ready.

    `directory` holds the study's own trial module (None: $FARM_STUDY_DIRECTORY, which actors have).
    """
    path = socket_path(run)
    if directory is not None:
        os.environ[STUDY_DIRECTORY] = str(directory)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        record = path.with_suffix(".pid")
        if not _runs(record):
            path.unlink(missing_ok=True)
            _remove_old_files(path.parent)
            command = [sys.executable, "-P", "-m", "farm.forkserver", str(path), *PRELOAD, *modules]
            began = subprocess.run(
                ["/bin/sh", "-c", _DETACH, str(path.with_suffix(".log")), *command],
                env=os.environ | {"PYTHONPATH": _python_path(), STARTER: str(os.getpid())},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
                start_new_session=True,
            )
            server = int(began.stdout)
            record.write_text(f"{server} {process_start(server)}")
    return path


def _runs(record: Path) -> bool:
    """Whether the process that a .pid file names still lives (a pid alone may have been given to another)."""
    if not record.exists():
        return False
    pid, _, start = record.read_text().partition(" ")
    return process_start(int(pid or -1)) is not None and str(process_start(int(pid))) == start


def _remove_old_files(directory: Path) -> None:
    """Remove what servers left that were killed, a day ago at least: other containers' processes are not seen here."""
    for record in directory.glob("*.pid"):
        if time.time() - record.stat().st_mtime > OLD_SECONDS and not _runs(record):
            for suffix in (".sock", ".log", ".lock", ".pid"):
                record.with_suffix(suffix).unlink(missing_ok=True)


def remove_files(run: str) -> None:
    """Remove what a run's server left under /tmp."""
    own = socket_path(run)
    for path in own.parent.glob(f"{own.stem}.*"):
        path.unlink(missing_ok=True)


class ForkClient:
    """A connection to the node's fork server; one attempt at a time runs on it."""

    def __init__(self, run: str, modules: tuple[str, ...] = ()) -> None:
        self._stream = _connect(run, modules)
        self._buffer = b""

    def start(self, request: Request, environment: Mapping[str, str]) -> None:
        """Fork a child that runs the attempt."""
        self._send({"request": request.as_dict(), "environment": dict(environment)})

    def stop(self) -> None:
        """Ask the attempt to drain."""
        self._send({"stop": True})

    def messages(self, seconds: float) -> list[dict[str, Any]]:
        """What has arrived, after waiting at most `seconds` for something. Raises ConnectionError when lost."""
        if not select.select([self._stream], [], [], max(seconds, 0))[0]:
            return []
        chunk = self._stream.recv(1 << 16)
        if not chunk:
            raise ConnectionError("the node's fork server has gone")
        *whole, self._buffer = (self._buffer + chunk).split(b"\n")
        return [json.loads(line) for line in whole]

    def close(self) -> None:
        """End the connection; a child that still runs on it is killed."""
        self._stream.close()

    def _send(self, message: dict[str, Any]) -> None:
        self._stream.sendall(json.dumps(message).encode() + b"\n")


def _connect(run: str, modules: tuple[str, ...]) -> socket.socket:
    path = start_server(run, modules)
    deadline = time.monotonic() + START_SECONDS
    while True:
        stream = socket.socket(socket.AF_UNIX)
        try:
            stream.connect(str(path))
            return stream
        except (FileNotFoundError, ConnectionRefusedError):
            stream.close()
        if time.monotonic() > deadline:
            last = path.with_suffix(".log").read_text(errors="replace").strip().splitlines()[-1:]
            raise ConnectionError(f"the fork server does not answer; the last it said: {' '.join(last) or 'nothing'}")
        time.sleep(0.05)
        start_server(run, modules)


def _python_path() -> str:
    """The farm's own root, and what the environment adds."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
