"""Standard output whose reader has gone (`farm plan | head`), or whose disk is full."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from commands import COUNTING, ROOT, command, environment

VARIABLES = environment() | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}  # empty: what is short comes at the end
STUDY = f"study={COUNTING}"


def unread(words: list[str]) -> tuple[int, str]:
    """Exit code and standard error of a command with nobody at the other end of its pipe."""
    with subprocess.Popen(words, env=VARIABLES, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        run.stdout.close()
        said = run.stderr.read()
    return run.returncode, said


@pytest.mark.parametrize(
    ("verb", "words"),
    [("plan", []), ("plan", ["--json"]), ("plan", ["--help"]), ("status", []), ("why", ["factor=1"])],
)
def test_every_verb_ends_quietly_where_nobody_reads(tmp_path: Path, verb: str, words: list[str]) -> None:
    assert unread(command(*words, STUDY, f"results={tmp_path}", verb=verb)) == (0, "")


def test_reproduce_goes_on_where_nobody_reads() -> None:
    code = """
import sys
from farm import cli, reporting
reporting.reproduce = lambda overrides: (print("one study is done", flush=True), 75)[1]
sys.exit(cli.main(["reproduce"]))
"""
    assert unread([sys.executable, "-c", code]) == (75, "")


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    words = command("--cfg", STUDY, f"results={tmp_path}", verb="plan")
    with open("/dev/full", "w") as full:
        done = subprocess.run(words, env=VARIABLES, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 3
    assert done.stderr.startswith("farm: [Errno 28] No space left on device")
    assert done.stderr.count("\n") == 1
