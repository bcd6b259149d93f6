"""Elastic workers without a Slurm: sizes, scripts, Ray's schema and scheduler, words for what Slurm says."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from commands import COUNTING, ROOT, Finished, environment

from farm import provenance
from farm.config import load, load_place
from farm.errors import PreflightError, UsageError
from farm.plan import Bundle, Node
from farm.reservation import OF_A_KIND, reservation
from farm.site import NodeType, Slurm, drain_patience
from farm.slurm import provider, up
from farm.slurm.cluster import TEMPLATE, Cluster, autoscaling, cluster_at, kinds_that_are_up, prepare
from farm.slurm.jobs import Job, joined_file, new_name, news, parse
from farm.slurm.node import AUTOSCALER
from farm.slurm.provider import SlurmNodeProvider
from farm.slurm.script import NodeJob, render
from farm.slurm.sizes import nice, worker_nodes, worker_types
from farm.study import make_plan

GOLDEN = Path(__file__).with_name("golden")
GREENE = load_place(["site=greene", "results=/scratch/me/farm/results"]).settings
LOGS = Path("/logs")
CLUSTER = "farm-greene-3f9c1a"
WORKER = NodeJob(
    role="worker",
    kind="gpu2",
    cluster=CLUSTER,
    name=f"{CLUSTER}-gpu2",
    shared="/scratch/me/results/.up/greene/cluster",
    logs="/scratch/me/results/.up/greene",
    code="/home/me/farm",
    python="/home/me/farm/.venv/bin/python",
    gpus=2,
    cpus=20,
    memory_gib=160,
    time="08:00:00",
    gres="gpu:rtx8000:2",
    nice=20,
)
HEAD = dataclasses.replace(
    WORKER, role="head", kind="head", name="farm-greene-3f9c1a-head", gpus=0, cpus=2, memory_gib=8, gres="", nice=0
)
IN_IMAGE = {
    "image": "/scratch/my image's.sif",
    "logs": "/scratch/100% of 'my' \"results\" $HOME/.up/greene",
    "shared": "/scratch/100% of 'my' \"results\" $HOME/.up/greene/cluster",
    "binds": ("/scratch/100% of 'my' \"results\" $HOME",),
    "modules": ("module load cuda",),
}
JOBS = {
    "worker": WORKER,
    "head": HEAD,
    "worker-image": dataclasses.replace(WORKER, **IN_IMAGE),  # type: ignore[arg-type]
    "head-image": dataclasses.replace(HEAD, **IN_IMAGE),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", JOBS)
def test_the_scripts_are_the_golden_ones_and_bash_can_read_them(name: str) -> None:
    """`FARM_WRITE_GOLDEN=1` writes the golden files anew."""
    script = render(JOBS[name])
    golden = GOLDEN / f"{name}.sh"
    if os.environ.get("FARM_WRITE_GOLDEN"):
        golden.write_text(script)
    assert script == golden.read_text()
    assert subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True).stderr == ""


@pytest.mark.parametrize("signal_seconds", [60, 61, 90, 119, 120, 180, 300, 3600])
def test_the_head_waits_longer_than_any_study_that_drains(signal_seconds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    script = render(dataclasses.replace(HEAD, signal_seconds=signal_seconds))
    (waits,) = re.findall(r"until=\$\(\(SECONDS \+ (\d+)\)\)", script)
    longest = max(drain_patience(signal_seconds / 2 * part / 100, signal_seconds) for part in range(101))
    assert longest + 5 <= int(waits) <= signal_seconds - 10


def test_workers_have_one_two_or_four_gpus_and_their_share_of_a_node() -> None:
    assert worker_types(GREENE.slurm) == {
        "cpu": NodeType(10, 0, 80),
        "gpu1": NodeType(10, 1, 80),
        "gpu2": NodeType(20, 2, 160),
        "gpu4": NodeType(40, 4, 320),
    }
    eight = Slurm(node_types={"h200": NodeType(96, 8, 1400)})
    assert list(worker_types(eight)) == ["cpu", "gpu1", "gpu2", "gpu4", "gpu8"]
    six = Slurm(node_types={"odd": NodeType(6, 6, 60)})
    assert list(worker_types(six)) == ["cpu", "gpu1", "gpu2", "gpu4", "gpu6"]
    assert list(worker_types(Slurm(node_types={"thin": NodeType(8, 0, 16)}))) == ["cpu"]
    with pytest.raises(UsageError, match="this site has none"):
        worker_types(Slurm())


def test_larger_workers_stand_ahead_of_smaller_ones() -> None:
    types = worker_types(GREENE.slurm)
    assert [nice(types[k], types) for k in ("gpu4", "gpu2", "gpu1", "cpu")] == [0, 20, 30, 40]


def test_a_trial_asks_for_the_smallest_worker_that_holds_it() -> None:
    kinds = worker_nodes(GREENE.slurm)
    nodes = list(kinds.values())

    def kind(cpu: float, gpu: float, exclusive: bool = False) -> list[str]:
        reserved = reservation(Bundle(cpu, gpu, exclusive), nodes, kinds)
        return [k for k, v in reserved.items() if v == OF_A_KIND]

    assert [kind(1, n) for n in (0, 0.25, 1, 2, 3, 4)] == [["cpu"], ["gpu1"], ["gpu1"], ["gpu2"], ["gpu4"], ["gpu4"]]
    assert kind(16, 1) == ["gpu2"]  # for its CPUs
    assert kind(1, 1, exclusive=True) == ["gpu4"]
    assert reservation(Bundle(1, 1), [Node(2, 1)]) == {"CPU": 1, "GPU": 1}


def checked(tree: dict[str, Any]) -> dict[str, Any]:
    """The configuration after Ray's own checks."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared: dict[str, Any] = prepare_config(copy.deepcopy(tree))
    validate_config(prepared)
    return prepared


