"""Small exports of all four studies, and of the study of docs/own-study.md, made once: without Ray, on a CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT, environment
from pages import write_own_study

SIZES = {
    "problem=1": ("trial.epochs=2", "trial.train_examples=128", "trial.test_examples=64"),
    "problem=2": ("sweep.mode=[dataparallel]", "trial.last_batch=16", "trial.train_examples=64"),
    "problem=3": (
        "sweep.network=[alexnet_paper,alexnet,vgg19,inception_naive,inception_reduced]",
        "trial.epochs=1",
        "trial.steps=2",
        "trial.most_layers=2",
    ),
    "problem=4": ("trial.epochs=2", "trial.train_examples=128", "trial.validation_examples=64"),
    "study=smoothing.yaml": ("trial.epochs=1", "trial.train_examples=128", "trial.validation_examples=64"),
}
"""The smoke profile, made smaller still: what is tested here is what is shown, not what is learned."""
CODE = """
import json, sys
from farm.cli import main
for verb, words in json.loads(sys.argv[1]):
    if code := main([verb, *words]):
        sys.exit(f"farm {verb} {words} ended with {code}")
"""


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results directory with every study, run and reported in one process."""
    directory = tmp_path_factory.mktemp("smoke")
    write_own_study(directory)
    common = ["profile=smoke", f"results={directory / 'results'}"]
    small = [(study, [study, *common, *sizes]) for study, sizes in SIZES.items()]
    verbs = [("run", [*words, "executor=inline", "view=plain"]) for _, words in small]
    verbs += [("report", words) for _, words in small]
    done = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps(verbs)],
        cwd=directory,
        env=environment() | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return directory / "results"
