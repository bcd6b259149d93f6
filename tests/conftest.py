"""Fixtures of all tests."""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import ROOT, Finished, run_farm
from hypothesis import settings

signal.signal(
    signal.SIGHUP, signal.SIG_DFL
)  # under nohup all that the tests start would ignore it, as it is to do there


@pytest.fixture
def farm(tmp_path: Path) -> Callable[..., Finished]:
    """Run `farm/run.py` (or `farm VERB`) in the test's own directory."""
    return functools.partial(run_farm, tmp_path)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With pytest-xdist (`make test`): one worker runs all files that start Ray or Slurm, first and in a row.

    Both have time-outs of their own, which several of them at once on two cores would meet. Files that read the smoke
    ledgers stay together too, since making these takes half a minute. (pytest-xdist's own groups, `--dist loadgroup`,
    do nothing under pytest 9.2.)
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid)

    config.option.loadscopereorder = False  # by number of tests, which says nothing of their time
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest row of files first."""
    items.sort(key=lambda item: group(item.nodeid) != "ray")


def group(nodeid: str) -> str:
    """What is run by one worker: `ray`, `smoke`, or a file."""
    path = nodeid.partition("::")[0]
    if path.startswith("tests/reports/"):
        return "smoke"
    return "ray" if "mark.ray" in _text(ROOT / path) else path


@functools.cache
def _text(path: Path) -> str:
    return path.read_text()


settings.register_profile("farm", deadline=None)  # the machine that runs the tests may be busy
settings.load_profile("farm")
