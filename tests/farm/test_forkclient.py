"""Where a node's fork server is found."""

from __future__ import annotations

import pytest

from farm import forkclient


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