def test_rays_schema_accepts_both_examples() -> None:
    for path in (TEMPLATE, ROOT / "docs" / "on-premise.yaml"):
        assert checked(yaml.safe_load(path.read_text()))["available_node_types"]


def test_the_example_is_what_greene_gets(tmp_path: Path) -> None:
    cluster = Cluster(Path("/scratch/me/farm/results/.up/greene"))
    made = autoscaling(cluster, GREENE, worker_types(GREENE.slurm))
    assert made == yaml.safe_load(TEMPLATE.read_text()) | {"cluster_name": ""}
    assert checked(made)["idle_timeout_minutes"] == 5


@pytest.mark.parametrize(
    ("gpus", "wanted"),
    [
        ([1], {"gpu1": 1}),
        ([1, 1, 1, 1], {"gpu1": 4}),
        ([1, 2, 4], {"gpu1": 1, "gpu2": 1, "gpu4": 1}),
        ([2, 2, 0], {"gpu2": 2, "cpu": 1}),
        ([3, 1], {"gpu4": 1, "gpu1": 1}),
    ],
)
def test_rays_own_scheduler_asks_for_a_job_of_each_trials_size(gpus: list[int], wanted: dict[str, int]) -> None:
    assert launches(gpus) == (wanted, 0)


def test_rays_own_scheduler_says_what_no_worker_can_hold() -> None:
    assert launches([8, 1]) == ({"gpu1": 1}, 1)


def launches(gpus: list[int]) -> tuple[dict[str, int], int]:
    """What Ray's scheduler would launch for trials that wait, from zero workers, and how many it cannot serve."""
    from ray.autoscaler.v2.event_logger import AutoscalerEventLogger
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil
    from ray.core.generated.autoscaler_pb2 import GangResourceRequest

    kinds = worker_nodes(GREENE.slurm)
    largest = max(n.gpu for n in kinds.values())
    shapes = [
        reservation(Bundle(1, n), list(kinds.values()), kinds) if n <= largest else {"CPU": 1.0, "GPU": float(n)}
        for n in gpus
    ]
    tree = autoscaling(Cluster(Path("/x")), GREENE, worker_types(GREENE.slurm)) | {"cluster_name": "x"}
    config = AutoscalingConfig(tree, skip_content_hash=True)
    gangs = [GangResourceRequest(requests=[ResourceRequestUtil.make(shape)]) for shape in shapes]
    quiet = AutoscalerEventLogger(_Quiet(), log_cluster_shape=False)
    reply = ResourceDemandScheduler(quiet).schedule(
        SchedulingRequest(
            node_type_configs=config.get_node_type_configs(),
            max_num_nodes=config.get_max_num_nodes(),
            gang_resource_requests=gangs,
            disable_launch_config_check=True,
        )
    )
    return {r.instance_type: r.count for r in reply.to_launch}, len(reply.infeasible_gang_resource_requests)


