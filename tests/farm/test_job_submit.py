"""`ray job submit`, both forms, and joining a cluster, against a real head started in the checkout."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters import Head, head, second_node
from commands import COUNTING, ROOT, environment, exported, run_farm

from farm.ledger import scan

pytestmark = pytest.mark.ray
STUDY = f"study={COUNTING}"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Head]:
    """A head with two CPUs and two logical GPUs, started in the checkout as a user would."""
    with head(ROOT, environment(), cpus=2, gpus=2) as started:
        yield started


def submit(cluster: Head, *words: str, cwd: Path = ROOT) -> tuple[int, str]:
    """Exit code and output of `ray job submit`."""
    done = cluster.ray("job", "submit", "--address", cluster.dashboard, *words, cwd=cwd)
    return done.returncode, done.stdout + done.stderr


def test_a_job_in_the_checkout_of_the_cluster(cluster: Head, tmp_path: Path) -> None:
    code, out = submit(cluster, "--", "python", "farm/run.py", STUDY, f"results={tmp_path}")
    assert (code, "counting: 2 new" in out) == (0, True), out
    assert len(exported(tmp_path, "counting", "epochs")) == 6


def test_a_job_with_a_copy_of_the_checkout(cluster: Head, tmp_path: Path) -> None:
    words = ("python", "farm/run.py", "problem=4", "profile=smoke", "trial.epochs=1", "sweep.M=[1]", "extra=[]")
    code, out = submit(cluster, "--working-dir", ".", "--", *words, f"results={tmp_path}")
    assert (code, "problem4: 1 new" in out) == (0, True), out
    trial = exported(tmp_path, "problem4", "trials")[0]
    assert trial["status"] == "completed"
    assert trial["source_digest"]
    again, out = submit(cluster, "--working-dir", ".", "--", *words, f"results={tmp_path}")
    assert (again, "problem4: 1 done" in out) == (0, True), out


def test_results_in_the_copy_of_the_checkout_are_refused(cluster: Head) -> None:
    words = ("--submission-id", "refused", "--working-dir", ".", "--", "python", "farm/run.py", STUDY)
    code, out = submit(cluster, *words)
    assert (code, "would be lost" in out, "FARM_RESULTS" in out) == (1, True, True), out
    assert cluster.get("/api/jobs/refused")["driver_exit_code"] == 3


@pytest.mark.parametrize("where", ["argument", "environment"])
def test_a_run_joins_the_cluster_that_is_named(cluster: Head, tmp_path: Path, where: str) -> None:
    named = [f"ray_address={cluster.address}"] if where == "argument" else []
    variables = cluster.environment | ({} if named else {"RAY_ADDRESS": cluster.address})
    joined = (STUDY, *named, "resources.gpu=gpus", "sweep.gpus=[1,2,4]", "sweep.factor=[1]")
    done = run_farm(tmp_path, *joined, variables=variables)
    assert (done.code, done.out.count("completed")) == (1, 2), done.out + done.err
    states = {r["gpus"]: r["state"] for r in exported(tmp_path / "results", "counting", "plan")}
    assert states == {1: "done", 2: "done", 4: "unschedulable"}


def test_a_run_that_names_no_cluster_joins_none_that_is_there(cluster: Head, tmp_path: Path) -> None:
    """Though Ray would find the head: among the processes, and in the file of the cluster that started last."""
    scratch = Path(cluster.environment["RAY_AUTH_TOKEN_PATH"]).parent
    (scratch / "ray").mkdir()
    (scratch / "ray" / "ray_current_cluster").write_text(cluster.address)
    done = run_farm(tmp_path, STUDY, "cpus=2", variables=cluster.environment | {"RAY_TMPDIR": str(scratch)})
    assert (done.code, done.err) == (0, "")
    here = {attempt["node_id"] for attempt in scan.attempt_records(tmp_path / "results" / "counting")}
    there = {node["node_id"] for node in cluster.nodes()}
    assert (len(here), len(there), here & there) == (1, 1, set())


def test_a_cluster_that_does_not_answer_is_said_so(tmp_path: Path) -> None:
    done = run_farm(tmp_path, STUDY, "ray_address=127.0.0.1:1")
    assert (done.code, "127.0.0.1:1" in done.err, "Traceback" in done.err) == (3, True, False), done.err


def test_no_trial_is_split_over_two_nodes_and_no_gpu_has_two_trials(cluster: Head, tmp_path: Path) -> None:
    words = (STUDY, "sweep.gpus=[1,2,3]", "sweep.factor=[1,2,3]", "trial.seconds=0.3", "resources.gpu=gpus")
    with second_node(cluster, ROOT, gpus=2):
        words = (*words, "resources.cpu=0.25", f"ray_address={cluster.address}")
        done = run_farm(tmp_path, *words, variables=cluster.environment)
    assert (done.code, done.err) == (1, "")
    plan = {r["trial_id"]: r for r in exported(tmp_path / "results", "counting", "plan")}
    assert sorted((r["gpus"], r["state"]) for r in plan.values()) == [
        *[(1, "done")] * 3, *[(2, "done")] * 3, *[(3, "unschedulable")] * 3,
    ]  # fmt: skip
    held = defaultdict(list)
    for attempt in scan.attempt_records(tmp_path / "results" / "counting"):
        ids = attempt["gpu_ids"].split(",")
        assert len(set(ids)) == plan[attempt["trial_id"]]["gpus"]
        for one in ids:
            held[attempt["node_id"], one].append((attempt["started_at"], attempt["ended_at"]))
    assert {node for node, _ in held} == {node["node_id"] for node in cluster.nodes()}
    assert {one for _, one in held} == {"0", "1"}
    for spans in held.values():
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(sorted(spans)))
