"""Nothing that others can write is unpickled."""

from __future__ import annotations

import ast
import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from attempts import attempt, directory, request
from commands import ROOT

from farm.ledger.store import Attempt
from trials.spec import Spec

PICKLES = {"pickle", "cloudpickle", "dill", "shelve", "joblib", "marshal"}


def calls() -> Iterator[tuple[str, str, set[str]]]:
    """(file, function, keyword=constant) of every call in the farm, the trials and the analysis."""
    for package in ("farm", "trials", "analysis"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call):
                    words = {ast.unparse(k) for k in node.keywords}
                    yield path.relative_to(ROOT).as_posix(), ast.unparse(node.func), words


def test_states_are_loaded_as_weights_only() -> None:
    loads = [(file, words) for file, name, words in calls() if name == "torch.load"]
    assert loads
    assert [file for file, words in loads if not any(w.endswith("=True") and "weights_only" in w for w in words)] == []


def test_no_module_that_unpickles_is_imported() -> None:
    found = {
        (path.name, alias.name)
        for package in ("farm", "trials", "analysis")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
        if {alias.name.split(".")[0], str(getattr(node, "module", "")).split(".")[0]} & PICKLES
    }
    assert found == set()


def test_arrays_are_loaded_without_pickles() -> None:
    assert [file for file, name, words in calls() if "allow_pickle" in str(words)] == []


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("whole", [True, False])
def test_a_commit_that_somebody_else_wrote_runs_nothing(tmp_path: Path, whole: bool) -> None:
    marker, sink = tmp_path / "marker", io.BytesIO()
    torch.save({"epoch": 1, "value": Evil(marker)}, sink)
    wanted = request(tmp_path / "counting")
    Attempt.claim(tmp_path / "counting", Spec(**wanted.spec), {}).commit(1, sink.getvalue(), [{"epoch": 1}])
    if not whole:
        next(directory(wanted).glob("attempts/1/commit-1/state.pt")).write_bytes(sink.getvalue() + b"x")
    assert attempt(wanted).how == ("failed" if whole else "completed")
    assert not marker.exists()
    torch.load(io.BytesIO(sink.getvalue()), weights_only=False)
    assert marker.exists(), "else this test could not fail"
