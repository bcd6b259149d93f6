"""Where results say that they come from, without a trace in the user's checkout."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from farm import provenance


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A git tree with one committed file, taken for the farm's own."""
    (tmp_path / "file.py").write_text("1\n")
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "--quiet"], ["add", "file.py"], [*author, "commit", "--quiet", "-m", "one"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    provenance.farm_commit.cache_clear()
    yield tmp_path
    provenance.farm_commit.cache_clear()


def test_the_commit_has_a_plus_where_the_tree_was_changed(checkout: Path) -> None:
    clean = provenance.farm_commit()
    assert (len(clean), clean.isalnum()) == (12, True)
    (checkout / "file.py").write_text("2\n")
    provenance.farm_commit.cache_clear()
    assert provenance.farm_commit() == f"{clean}+"


def test_asking_for_the_commit_does_not_touch_the_index(checkout: Path) -> None:
    """`git status` writes it anew where times differ, under index.lock, which a killed driver left in the checkout."""
    index = checkout / ".git" / "index"
    os.utime(checkout / "file.py", (1, 1))
    before = index.read_bytes()
    assert not provenance.farm_commit().endswith("+")
    assert index.read_bytes() == before
