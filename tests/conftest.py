"""Fixtures of all tests."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import Finished, run_farm
from hypothesis import settings


@pytest.fixture
def farm(tmp_path: Path) -> Callable[..., Finished]:
    """Run `farm/run.py` (or `farm VERB`) in the test's own directory."""
    return functools.partial(run_farm, tmp_path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With pytest-xdist (`make test`): what starts Ray or Slurm goes first, one after the other; other files beside it.

    Ray and Slurm have time-outs of their own, which several of them at once on two cores would meet.
    """
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    items.sort(key=lambda item: _group(item) != "ray")


def _group(item: pytest.Item) -> str:
    """What one worker runs in a row: all that starts a Ray, all that reads the smoke ledgers, else a file."""
    if item.get_closest_marker("ray"):
        return "ray"
    return "smoke" if "smoke" in getattr(item, "fixturenames", ()) else str(item.path)


settings.register_profile("farm", deadline=None)  # the machine that runs the tests may be busy
settings.load_profile("farm")
