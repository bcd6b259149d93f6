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


settings.register_profile("farm", deadline=None)  # the machine that runs the tests may be busy
settings.load_profile("farm")
