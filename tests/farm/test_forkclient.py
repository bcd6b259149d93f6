"""Where a node's fork server is found, and what it does with its children."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from commands import ROOT, wait_for

from farm import forkclient
from farm.ledger.lock import process_start


def test_nodes_that_share_tmp_have_a_server_each(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = []
    for name in ("gr001", "gr002.hpc.nyu.edu", "n" * 64):
        monkeypatch.setattr("socket.gethostname", lambda name=name: name)
        paths.append(forkclient.socket_path("4242-abcdef"))
    assert len(set(paths)) == 3
    assert max(len(str(p)) for p in paths) <= 107


def test_a_run_removes_its_own_files_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "test-node")
    mine, other = (forkclient.socket_path(f"test-{n}").with_suffix(".log") for n in (1, 11))
    mine.touch()
    other.touch()
    forkclient.remove_files("test-1")
    assert (mine.exists(), other.exists()) == (False, True)
    other.unlink()


def test_the_server_is_nobodys_child_and_outlives_who_started_it() -> None:
    """Ray kills the children of a worker that ends; the server serves the others of its node too."""
    run = f"test-{os.getpid()}"
    client = forkclient.ForkClient(run)
    pid, _, start = forkclient.socket_path(run).with_suffix(".pid").read_text().partition(" ")
    server = psutil.Process(int(pid))
    assert (server.ppid() != os.getpid(), str(process_start(int(pid))) == start) == (True, True)
    client.close()
    assert psutil.wait_procs([server], timeout=60)[1] == []
    forkclient.remove_files(run)


SLOW_CHILDREN = """
import signal, sys
from pathlib import Path
from farm import forkserver
forkserver._become_child = lambda server: signal.pause()
server = forkserver.ForkServer(Path(sys.argv[1]))
print("listening", flush=True)
server.serve()
"""


def test_a_child_that_leads_no_group_yet_is_killed_with_its_connection(tmp_path: Path) -> None:
    """Its connection closes just after the fork: there is no process group of its id yet."""
    words = [sys.executable, "-c", SLOW_CHILDREN, str(tmp_path / "s")]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE) as server:
        family = [psutil.Process(server.pid)]
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"listening\n"
            with socket.socket(socket.AF_UNIX) as line:
                line.connect(str(tmp_path / "s"))
                line.sendall(b'{"request": {}}\n')
                wait_for(family[0].children)
                family += family[0].children()
            assert psutil.wait_procs(family[1:], timeout=20)[1] == []
        finally:
            for one in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
