"""Imports go one way, and planning stays fast because it imports neither torch nor Ray."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator

import pytest
from commands import ROOT, environment


def imported(package: str) -> Iterator[tuple[str, str]]:
    """(file, imported module) of every import statement in a package."""
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((path.relative_to(ROOT).as_posix(), alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                modules = [name if is_module(name) else node.module for name in names]
                yield from ((path.relative_to(ROOT).as_posix(), name) for name in modules)


def is_module(name: str) -> bool:
    """Whether a dotted name is a module of this project."""
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def users(package: str, module: str) -> set[str]:
    """Files of a package that import a module or what is below it."""
    return {file for file, name in imported(package) if name == module or name.startswith(f"{module}.")}


@pytest.mark.parametrize("module", ["ray", "farm", "analysis"])
def test_trials_know_nothing_of(module: str) -> None:
    assert users("trials", module) == set()


def test_analysis_knows_only_the_ledgers_reading_side() -> None:
    allowed = {f"farm.ledger.{name}" for name in ("schema", "scan", "durable", "gather")}
    assert {name for _, name in imported("analysis") if name.split(".")[0] in ("farm", "ray", "torch")} <= allowed


def test_only_the_commands_call_the_analysis() -> None:
    assert users("farm", "analysis") <= {"farm/cli.py", "farm/reporting.py"}


def test_only_launch_imports_tune() -> None:
    assert {f for f, name in imported("farm") if name.startswith("ray.tune")} == {"farm/launch.py"}


def test_ray_is_known_to_launch_and_to_what_runs_in_its_nodes() -> None:
    assert users("farm", "ray") == {"farm/launch.py", "farm/slurm/node.py", "farm/slurm/provider.py"}


def test_only_the_ledger_writes_parquet() -> None:
    writers = {file for file, name in imported("farm") if name.startswith("pyarrow.parquet")}
    assert {w for w in writers if not w.startswith("farm/ledger/")} <= {
        "farm/elsewhere.py",
        "farm/history.py",
        "farm/overview.py",
    }  # which only read


@pytest.mark.parametrize("statement", ["import farm.plan", "import farm.config", "import trials.problem4"])
def test_planning_imports_neither_torch_nor_ray(statement: str) -> None:
    code = f"{statement}; import sys; print([m for m in ('torch', 'ray', 'matplotlib', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment())
    assert done.stdout.strip() == "[]"
