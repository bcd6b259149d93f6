"""What lies beside a study hides no module of the farm and no library, in whichever process."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import COUNTING, ROOT, environment, exported

NAMES = ("analysis", "farm", "trials", "numpy", "pandas", "torch", "ray", "random", "queue")
AS_INSTALLED = f"""
import sys
from importlib.machinery import PathFinder

class Editable:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return PathFinder.find_spec(name, ["{ROOT}"]) if name in ("farm", "trials", "analysis") else None

sys.path = [path for path in sys.path if path != "{ROOT}"]
sys.meta_path.append(Editable)  # as setuptools does with `pip install -e`: what is on the path comes first
from farm.cli import main
sys.exit(main())
"""


@pytest.mark.ray
@pytest.mark.parametrize("executor", ["inline", "ray"])
def test_files_beside_a_study_hide_nothing(tmp_path: Path, executor: str) -> None:
    study, script = tmp_path / "study", tmp_path / "bin" / "farm"
    study.mkdir()
    script.parent.mkdir()
    script.write_text(AS_INSTALLED)
    for name in NAMES:
        (study / f"{name}.py").write_text(f"raise RuntimeError('{name} is hidden')\n")
    for suffix in (".py", ".yaml"):
        shutil.copy(COUNTING.with_suffix(suffix), study)
    place = ["study=counting.yaml", f"results={tmp_path}"]
    for words in (["run", *place, f"executor={executor}", "cpus=1"], ["report", *place]):
        done = subprocess.run(
            [sys.executable, str(script), *words], cwd=study, env=environment(), capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert [r["how"] for r in exported(tmp_path, "counting", "attempts")] == ["completed", "completed"]
