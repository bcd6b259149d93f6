"""Wrong data, wrong places: exit 3, one line, nothing lost. And the real thing, where it is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import ROOT, Finished, exported

from farm.cli import main

REAL = Path(os.environ.get("FARM_TEST_CIFAR10", ROOT.parent / "shared" / "cifar10"))
SMOKE = ("problem=4", "profile=smoke", "data=cifar10", "executor=inline")
needs_cifar10 = pytest.mark.skipif(not REAL.is_dir(), reason="needs CIFAR-10 in ../shared or $FARM_TEST_CIFAR10")


def refused(done: Finished, *words: str) -> None:
    """The command ended with exit 3, one line on stderr that has the words, and no traceback."""
    assert done.code == 3, done.out + done.err
    assert len(done.err.strip().splitlines()) == 1, done.err
    assert all(word in done.err for word in words), done.err


def test_a_data_root_that_is_not_there(farm: Callable[..., Finished]) -> None:
    refused(farm(*SMOKE, "data_root=/nowhere"), "/nowhere")


@pytest.mark.parametrize("verb", [["plan"], ["run", "--dry-run"]])
def test_a_plan_foresees_that_the_data_are_not_there(
    verb: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*verb, *SMOKE, f"results={tmp_path}"]
    assert main([*words, "data_root=/nowhere"]) == 0
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert told[0].startswith("farm: data=cifar10: CIFAR-10: there is no folder /nowhere: ")
    assert told[0].endswith("; a run here ends with exit code 3")


@pytest.mark.parametrize("elsewhere", ["site=greene", "ray_address=up", "nodes=2"])
def test_a_plan_for_another_machine_looks_for_no_data_here(
    elsewhere: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*SMOKE[:-1], f"results={tmp_path}", "timed=false", elsewhere, "data_root=/nowhere"]
    assert main(["plan", *words]) == 0
    assert "no folder" not in capsys.readouterr().err


def test_no_data_root_says_the_ways_out(farm: Callable[..., Finished], tmp_path: Path) -> None:
    refused(farm(*SMOKE, f"data_root={tmp_path}"), "farm data fetch", "data=synthetic")


def test_a_results_directory_that_is_a_file(farm: Callable[..., Finished], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    refused(farm("problem=4", "profile=smoke", f"results={tmp_path / 'file'}"), str(tmp_path / "file"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_results_directory_that_may_not_be_written(farm: Callable[..., Finished], tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    refused(farm("problem=4", "profile=smoke", f"results={tmp_path / 'locked'}"), "cannot be written")


def test_a_results_directory_under_proc(farm: Callable[..., Finished]) -> None:
    refused(farm("problem=4", "profile=smoke", "results=/proc/farm"), "/proc/farm", "cannot be written")


@needs_cifar10
@pytest.mark.cifar10
def test_a_truncated_shard_is_named(farm: Callable[..., Finished], tmp_path: Path) -> None:
    shutil.copytree(REAL, tmp_path / "cifar10")
    shard = max((tmp_path / "cifar10").rglob("*.parquet"), key=lambda p: p.stat().st_size)
    shard.chmod(0o600)
    os.truncate(shard, shard.stat().st_size // 2)
    refused(farm(*SMOKE, f"data_root={tmp_path / 'cifar10'}"), shard.name)


@needs_cifar10
@pytest.mark.cifar10
def test_real_images_are_learned(farm: Callable[..., Finished], tmp_path: Path) -> None:
    done = farm(*SMOKE, f"data_root={REAL}", "sweep.M=[1]", "extra=[]")
    assert done.code == 0, done.err
    errors = [r["validation_error"] for r in exported(tmp_path / "results", "problem4", "epochs")]
    assert errors[-1] < 0.85
    assert errors[-1] < errors[0]
