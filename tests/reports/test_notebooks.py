"""The notebooks: executed without Ray and GPU, free of outputs and of logic of their own."""

from __future__ import annotations

import ast
from pathlib import Path

import nbformat
import pytest
from commands import ROOT
from nbclient import NotebookClient

NOTEBOOKS = sorted((ROOT / "analysis" / "notebooks").glob("*.ipynb"))
NAMES = [path.stem for path in NOTEBOOKS]
CHECK = "import sys\nassert not {'ray', 'torch'} & set(sys.modules)"
LOGIC = (ast.FunctionDef, ast.Lambda, ast.For, ast.While, ast.If, ast.IfExp, ast.ListComp, ast.DictComp, ast.With)


def code(path: Path) -> list[nbformat.NotebookNode]:
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]


def test_there_is_one_for_each_problem_and_one_for_ones_own() -> None:
    assert NAMES == ["own_study", "problem1", "problem2", "problem3", "problem4"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_outputs_are_stripped(path: Path) -> None:
    assert all(c.outputs == [] and c.execution_count is None for c in code(path))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_it_has_no_logic(path: Path) -> None:
    assert not [node for c in code(path) for node in ast.walk(ast.parse(c.source)) if isinstance(node, LOGIC)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_it_executes(path: Path, smoke: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    if not (ROOT / "analysis" / "reference" / path.stem / "export").is_dir():
        monkeypatch.setenv("FARM_RESULTS", str(smoke))
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(CHECK))
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    cells = [c for c in notebook.cells if c.cell_type == "code"]
    assert all("text/html" in c.outputs[0].data for c in cells[:-1])
    assert not [o for c in cells for o in c.outputs if o.output_type == "stream"]  # a warning would stand there


def test_a_question_without_a_section_is_named(smoke: Path) -> None:
    from analysis import load, notebook, problem4

    data = load.load(smoke / "problem4")
    with pytest.raises(load.AnalysisError, match=r"4.9: no section answers that; there are 'Cutout"):
        notebook.show(data, problem4.sections(data), "4.9")
    with pytest.raises(load.AnalysisError, match="to-target"):
        notebook.numbers(problem4.sections(data), "no such table")
