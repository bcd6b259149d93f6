"""The whole path with the image: an ordinary user's job, real Slurm, real Apptainer. `make images` runs this."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from commands import ROOT, command, environment, exported
from slurm_lab import Lab, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
NOBODY = 65534
ENDS = re.compile(r"the run ended with (\d+), the job with (\d+)")


@pytest.fixture
def image() -> Path:
    """The .sif that `make images` has built."""
    found = os.environ.get("FARM_TEST_SIF", "")
    if not found:
        pytest.skip("no image: FARM_TEST_SIF names none; `make images` builds one and runs this")
    return Path(found)


def commands_of_the_nodes(lab: Lab) -> str:
    """A shell line that puts `apptainer` on the path of a node that has no package of it."""
    if shutil.which("apptainer"):
        return ":"
    commands = lab.directory / "bin"
    if not commands.exists():
        commands.mkdir()
        (commands / "apptainer").symlink_to(ROOT / "docker" / "apptainer.sh")
    return f"export PATH={commands}:$PATH FARM_APPTAINER_ROOT={os.environ['FARM_APPTAINER_ROOT']}"


def submit(lab: Lab, image: Path, results: Path, *words: str) -> int:
    """`farm submit problem=4 profile=smoke …` on two nodes for an ordinary user; the job's id."""
    ledger = results / "problem4"
    (ledger / "slurm").mkdir(parents=True)
    for path in (results, ledger, ledger / "slurm"):
        os.chown(path, NOBODY, NOBODY)
    words = ("problem=4", "profile=smoke", *words, "nodes=2", "gpus_per_node=1", "slurm.cpus_per_node=1")
    words = (*words, f"slurm.image={image}", f"slurm.modules=['{commands_of_the_nodes(lab)}']")
    here = environment() | {"PYTHONPATH": str(ROOT)}
    line = command(*words, f"site={lab.site}", f"results={results}", "--dry-run", verb="submit")
    script = lab.directory / f"{results.name}.sh"
    script.write_text(subprocess.run(line, capture_output=True, text=True, env=here, check=True).stdout)
    as_nobody = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    done = lab.on("login", *as_nobody, "sbatch", "--parsable", "--chdir=/var/tmp", str(script))
    assert done.code == 0, done.err
    return int(done.out)


def test_two_nodes_run_a_study_in_the_image_for_an_ordinary_user(lab: Lab, image: Path) -> None:
    results = lab.directory / "image-results"
    job = submit(lab, image, results, "trial.epochs=2")
    lab.wait_until_over(job, 600)
    log = lab.log(job, results)
    assert "farm: the run ended with 0, the job with 0" in log, log
    assert {r["host"] for r in exported(results, "problem4", "attempts")} == {"gr001", "gr002"}
    trials = exported(results, "problem4", "trials")
    assert [t["status"] for t in trials] == ["completed"] * 3
    assert {t["image"] for t in trials} == {str(image)}
    assert (results / "problem4" / "export").stat().st_uid == NOBODY


def test_a_job_that_slurm_signals_drains_in_the_image_requeues_and_finishes(lab: Lab, image: Path) -> None:
    results = lab.directory / "drained-results"
    job = submit(lab, image, results, "trial.epochs=12", "commit_seconds=0")
    commits = "problem4/trials/*/attempts/*/commit-*"
    wait_for(lambda: list(results.glob(commits)), 300, "a commit", lambda: lab.log(job, results))
    assert lab.on("login", "scancel", "--batch", "--signal=USR1", str(job)).code == 0  # as at the walltime
    lab.wait_until_over(job, 600)
    log = lab.log(job, results)
    assert ENDS.findall(log) == [("75", "75"), ("0", "0")], log
    ends = [r["how"] for r in exported(results, "problem4", "attempts")]
    assert (ends.count("completed"), set(ends)) == (3, {"completed", "drained"})
    epochs = [(r["trial_id"], r["epoch"]) for r in exported(results, "problem4", "epochs")]
    assert len(epochs) == len(set(epochs)) == 3 * 12