class _Quiet:
    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


def test_ray_takes_the_patience_with_jobs_in_the_queue_from_where_the_farm_writes_it() -> None:
    code = (
        "import json; from ray.autoscaler.v2.instance_manager import config as c; "
        "from ray.autoscaler._private.constants import AUTOSCALER_MAX_CONCURRENT_LAUNCHES as n; "
        "allocated = c.InstanceReconcileConfig().allocate_status_timeout_s; "
        "print(json.dumps([allocated, c.RAY_AUTOSCALER_PENDING_NODE_IDLE_TIMEOUT_S, n]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment() | AUTOSCALER, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [365 * 86400, 60, 50]


WAITED_TWO_DAYS = """
import time
from ray.autoscaler.v2.instance_manager.common import InstanceUtil
from ray.autoscaler.v2.instance_manager.config import InstanceReconcileConfig
from ray.autoscaler.v2.instance_manager.reconciler import Reconciler
from ray.core.generated.instance_manager_pb2 import Instance
waiting = InstanceUtil.new_instance("a", "gpu1", Instance.ALLOCATED)
waiting.status_history[0].timestamp_ns -= 2 * 86400 * 10**9
patience = InstanceReconcileConfig().allocate_status_timeout_s
print(Reconciler._handle_stuck_instance(waiting, patience, Instance.ALLOCATION_TIMEOUT) is not None)
"""
"""Whether Ray's reconciler gives up a node whose job has been in the queue for two days."""


@pytest.mark.parametrize(("variables", "given_up"), [({}, "True"), (AUTOSCALER, "False")])
def test_a_job_that_waits_for_days_is_kept_over_rays_time_out(variables: dict[str, str], given_up: str) -> None:
    words = [sys.executable, "-c", WAITED_TWO_DAYS]
    done = subprocess.run(words, capture_output=True, text=True, env=environment() | variables, check=True)
    assert done.stdout.split()[-1] == given_up


def test_squeue_alone_tells_which_jobs_are_whose() -> None:
    ours, hers = "farm-greene-3f9c1a", "farm-greene-000000"
    names = [new_name(ours, "gpu4"), f"{ours}-head", new_name(hers, "gpu1"), "somebody's|job", new_name(ours, "cpu")]
    lines = [f"{9 - i}|PENDING|Priority||{name}" for i, name in enumerate(names)]
    assert [(j.number, j.kind) for j in parse("\n".join(lines), ours)] == [(5, "cpu"), (9, "gpu4")]


RUNS = Job(7, "RUNNING", "None", "gr001", "gpu2", "abc")


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (dataclasses.replace(RUNS, state="TIMEOUT"), "job 7 (gpu2) was killed at its walltime (Slurm: TIMEOUT)"),
        (dataclasses.replace(RUNS, state="NODE_FAIL"), "lost its node (Slurm: NODE_FAIL)"),
        (dataclasses.replace(RUNS, state="FAILED", reason="NonZeroExitCode"), "its log is /logs/7.log"),
        (dataclasses.replace(RUNS, state="COMPLETING"), None),
        (dataclasses.replace(RUNS, state="PENDING", reason="JobHeldAdmin"), "is held (Slurm: JobHeldAdmin); scontrol"),
        (
            dataclasses.replace(RUNS, state="PENDING", reason="QOSMaxGRESPerUser"),
            "a limit of your account's (Slurm: QOS",
        ),
        (dataclasses.replace(RUNS, state="PENDING", reason="PartitionDown"), "is held back by Slurm: PartitionDown"),
        (RUNS, None),
        (None, "job 7 (gpu2) is not in the queue any more"),
    ],
)
def test_what_slurm_does_to_a_job_is_said_with_slurms_reason(after: Job | None, words: str | None) -> None:
    lines = news({7: RUNS}, {7: after} if after else {}, set(), LOGS)
    assert (words in lines[0]) if words else lines == []
    assert news({7: RUNS}, {7: after} if after else {}, {7}, LOGS) == []  # the farm's own doing is no news


