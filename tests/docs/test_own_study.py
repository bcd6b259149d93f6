"""docs/own-study.md, copied and pasted."""

import re
from pathlib import Path

import pandas as pd
import pytest
from commands import ROOT, exported, run_farm

PAGE = (ROOT / "docs" / "own-study.md").read_text()


def block(language: str) -> str:
    """The page's one block in a language."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return found


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the two files, after both commands of the page (inline: without Ray)."""
    directory = tmp_path_factory.mktemp("own")
    for language, name in (("yaml", "smoothing.yaml"), ("python", "smoothing.py")):
        (directory / name).write_text(block(language))
    for line in block("console").splitlines():
        words = line.removeprefix("$ ").replace("python farm/run.py", "farm run").split()
        sizes = ["executor=inline", "trial.epochs=1", "trial.train_examples=128", "trial.validation_examples=64"]
        done = run_farm(directory, *words[2:], *sizes, verb=words[1])
        assert (done.code, done.err) == (0, ""), done
    return directory


def test_the_module_has_under_40_lines() -> None:
    assert len(block("python").splitlines()) < 40


def test_label_smoothing_changes_what_is_learned(ran: Path) -> None:
    trials = pd.DataFrame(exported(ran / "results", "smoothing", "trials"))
    assert (trials["status"] == "completed").all()
    assert trials["weights_sha256"].nunique() == len(trials) == 4
    assert set(trials["config_smoothing"]) == {0.0, 0.1}


def test_the_report_has_every_arm(ran: Path) -> None:
    text = (ran / "results/smoothing/report/report.md").read_text()
    assert all(f"augmentation={a}, smoothing={s}" in text for a in ("standard", "cutout") for s in ("0", "0.1"))
    assert (ran / "results/smoothing/report/index.html").stat().st_size > 10_000
