"""A Ray of our own asks for a token that nobody else can read."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import COUNTING, ROOT, command, environment

from farm import private
from farm.private import private_directory


def test_a_token_is_new_for_each_process_closed_to_others_and_gone_with_it() -> None:
    code = (
        "from farm.private import own_token; p = own_token(); assert p == own_token(); "
        "print(p, oct(p.stat().st_mode & 0o777), len(p.read_text()), oct(p.parent.stat().st_mode & 0o777))"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
        ).stdout.split()
        for _ in range(2)
    ]
    assert [words[1:] for words in said] == [["0o600", "64", "0o700"]] * 2
    assert said[0][0] != said[1][0]
    assert not Path(said[0][0]).exists()


def test_a_link_or_a_file_in_the_directorys_place_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private, "PARENT", tmp_path)
    home, planted = tmp_path / "home", tmp_path / f"farm-{os.getuid()}"
    home.mkdir(mode=0o755)
    home.chmod(0o755)
    for target in (home, tmp_path / "nowhere"):
        planted.symlink_to(target)
        with pytest.raises(PermissionError, match="must be removed"):
            private_directory()
        planted.unlink()
    assert (home.stat().st_mode & 0o777, list(home.iterdir())) == (0o755, [])
    planted.touch()
    with pytest.raises(PermissionError, match="must be removed"):
        private_directory()


def test_a_directory_that_was_open_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private, "PARENT", tmp_path)
    assert private_directory().stat().st_mode & 0o777 == 0o700
    (tmp_path / f"farm-{os.getuid()}").chmod(0o755)
    assert private_directory().stat().st_mode & 0o777 == 0o700


KILLED = """
import os, signal
from farm.private import own_token, scratch_directory
with scratch_directory() as scratch:
    print(own_token(), scratch, flush=True)
    if os.environ.get("WAITS"):
        input()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_driver_left_the_next_one_removes_and_nothing_of_a_living_one(tmp_path: Path) -> None:
    variables = environment() | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", KILLED]
    living = subprocess.Popen(
        words, env=variables | {"WAITS": "1"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert living.stdout
        held = [Path(p) for p in living.stdout.readline().split()]
        killed, _ = (subprocess.run(words, env=variables, capture_output=True, text=True) for _ in range(2))
        left = [Path(p) for p in killed.stdout.split()]
        assert len(left) == len(held) == 2
        assert [p.exists() for p in left + held] == [False, False, True, True]
    finally:
        living.kill()
        living.communicate()


@pytest.mark.parametrize("kind", ["link", "fifo", "none", "linked directory"])
def test_what_somebody_else_may_have_put_there_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(private.tempfile, "gettempdir", lambda: str(tmp_path))
    home = tmp_path / "home"
    home.mkdir()
    (home / private.HELD).touch()
    planted = tmp_path / f"farm-tune-{os.getuid()}-{socket.gethostname()}-x"
    if kind == "linked directory":
        planted.symlink_to(home)
    else:
        planted.mkdir()
    if kind == "link":
        (planted / private.HELD).symlink_to(home / private.HELD)
    if kind == "fifo":
        os.mkfifo(planted / private.HELD)  # which an open for reading would wait at
    with private.scratch_directory() as scratch:
        assert scratch.parent == tmp_path
    assert (planted.exists(), (home / private.HELD).exists(), scratch.exists()) == (True, True, False)


@pytest.mark.ray
def test_a_local_ray_has_a_token_that_no_command_line_holds(tmp_path: Path) -> None:
    words = (f"study={COUNTING}", "cpus=1", "sweep.factor=[1]", "trial.seconds=20", f"results={tmp_path}")
    open_mode = environment() | {"RAY_AUTH_MODE": "disabled"}  # the farm does not let itself be talked out of it
    before = set(private_directory().glob("token-*"))
    run = subprocess.Popen(command(*words), env=open_mode, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.rglob("attempt.json")):
            assert time.monotonic() < deadline
            assert run.poll() is None
            time.sleep(0.2)
        (path,) = [p for p in private_directory().glob(f"token-{run.pid}-*") if p not in before]
        token = path.read_text().encode()
        lines = [p.read_bytes() for p in Path("/proc").glob("[0-9]*/cmdline") if p.exists()]
        assert not any(token in line for line in lines)
        assert any(str(path).encode() in p.read_bytes() for p in _environments_of("raylet"))
    finally:
        run.terminate()
        run.wait(timeout=60)
    assert not path.exists()


def _environments_of(name: str) -> list[Path]:
    return [
        p.with_name("environ")
        for p in Path("/proc").glob("[0-9]*/cmdline")
        if p.exists() and name in p.read_bytes().decode(errors="replace").split("\0")[0]
    ]