def test_a_job_that_waits_on_is_said_once() -> None:
    waits = dataclasses.replace(RUNS, state="PENDING", reason="Priority")
    assert len(news({}, {7: waits}, set(), LOGS)) == 1
    assert news({7: waits}, {7: dataclasses.replace(waits, reason="Resources")}, set(), LOGS) == []


@pytest.mark.parametrize(
    ("verb", "words", "code", "message"),
    [
        ("up", ("site=local",), 2, "this site has none; elastic workers need a Slurm site"),
        ("up", ("site=grene",), 2, "nearest is greene"),
        ("up", ("site=greene", "head=their"), 2, "head=their: one of job, here is expected"),
        ("up", ("site=greene", "slurm.max_worker=3"), 2, "nearest is slurm.max_workers"),
        ("up", ("site=greene", "slurm.image=/nowhere/farm.sif"), 3, ""),
        ("down", ("site=greene",), 0, ""),
        ("run", ("site=greene", f"study={COUNTING}", "ray_address=up"), 3, "no farm is up for site=greene"),
    ],
)
def test_mistakes_are_answered(
    farm: Callable[..., Finished], verb: str, words: tuple[str, ...], code: int, message: str
) -> None:
    done = farm(*words, verb=verb, variables={"USER": "me"})
    assert done.code == code, done.err
    assert message in done.err
    assert "Traceback" not in done.err


def test_a_dry_run_prints_every_script_and_writes_nothing(farm: Callable[..., Finished], tmp_path: Path) -> None:
    done = farm("site=greene", "--dry-run", verb="up", variables={"USER": "me"})
    assert (done.code, done.out.count("#!/bin/bash")) == (0, 5)
    assert "--gres=gpu:rtx8000:4" in done.out
    assert not (tmp_path / "results").exists()


def hardware(results: Path, *words: str) -> set[str | None]:
    """GPU models of the trials that a run would start."""
    plan = make_plan(load(["problem=4", f"results={results}", *words]), [], estimate=False)
    return {t.spec.hardware for t in plan.trials}


@pytest.fixture
def no_gpu_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "gpu_models", lambda: ())


@pytest.mark.usefixtures("no_gpu_here")
def test_a_timed_study_on_elastic_workers_is_of_the_sites_gpu_model(tmp_path: Path) -> None:
    assert hardware(tmp_path, "site=greene", "ray_address=up") == {"Quadro RTX 8000"}
    assert hardware(tmp_path, "site=torch", "ray_address=up", "slurm.gpu_type=l40s") == {"NVIDIA L40S"}
    assert hardware(tmp_path, "site=greene", "ray_address=up", "hardware=H") == {"H"}
    with pytest.raises(UsageError, match="hardware='NVIDIA H200'"):
        hardware(tmp_path, "site=greene", "ray_address=up", "slurm.gpu_type=v100")


def test_a_gpu_beside_the_head_runs_no_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "gpu_models", lambda: ("Tesla T4",))
    assert hardware(tmp_path, "site=greene", "ray_address=up") == {"Quadro RTX 8000"}
    assert hardware(tmp_path, "site=greene", "ray_address=10.0.0.1:6379") == {"Tesla T4"}


@pytest.mark.usefixtures("no_gpu_here")
@pytest.mark.parametrize("address", ["up", "10.0.0.1:6379"])
def test_where_no_site_tells_the_gpu_model_the_ledger_does(tmp_path: Path, address: str) -> None:
    trial = tmp_path / "problem4" / "trials" / "a-0123456789ab"
    trial.mkdir(parents=True)
    (trial / "spec.json").write_text(json.dumps({"hardware": "NVIDIA H200"}))
    assert hardware(tmp_path, f"ray_address={address}") == {"NVIDIA H200"}


@pytest.mark.usefixtures("no_gpu_here")
def test_the_kind_of_gpu_is_that_with_which_the_farm_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(up, "sbatch", lambda *_: subprocess.CompletedProcess((), 0, "7", ""))
    monkeypatch.setenv("USER", "me")
    site = ("site=torch", "slurm.account=a", f"results={tmp_path}")

    def start(kind: str) -> str:
        place = load_place([*site, f"slurm.gpu_type={kind}"])
        return up._up(place, prepare(place), list(site))

    assert "ray_address=up\n" in start("l40s")
    assert hardware(tmp_path, "site=torch", "ray_address=up") == {"NVIDIA L40S"}
    (tmp_path / ".up" / "torch" / "cluster" / "head").unlink()
    assert "ray_address=up hardware='GPU MODEL'\n" in start("'h200|l40s'")
    with pytest.raises(UsageError, match="farm down, then farm up with one kind"):
        hardware(tmp_path, "site=torch", "ray_address=up", "hardware=NVIDIA H200")


