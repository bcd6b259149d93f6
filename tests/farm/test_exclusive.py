"""`resources.exclusive: node`: a trial has its node alone, on a Ray of our own and on a cluster that others set up."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clusters import Head, head
from commands import COUNTING, ROOT, command, environment, exported, run_farm

from farm.plan import Bundle, Node
from farm.reservation import first_gpus, reservation

STUDY = f"study={COUNTING}"
SLOW = ("sweep.factor=[1,2]", "trial.epochs=4", "trial.seconds=0.25")
SMALL, WIDE, DEEP = Node(8, 2), Node(64, 4), Node(32, 8)


def overlaps(attempts: list[dict[str, Any]]) -> int:
    """Pairs of attempts that ran at the same time."""
    spans = [(a["started_at"], a["ended_at"]) for a in attempts]
    return sum(a[0] < b[1] and b[0] < a[1] for a, b in itertools.combinations(spans, 2))


@pytest.mark.parametrize(
    ("cluster", "reserved"),
    [
        ([SMALL], {"CPU": 8, "GPU": 2}),
        ([SMALL, WIDE], {"CPU": 64, "GPU": 4}),
        ([SMALL, WIDE, DEEP], {"CPU": 32, "GPU": 8}),
        ([Node(4, 0), SMALL], {"CPU": 8, "GPU": 2}),
    ],
)
def test_an_exclusive_trial_reserves_a_whole_node(cluster: list[Node], reserved: dict[str, float]) -> None:
    assert reservation(Bundle(1, 1, exclusive=True), cluster) == reserved


@pytest.mark.parametrize("gpu", [0, 1, 2, 3])
def test_the_reservation_is_no_part_of_a_larger_node(gpu: float) -> None:
    nodes = [Node(c, g) for c in (2, 8, 32) for g in (0, 2, 4)]
    for cluster in itertools.combinations(nodes, 3):
        found = reservation(Bundle(1, gpu, exclusive=True), cluster)
        fits = [n for n in cluster if n.cpu >= found["CPU"] and n.gpu >= found.get("GPU", 0)]
        assert all((n.cpu, n.gpu) == (found["CPU"], found.get("GPU", 0)) for n in fits)


def test_an_ordinary_trial_reserves_its_own_share() -> None:
    assert reservation(Bundle(2, 0.5), [WIDE]) == {"CPU": 2, "GPU": 0.5}
    assert reservation(Bundle(2, 0), [WIDE]) == {"CPU": 2}


@pytest.mark.parametrize(
    ("visible", "count", "expected"),
    [("0,1,2,3", 2, "0,1"), ("3,10,2", 2, "2,3"), ("5", 0.25, "5"), ("0,1", 0, ""), ("", 2, "")],
)
def test_a_trial_sees_as_many_gpus_as_it_asked_for(visible: str, count: float, expected: str) -> None:
    assert first_gpus(visible, count) == expected


@pytest.mark.parametrize(("problem", "expected"), [("2", 1), ("4", 0)])
def test_slurm_is_asked_for_whole_nodes(tmp_path: Path, problem: str, expected: int) -> None:
    words = (f"problem={problem}", "site=greene", "results=/scratch/me/r", "--dry-run")
    done = run_farm(tmp_path, *words, verb="submit", variables={"USER": "me"})
    assert done.code == 0, done.err
    assert done.out.splitlines().count("#SBATCH --exclusive") == expected


@pytest.mark.ray
def test_exclusive_trials_have_the_machine_one_after_another(tmp_path: Path) -> None:
    gpus = ("gpus=3", "resources.gpu=1", "device=cpu")
    done = run_farm(tmp_path, STUDY, "cpus=2", *SLOW, *gpus, "resources.exclusive=node")
    assert done.code == 0, done.err
    attempts = exported(tmp_path / "results", "counting", "attempts")
    assert overlaps(attempts) == 0
    assert {a["visible_devices"].count(",") for a in attempts} == {0}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Head]:
    with head(tmp_path, environment() | {"PYTHONPATH": str(ROOT)}) as started:
        yield started


def start(directory: Path, cluster: Head, name: str, *arguments: str) -> subprocess.Popen[str]:
    """A run on the cluster, with results of its own."""
    words = [*command(STUDY, f"ray_address={cluster.address}", *SLOW, *arguments), f"results={directory / name}"]
    return subprocess.Popen(
        words, cwd=directory, env=cluster.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


@pytest.mark.ray
def test_no_other_runs_trial_comes_onto_an_exclusive_trials_node(tmp_path: Path, cluster: Head) -> None:
    runs = [start(tmp_path, cluster, "alone", "resources.exclusive=node"), start(tmp_path, cluster, "other")]
    for run in runs:
        said = run.communicate(timeout=120)[0]
        assert run.returncode == 0, said
    alone, other = (exported(tmp_path / name, "counting", "attempts") for name in ("alone", "other"))
    assert [overlaps([mine, theirs]) for mine in alone for theirs in other] == [0] * 4
    assert overlaps(alone) == 0
