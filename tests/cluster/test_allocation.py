"""One Slurm allocation, with a real Slurm: it completes, resumes, requeues, and loses and repeats nothing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from clusters import RAY
from commands import COUNTING, ROOT, exported
from counted import FACTORS, committed, rows, undisturbed
from slurm_lab import Lab, wait_for

from farm.ledger.scan import attempt_records

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
STUDY = f"study={COUNTING}"
SLOW = (STUDY, FACTORS, "trial.epochs=80", "trial.seconds=0.5", "commit_seconds=0")
LONG = (STUDY, "sweep.factor=[1,2]", "trial.epochs=220", "trial.seconds=1", "commit_seconds=0")
ENDS = re.compile(r"the run ended with (\d+), the job with (\d+)")
TWO_NODES = ("slurm.options=['--exclude=gr003']", "nodes=2", "gpus_per_node=1")


def wait_for_epochs(lab: Lab, job: int, results: Path, epochs: int) -> None:
    """Return when the ledger holds so many epochs."""
    wait_for(lambda: committed(results) >= epochs, 180, f"{epochs} epochs in {results}", lambda: lab.log(job))


def hosts(results: Path, study: str = "counting") -> set[str]:
    """Hosts on which attempts ran."""
    return {row["host"] for row in exported(results, study, "attempts")}


def copy_of_checkout(directory: Path) -> Path:
    """The files that git knows or would add: a checkout may hold large things besides, and Ray uploads 100 MiB."""
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, directory / name)
    return directory


@pytest.fixture(scope="module", autouse=True)
def long_job(lab: Lab) -> int:
    """A job that will meet its walltime, on the third node, while the other tests run on the first two."""
    node = "slurm.options=[--nodelist=gr003]"
    return lab.submit(*LONG, "time=4", node, results=lab.results.with_name("walltime"))


def test_two_nodes_run_a_smoke_study_to_completion(lab: Lab) -> None:
    results = lab.results.with_name('it\'s a 100% "smoke" $HOME')
    smoke = ("problem=4", "profile=smoke", "trial.epochs=2")
    job = lab.submit(*smoke, *TWO_NODES, "slurm.cpus_per_node=1", results=results)
    lab.wait_until_over(job)
    log = lab.log(job, results)
    assert "farm: the run ended with 0, the job with 0" in log, log
    assert [r["status"] for r in exported(results, "problem4", "trials")] == ["completed"] * 3
    assert hosts(results, "problem4") == {"gr001", "gr002"}
    assert not list((results / "problem4" / "slurm").glob(f"{job}-*"))  # the token went with the job
    assert "nothing to run" in lab.farm("submit", *smoke, f"results={results}").out


def test_a_trial_has_its_gpus_on_one_node(lab: Lab) -> None:
    results = lab.results.with_name("gpus")
    axes = ("sweep.gpus=[1,2,4,8]", "sweep.factor=[1,2]", "trial.seconds=0.3")
    axes = (*axes, "resources.gpu=gpus", "resources.cpu=0.25")
    job = lab.submit(STUDY, *axes, *TWO_NODES[:2], "gpus_per_node=4", results=results)
    lab.wait_until_over(job)
    assert "needs 0.25 CPUs and 8 GPUs on one node" in lab.log(job, results)
    plan = {r["trial_id"]: r for r in exported(results, "counting", "plan")}
    assert sorted((r["gpus"], r["state"]) for r in plan.values()) == [
        (1, "done"), (1, "done"), (2, "done"), (2, "done"), (4, "done"), (4, "done"),
        (8, "unschedulable"), (8, "unschedulable"),
    ]  # fmt: skip
    for attempt in exported(results, "counting", "attempts"):
        ids = attempt["gpu_ids"].split(",")
        assert len(set(ids)) == plan[attempt["trial_id"]]["gpus"]
        assert set(ids) <= {"0", "1", "2", "3"}


def test_a_cancelled_job_goes_on_when_submitted_again_and_its_cluster_asks_for_the_token(
    lab: Lab, tmp_path: Path
) -> None:
    results = lab.results.with_name("cancelled")
    long = (STUDY, FACTORS, "trial.epochs=100", "trial.seconds=1", "commit_seconds=0")
    job = lab.submit(*long, "slurm.cpus_per_node=3", *TWO_NODES, results=results)
    wait_for_epochs(lab, job, results, 4)
    _with_and_without_the_token(lab, job)
    lab.scancel(job)
    lab.wait_until_over(job)
    assert 4 <= committed(results) < 400, lab.log(job, results)
    again = lab.submit(*long, *TWO_NODES, results=results)
    lab.wait_until_over(again)
    assert rows(results) == undisturbed(tmp_path, 100), lab.log(again, results)
    ends = [r["how"] for r in exported(results, "counting", "attempts")]
    assert (ends.count("completed"), set(ends) <= {"completed", "drained"}) == (4, True)


def _with_and_without_the_token(lab: Lab, job: int) -> None:
    shared = lab.shared(job)
    assert (shared.stat().st_mode & 0o777, (shared / "token").stat().st_mode & 0o777) == (0o700, 0o600)
    address = f"http://{(shared / 'dashboard').read_text()}"
    results = lab.results.with_name("job-submit")
    smoke = ("problem=4", "profile=smoke", "trial.epochs=1", "sweep.M=[1]", "extra=[]", f"results={results}")
    checkout = copy_of_checkout(lab.directory / "checkout")
    words = (str(RAY), "job", "submit", "--address", address, "--working-dir", str(checkout))
    words = (*words, "--", "python", "farm/run.py", *smoke)
    with_token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(shared / "token")}
    for wrong in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}):
        refused = lab.on("gr001", *words, variables=wrong)
        assert refused.code != 0
        assert re.search(r"\b40[13]\b|[Uu]nauthorized|[Uu]nauthenticated|authenticat", refused.out + refused.err)
    assert not results.exists()
    done = lab.on("gr001", *words, variables=with_token, timeout=240)
    assert done.code == 0, done.out + done.err
    assert len(exported(results, "problem4", "trials")) == 1
    _nothing_tells_the_token(lab, job, (shared / "token").read_text())


def _nothing_tells_the_token(lab: Lab, job: int, token: str) -> None:
    assert len(token) == 64
    for host in ("gr001", "gr002"):
        assert not any(token in " ".join(p.cmdline()) for p in lab.processes(host) if p.is_running())
        logs = [
            p for p in (lab.directory / "tmp" / host).rglob("*") if p.is_file() and p.suffix in (".log", ".out", ".err")
        ]
        assert logs
        assert not any(token.encode() in p.read_bytes() for p in logs)
    assert token not in lab.log(job)
    assert token not in lab.on("login", "scontrol", "show", "job", str(job)).out


def test_the_dashboard_is_on_loopback_only(lab: Lab) -> None:
    results = lab.results.with_name("ports")
    job = lab.submit(STUDY, "sweep.factor=[1]", "trial.seconds=60", *TWO_NODES, results=results)
    wait_for(lambda: "1 new" in lab.log(job, results), 120, "the run begins", lambda: lab.log(job, results))
    port = int((lab.shared(job) / "dashboard").read_text().rpartition(":")[2])
    listening = [
        line.split()[3]
        for line in lab.on("gr001", "ss", "--listening", "--tcp", "--numeric", "--no-header").out.splitlines()
    ]
    assert [a for a in listening if a.endswith(f":{port}")] == [f"127.0.0.1:{port}"]
    assert not [a for a in listening if a.endswith((":10001", ":8265", ":6379"))]
    lab.scancel(job)
    lab.wait_until_over(job)
    wait_for(lambda: not lab.ray_processes("gr001") + lab.ray_processes("gr002"), 30, "Ray is gone from the nodes")


def test_a_node_whose_ray_is_killed_loses_and_repeats_nothing(lab: Lab, tmp_path: Path) -> None:
    results = lab.results.with_name("killed")
    job = lab.submit(*SLOW, *TWO_NODES, results=results)
    wait_for_epochs(lab, job, results, 12)
    assert lab.kill_ray("gr002") > 3
    lab.wait_until_over(job, 300)
    assert "farm: the run ended with 0" in lab.log(job, results), lab.log(job, results)
    assert rows(results) == undisturbed(tmp_path, 80)
    assert not any(r["how"] == "failed" for r in exported(results, "counting", "attempts"))


def test_words_that_hold_once_are_used_once_however_often_a_job_is_requeued(lab: Lab) -> None:
    results = lab.results.with_name("once")
    words = (STUDY, "sweep.factor=[1,2]", "extra=[{factor: 3, end: failed}]", "trial.epochs=60", "trial.seconds=0.5")
    words = (*words, "commit_seconds=0", TWO_NODES[0], "slurm.cpus_per_node=3")
    planned = json.loads(lab.farm("plan", *words, "--json", f"results={results}").out)["trials"]
    (bug,) = (t["id"] for t in planned if t["spec"]["parameters"]["end"] == "failed")
    alone = lab.submit(*words, f"trial={bug}", results=results)
    lab.wait_until_over(alone)
    assert ENDS.findall(lab.log(alone, results)) == [("1", "1")], "what is new beside it was not chosen"

    def failures() -> int:
        return sum(r["how"] == "failed" for r in attempt_records(results / "counting"))

    job = lab.submit(*words, "retry=failed", results=results)
    wait_for(lambda: failures() == 2 and committed(results) > 8, 180, "the bug is met again", lambda: lab.log(job))
    lab.on("login", "scontrol", "requeue", str(job))
    lab.wait_until_over(job)
    log = lab.log(job, results)
    assert ("DUE TO JOB REQUEUE" in log, ENDS.findall(log)[-1]) == (True, ("1", "1")), log
    ends = [r["how"] for r in exported(results, "counting", "attempts")]
    assert (ends.count("failed"), ends.count("completed"), len(ends) > 4) == (2, 2, True), log


def test_two_farms_on_the_same_nodes_do_not_disturb_each_other_though_one_is_preempted(
    lab: Lab, tmp_path: Path
) -> None:
    both = [lab.results.with_name(name) for name in ("first", "second")]
    jobs = [lab.submit(*SLOW, *TWO_NODES, results=results) for results in both]
    for job, results in zip(jobs, both, strict=True):
        wait_for_epochs(lab, job, results, 4)
    assert len({(lab.shared(job) / "token").read_text() for job in jobs}) == 2
    lab.on("login", "scontrol", "requeue", str(jobs[0]))  # what Slurm does to a job that it preempts
    for job, results in zip(jobs, both, strict=True):
        lab.wait_until_over(job)
        assert "farm: the run ended with 0" in lab.log(job, results), lab.log(job, results)
        assert rows(results) == undisturbed(tmp_path, 80)
        assert hosts(results) == {"gr001", "gr002"}
    ends = [{r["how"] for r in exported(results, "counting", "attempts")} for results in both]
    assert ends == [{"completed", "drained"}, {"completed"}]


def test_a_head_whose_ray_is_killed_requeues_the_job_and_loses_nothing(lab: Lab, tmp_path: Path) -> None:
    results = lab.results.with_name("head")
    job = lab.submit(*SLOW, *TWO_NODES, results=results)
    wait_for_epochs(lab, job, results, 12)
    assert lab.kill_ray("gr001") > 3
    lab.wait_until_over(job, 400)
    log = lab.log(job, results)
    assert [code for _, code in ENDS.findall(log)] == ["75", "0"], log
    assert rows(results) == undisturbed(tmp_path, 80)
    assert not any(r["how"] == "failed" for r in exported(results, "counting", "attempts"))


def test_a_job_that_meets_its_walltime_drains_requeues_and_finishes(lab: Lab, long_job: int, tmp_path: Path) -> None:
    """Four minutes, USR1 a minute ahead; Slurm may be a minute early."""
    results = lab.results.with_name("walltime")
    lab.wait_until_over(long_job, 500)
    log = lab.log(long_job, results)
    assert ENDS.findall(log) == [("75", "75"), ("0", "0")], log
    assert "USR1 received; draining" in log
    assert rows(results) == undisturbed(tmp_path, 220, "sweep.factor=[1,2]")
    ends = [r["how"] for r in exported(results, "counting", "attempts")]
    assert sorted(ends) == ["completed", "completed", "drained", "drained"]