class Scripted:
    """A Slurm whose every answer is set: which job is withdrawn first, or starts just then, is chance with a real one.

    It does as Slurm 22.05 was seen to do: MinTmpDiskNode is refused for a job that runs, and with it the name.
    """

    def __init__(self, **jobs: str) -> None:
        self.jobs = {int(name[1:]): [state, f"{CLUSTER}-gpu1-{name}"] for name, state in jobs.items()}
        self.starts_now: set[int] = set()

    def __call__(self, spool: Path, *words: str) -> subprocess.CompletedProcess[str]:
        out, code = "", 0
        match words:
            case ("squeue", *_):
                out = "\n".join(f"{n}|{state}|None||{name}" for n, (state, name) in self.jobs.items())
            case ("scancel", number):
                self.jobs[int(number)][0] = "CANCELLED"
            case ("scontrol", "update", job, "MinTmpDiskNode=0", name):
                renamed = int(job.removeprefix("JobId="))
                if renamed in self.starts_now:
                    self.jobs[renamed][0] = "RUNNING"
                code = int(self.jobs[renamed][0] != "PENDING")
                if not code:
                    self.jobs[renamed][1] = f"{CLUSTER}-gpu1-{name.rpartition('-')[2]}"
            case ("sbatch", "--parsable", name, _):
                new = max(self.jobs, default=0) + 1
                self.jobs[new] = ["PENDING", name.removeprefix("--job-name=")]
                out = str(new)
            case _:
                raise AssertionError(words)
        return subprocess.CompletedProcess(words, code, out, "")

    def states(self) -> dict[int, str]:
        """State and identity of each job."""
        return {n: f"{state} as {name.rpartition('-')[2]}" for n, (state, name) in self.jobs.items()}


Provided = Callable[[Scripted], SlurmNodeProvider]


@pytest.fixture
def provided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Provided:
    """A provider over a scripted Slurm; what it says is in tmp_path/jobs.log."""

    def make(slurm: Scripted) -> SlurmNodeProvider:
        monkeypatch.setattr(provider, "ask", slurm)
        monkeypatch.setattr(provider, "SAME_SECONDS", 0)
        monkeypatch.setattr(provider, "GATHER_SECONDS", 0)
        return SlurmNodeProvider({"shared": str(tmp_path), "logs": str(tmp_path)}, CLUSTER)

    return make


@pytest.mark.parametrize("order", [("n1", "n2"), ("n2", "n1")])
def test_all_jobs_of_a_kind_are_withdrawn_in_whatever_order(provided: Provided, order: tuple[str, ...]) -> None:
    slurm = Scripted(n1="PENDING", n2="PENDING")
    nodes = provided(slurm)
    for name in order:
        nodes.terminate_node(name)
    assert {state.split()[0] for state in slurm.states().values()} == {"CANCELLED"}
    assert nodes.non_terminated_nodes({}) == ["head"]


def test_the_oldest_keeps_its_place_under_the_name_that_is_wanted(provided: Provided) -> None:
    slurm = Scripted(n1="PENDING", n2="PENDING", n3="RUNNING")
    nodes = provided(slurm)
    nodes.terminate_node("n1")
    assert slurm.states() == {1: "PENDING as n2", 2: "CANCELLED as n2", 3: "CANCELLED as n3"}  # 3: another head's
    assert nodes.non_terminated_nodes({}) == ["head", "n2"]


def test_a_job_that_starts_just_then_keeps_its_name_and_goes_itself(provided: Provided) -> None:
    slurm = Scripted(n1="PENDING", n2="PENDING")
    nodes = provided(slurm)
    slurm.starts_now = {1}
    nodes.terminate_node("n1")
    assert slurm.states() == {1: "CANCELLED as n1", 2: "PENDING as n2"}


