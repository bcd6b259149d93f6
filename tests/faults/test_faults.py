"""The short form of the fault campaigns; the long ones are `make faults`."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from attempts import attempt, request
from commands import ROOT, environment

FAULTS = ROOT / "tests" / "faults"


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one of the campaigns."""
    command = [sys.executable, str(FAULTS / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=280)


@pytest.mark.parametrize(
    ("scene", "least"),
    [("a first run", 140), ("a run after two that died", 100), ("a run over damaged results", 135), ("farm prune", 20)],
)
def test_a_death_before_any_operation_loses_and_repeats_nothing(tmp_path: Path, scene: str, least: int) -> None:
    done = run("crash_points.py", str(tmp_path), scene)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout) >= least


def test_the_oracle_sees_an_attempt_that_is_recorded_otherwise_than_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(FAULTS)
    from faults import ends_after
    from oracle import Violation, check_ends

    wanted = dataclasses.replace(request(tmp_path), info={"driver": "123-abcdef"})
    attempt(wanted, stop_at=1)
    check_ends(tmp_path, {123: ends_after("sigterm"), 124: ends_after("")})
    for other in ("", "kill_driver", "read_error", "full_disk"):
        with pytest.raises(Violation, match=r"attempt 1 at .* is recorded as 'drained'"):
            check_ends(tmp_path, {123: ends_after(other)})


def test_a_short_campaign_finds_nothing() -> None:
    done = run("campaign.py", "--faults", "25", "--minutes", "2", "--seed", "20261123")
    assert done.returncode == 0, done.stdout + done.stderr
