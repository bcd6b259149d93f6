"""A server that has torch imported and forks one fresh child for each attempt. One on each node, for one run.

    python -m farm.forkserver SOCKET [MODULE …]

A child costs 0.02 s where a new interpreter costs 4 s, and no attempt sees another's CUDA context, memory or
random state: the server itself never touches CUDA. A connection stands for one actor: when it closes, the
actor's child is killed. When the server dies, the kernel kills its children (PR_SET_PDEATHSIG). When the last
connection has been gone for `IDLE_SECONDS`, the server ends.

A connection carries JSON lines. To the server: {"request": …, "environment": {…}} starts an attempt,
{"stop": true} asks it to drain. From it: {"claimed": …}, {"progress": {…}}, {"ended": {…}} by the child and
{"exit": code} by the server, negative for a signal, `CHILD_FAULT` where the farm failed in the child.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from farm import provenance
from farm.errors import CHILD_FAULT
from farm.forkclient import PRELOAD, see_study_modules
from trials.parent import end_with_parent
from trials.spec import trial_module

IDLE_SECONDS = 5.0
FIRST_CONNECTION_SECONDS = 120.0


class _Connection:
    """One actor's line to the server, and the child that runs for it."""

    def __init__(self, stream: socket.socket) -> None:
        self.stream = stream
        self.buffer = b""
        self.child: int | None = None

    def lines(self) -> list[dict[str, Any]] | None:
        """Complete messages that have arrived; None when the other side has closed."""
        try:
            chunk = self.stream.recv(1 << 16)
        except ConnectionError:
            chunk = b""
        if not chunk:
            return None
        *whole, self.buffer = (self.buffer + chunk).split(b"\n")
        return [json.loads(line) for line in whole]

    def kill(self) -> None:
        """Kill the child's whole process group."""
        if self.child is not None:
            try:
                os.killpg(self.child, signal.SIGKILL)
            except ProcessLookupError:  # it has not yet become the leader of its group
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.child, signal.SIGKILL)


class ForkServer:
    """Accepts connections on a Unix socket and forks."""

    def __init__(self, path: Path) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(64)
        self.path = path
        self.connections: list[_Connection] = []
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ)
        self._woken, wake = socket.socketpair()
        wake.setblocking(False)
        self._woken.setblocking(False)
        self._wake = wake
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        self.selector.register(self._woken, selectors.EVENT_READ)

    def serve(self) -> None:
        """Work until nobody is connected any more."""
        last_seen, patience = time.monotonic(), FIRST_CONNECTION_SECONDS
        starter = int(os.environ.pop("FARM_FORKSERVER_STARTER", "0"))
        while self.connections or time.monotonic() - last_seen < patience:
            if self.connections:
                last_seen, patience, starter = time.monotonic(), IDLE_SECONDS, 0
            elif starter and not Path(f"/proc/{starter}").exists():  # it died before anybody came
                break
            for key, _ in self.selector.select(timeout=1.0):
                self._handle(key.fileobj)
            self._reap()
        self.path.unlink(missing_ok=True)

    def _handle(self, source: Any) -> None:
        if source is self.listener:
            stream, _ = self.listener.accept()
            self.connections.append(_Connection(stream))
            self.selector.register(stream, selectors.EVENT_READ)
        elif source is self._woken:
            self._woken.recv(4096)
        else:
            for connection in [c for c in self.connections if c.stream is source]:
                self._receive(connection)

    def _receive(self, connection: _Connection) -> None:
        messages = connection.lines()
        if messages is None:
            connection.kill()
            self.selector.unregister(connection.stream)
            connection.stream.close()
            self.connections.remove(connection)
            return
        for message in messages:
            if "request" in message:
                connection.child = self._fork(connection, message)
            elif message.get("stop") and connection.child is not None:
                # The attempt alone: it decides what becomes of its loaders and ranks, which SIGTERM would end at once.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(connection.child, signal.SIGTERM)

    def _fork(self, connection: _Connection, message: dict[str, Any]) -> int:
        server = os.getpid()
        child = os.fork()
        if child:
            return child
        try:
            _become_child(server)
            os.environ.update(message.get("environment", {}))
            signal.set_wakeup_fd(-1)
            self.selector.close()
            for other in [self.listener, self._woken, self._wake, *(c.stream for c in self.connections)]:
                if other is not connection.stream:
                    other.close()
            _run(connection.stream, message["request"])
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:  # whatever happened, a child never returns into the server's loop
            sys.stderr.flush()
            os._exit(CHILD_FAULT)

    def _reap(self) -> None:
        while True:
            try:
                child, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if child == 0:
                return
            for connection in self.connections:
                if connection.child == child:
                    connection.kill()  # what the attempt left behind: loaders, ranks
                    connection.child = None
                    _send(connection.stream, {"exit": os.waitstatus_to_exitcode(status)})


def _become_child(server: int) -> None:
    os.setsid()
    end_with_parent()
    if os.getppid() != server:  # it died before the line above
        os._exit(CHILD_FAULT)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's; it asks children to drain


def _run(stream: socket.socket, values: dict[str, Any]) -> None:
    from farm import failures
    from farm.attempt import Request, StopFlag, run_attempt
    from farm.ledger.store import Attempt

    stop = StopFlag()
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda *_: stop.set())

    def claimed(attempt: Attempt) -> Path:
        log = attempt.path / "log.txt"
        _redirect_output(log)
        _send(stream, {"claimed": attempt.number})
        return log

    failures.attempt_begins(values["ledger"])
    end = run_attempt(Request(**values), stop, lambda row: _send(stream, {"progress": row}), claimed)
    sys.stdout.flush()
    sys.stderr.flush()
    _send(stream, {"ended": end.__dict__})


def _redirect_output(log: Path) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def _send(stream: socket.socket, message: dict[str, Any]) -> None:
    try:
        stream.sendall(json.dumps(message, default=float).encode() + b"\n")
    except OSError:
        pass  # the actor is gone, and the server is about to kill this child


def _warm_up() -> None:
    """Do once what every child would do again: 0.5 s of an attempt."""
    import pyarrow as pa

    pa.array([0])  # imports pandas
    provenance.farm_commit()
    provenance.versions()


def main(arguments: list[str]) -> None:
    """Import what attempts need, then serve."""
    path, *modules = arguments
    os.umask(0o022)
    see_study_modules()
    for module in modules:
        if module not in PRELOAD:  # of a trial module first, so that no edit from here on goes unseen
            provenance.source_digest(module)
    for module in modules:
        trial_module(module)
    _warm_up()
    ForkServer(Path(path)).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
