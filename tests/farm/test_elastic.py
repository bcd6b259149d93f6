"""Elastic workers without a Slurm: sizes, scripts, Ray's schema and scheduler, words for what Slurm says."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import COUNTING, ROOT, Finished, environment

from farm.config import load_place
from farm.errors import UsageError
from farm.plan import Bundle, Node
from farm.reservation import OF_A_KIND, reservation
from farm.site import NodeType, Slurm
from farm.slurm.cluster import TEMPLATE, Cluster, autoscaling
from farm.slurm.jobs import Job, new_name, news, parse
from farm.slurm.node import AUTOSCALER
from farm.slurm.script import NodeJob, render
from farm.slurm.sizes import nice, worker_nodes, worker_types

GOLDEN = Path(__file__).with_name("golden")
GREENE = load_place(["site=greene", "results=/scratch/me/farm/results"]).settings
LOGS = Path("/logs")
WORKER = NodeJob(
    role="worker",
    kind="gpu2",
    cluster="farm-greene-3f9c1a",
    name="farm-greene-3f9c1a-gpu2",
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