def test_workers_that_fail_as_they_start_are_asked_for_ever_more_slowly(
    provided: Provided, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(provider, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=time.sleep, strftime=str))
    slurm = Scripted()
    nodes = provided(slurm)

    def ask_for_one() -> int:
        tags = {"ray-user-node-type": "gpu1"}
        nodes.create_node_with_resources_and_labels({"script": "gpu1.sh"}, tags, 1, {"GPU": 1}, {})
        nodes.non_terminated_nodes({})
        return max(slurm.jobs)

    for delay in (30, 60):
        slurm.jobs[ask_for_one()][0] = "FAILED"
        nodes.non_terminated_nodes({})
        with pytest.raises(RuntimeError, match=r"job \d failed as it started; its log is"):
            ask_for_one()
        assert f"no job of kind gpu1 for {delay} s" in (tmp_path / "jobs.log").read_text()
        clock[0] += delay + 1
    served = ask_for_one()
    (tmp_path / joined_file(served)).touch()
    slurm.jobs[served][0] = "FAILED"  # its Ray died in mid-work: the next is asked for at once
    nodes.non_terminated_nodes({})
    assert ask_for_one() == served + 1


def test_states_that_slurm_has_besides_are_alive_and_said() -> None:
    stopped = dataclasses.replace(RUNS, state="SUSPENDED")
    assert (stopped.alive, stopped.over) == (True, False)
    assert news({7: RUNS}, {7: stopped}, set(), LOGS) == ["job 7 (gpu2) is SUSPENDED (Slurm's word)"]
    assert dataclasses.replace(RUNS, state="REQUEUE_HOLD").alive
    assert dataclasses.replace(RUNS, state="DEADLINE").over


def test_a_run_takes_the_kinds_of_the_farm_that_is_up(tmp_path: Path) -> None:
    few = load_place(["site=greene", "results=/x", "slurm.cpus_per_node=4"]).settings
    cluster = Cluster(tmp_path)
    cluster.shared.mkdir()
    tree = autoscaling(cluster, few, worker_types(few.slurm))
    (cluster.shared / "cluster.yaml").write_text(yaml.safe_dump(tree))
    assert kinds_that_are_up(cluster.shared) == worker_nodes(few.slurm) != worker_nodes(GREENE.slurm)


def test_a_directory_that_others_can_write_is_refused(tmp_path: Path) -> None:
    place = load_place(["site=greene", f"results={tmp_path}"])
    shared = cluster_at(place.results, place.site).shared
    shared.mkdir(parents=True)
    shared.chmod(0o770)
    with pytest.raises(PreflightError, match="open to others"):
        prepare(place)
    shared.chmod(0o700)
    assert prepare(place).name.startswith("farm-greene-")


def test_constraints_that_name_gpus_are_not_for_workers_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "me")
    place = load_place(["site=torch", "results=/x", "slurm.account=a"])
    found = {kind: "--constraint=" in text for kind, text in up.scripts(place, Cluster(Path("/x/.up/torch"))).items()}
    assert found == {"head": False, "cpu": False, "gpu1": True, "gpu2": True, "gpu4": True, "gpu8": True}


def test_workers_in_an_image_see_the_checkouts_own_data_where_there_is_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(up, "data_directory", lambda value: tmp_path / "data")
    place = load_place(["site=greene", "results=/x", "slurm.image=/i.sif", "slurm.binds=[]"])
    cluster = Cluster(Path("/x/.up/greene"))
    assert not any("/data " in script for script in up.scripts(place, cluster).values())
    (tmp_path / "data").mkdir()
    assert all(f"--bind {tmp_path / 'data'} " in script for script in up.scripts(place, cluster).values())


@pytest.mark.parametrize(
    ("said", "known"), [("Invalid job id specified", True), ("Unable to contact slurm controller", False)]
)
def test_a_slurm_that_does_not_answer_is_no_empty_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, known: bool
) -> None:
    squeue = tmp_path / "squeue"
    squeue.write_text(f"#!/bin/sh\necho 'slurm_load_jobs error: {said}' >&2\nexit 1\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(up, "SQUEUE_PAUSE_SECONDS", 0)
    cluster = Cluster(tmp_path)
    cluster.shared.mkdir()
    (cluster.shared / "head").write_text("job 7")
    with contextlib.nullcontext() if known else pytest.raises(PreflightError, match=said):
        assert up.head_of(cluster) == ""
