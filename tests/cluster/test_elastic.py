"""Elastic workers, with a real Slurm and Ray's real autoscaler: jobs come, go, wait and get lost as they should."""

from __future__ import annotations

import re
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from commands import COUNTING, exported
from counted import committed, rows, undisturbed
from slurm_lab import GPUS, Lab, Running, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
IDLE_SECONDS = 15
UP = ("slurm.idle_minutes=0.25", "slurm.head_cpus=1", "slurm.head_memory_gib=3")
TRIAL = ("ray_address=up", "resources.cpu=0.25", "commit_seconds=0")
ONE_GPU = ("trial.gpus=1", "resources.gpu=1")
TOLD = (
    "was cancelled by somebody else than the farm (Slurm: CANCELLED",
    "lost its Ray, or could not start it (Slurm: FAILED",
    "belonged to a head that is gone, and is cancelled",
)


class Farm:
    """A farm of elastic workers in the lab, by its results directory."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.lab = lab
        self.results = lab.results.with_name(name)
        self.logs = self.results / ".up" / lab.site.stem
        self.place = f"results={self.results}"

    @property
    def name(self) -> str:
        """With it the names of its jobs begin."""
        return (self.logs / "cluster" / "name").read_text()

    def up(self) -> None:
        """`farm up`."""
        done = self.lab.farm("up", *UP, self.place)
        assert done.code == 0, done.err

    def down(self) -> None:
        """`farm down`, which leaves nothing."""
        done = self.lab.farm("down", self.place)
        assert done.code == 0, done.err
        assert not (self.logs / "cluster").exists()

    def run(self, log: str, *words: str, study: Path = COUNTING) -> AbstractContextManager[Running]:
        """`farm run … ray_address=up` in the background."""
        self.results.mkdir(exist_ok=True)
        return self.lab.background("run", f"study={study}", *TRIAL, *words, self.place, log=self.results / log)

    def jobs(self, state: str = "") -> dict[int, str]:
        """Kinds of its jobs in the queue, by number, without the head's."""
        lines = self.lab.on("login", "squeue", "--noheader", "--format=%A %T %j").out.splitlines()
        found = [line.split() for line in lines]
        mine = [(int(n), name) for n, s, name in found if name.startswith(f"{self.name}-") and state in s]
        return {n: name.split("-")[-2] for n, name in mine if not name.endswith("-head")}

    def head(self) -> int:
        """Number of the head's job."""
        return int((self.logs / "cluster" / "head").read_text().split()[1])

    def told(self) -> str:
        """What the farm said of Slurm's doings, and its head and workers of themselves."""
        logs = [*sorted(self.logs.glob("*.log")), *sorted(self.results.glob("*.log"))]
        return "\n".join(f"{p.name}:\n{p.read_text()[-3000:]}" for p in logs)

    def wait(self, condition: Callable[[], object], seconds: float, what: str) -> None:
        """Return when the condition holds."""
        wait_for(condition, seconds, what, self.told)

    def wait_for_epochs(self, count: int) -> None:
        """Return when the ledger holds so many more epochs."""
        wanted = committed(self.results) + count
        self.wait(lambda: committed(self.results) >= wanted, 120, f"{count} epochs")

    def wait_until_idle(self) -> None:
        """Return when no worker is in the queue: within the idle time and a minute."""
        self.wait(lambda: not self.jobs(), IDLE_SECONDS + 60, "no worker is left in the queue")


@pytest.fixture(scope="module")
def farm(lab: Lab) -> Iterator[Farm]:
    """A farm whose head is a job."""
    one = Farm(lab, "elastic")
    one.up()
    yield one
    one.down()
    wait_for(lambda: not lab.on("login", "squeue", "--noheader").out, 60, "the queue is empty")
    wait_for(lambda: not leftovers(lab), 30, "Ray is gone from all nodes", lambda: leftovers(lab))


def leftovers(lab: Lab) -> str:
    """Command lines of Ray processes on the compute nodes."""
    return "\n".join(
        f"{host}: {p.pid} {p.cmdline()}" for host in GPUS for p in lab.ray_processes(host) if p.is_running()
    )


@contextmanager
def full(lab: Lab) -> Iterator[Callable[[], None]]:
    """Somebody else's jobs hold every GPU; the value lets one node's go."""
    jobs = {}
    for host, gpus in GPUS.items():
        words = ("--parsable", "--mem=100M", f"--nodelist={host}", f"--gres=gpu:{gpus}", "--output=/dev/null")
        jobs[host] = int(lab.on("login", "sbatch", *words, "--wrap=sleep 1000").out)
    try:
        wait_for(lambda: all(lab.state(j) == "RUNNING" for j in jobs.values()), 60, "the partition is full")
        yield lambda: lab.scancel(jobs["gr003"])
    finally:
        for job in jobs.values():
            lab.scancel(job)


def test_from_zero_workers_to_the_right_jobs_and_back(farm: Farm) -> None:
    sizes = ("sweep.gpus=[1,2,4,8]", "resources.gpu=gpus", "sweep.factor=[1]")
    assert farm.jobs() == {}
    with farm.run("sizes.log", *sizes, "trial.epochs=8", "trial.seconds=0.5") as run:
        farm.wait(lambda: len(farm.jobs()) == 3, 90, "a job for each trial")
        kinds = farm.jobs()
        assert run.end(240) == 1, run.said  # the trial of 8 GPUs
    assert [kinds[n] for n in sorted(kinds)] == ["gpu4", "gpu2", "gpu1"]
    assert run.said.index("needs 0.25 CPUs and 8 GPUs on one node") < run.said.index("slurm: job")
    plan = Counter((r["gpus"], r["state"]) for r in exported(farm.results, "counting", "plan"))
    assert plan == {(1, "done"): 1, (2, "done"): 1, (4, "done"): 1, (8, "unschedulable"): 1}
    farm.wait_until_idle()
    assert farm.lab.on("login", "squeue", "--noheader", "--format=%j").out.split() == [f"{farm.name}-head"]


def test_nothing_is_lost_or_run_twice_whatever_is_cancelled_and_killed(farm: Farm, tmp_path: Path) -> None:
    axis = "sweep.factor=[11,12]"
    with farm.run("faults.log", axis, "trial.epochs=200", "trial.seconds=0.5", *ONE_GPU) as run:
        farm.wait_for_epochs(10)
        cancelled, killed = sorted(farm.jobs("RUNNING"))
        farm.lab.scancel(cancelled)
        assert farm.lab.kill_ray(farm.lab.host(killed), killed) > 2
        farm.wait(lambda: len(farm.jobs("RUNNING").keys() - {cancelled, killed}) == 2, 120, "two other workers")
        farm.wait_for_epochs(10)
        assert farm.lab.kill_ray(farm.lab.host(farm.head()), farm.head()) > 2
        assert run.end(300) == 0, run.said
    for words in TOLD:
        assert words in run.said, farm.told()
    assert [r for r in rows(farm.results) if r[0] in (11, 12)] == undisturbed(tmp_path, 200, axis)
    assert not any(r["how"] == "failed" for r in exported(farm.results, "counting", "attempts"))
    farm.wait_until_idle()


def test_jobs_keep_their_places_in_a_full_partition_and_the_youngest_is_withdrawn(farm: Farm) -> None:
    """Over a refusal, a hold, more than Ray's patience with pending nodes, and the head's death."""
    slurm = farm.lab.on
    other = farm.lab.directory / "shared" / "other.yaml"
    other.write_text(COUNTING.read_text().replace("study: counting", "study: other"))
    shutil.copy(COUNTING.with_suffix(".py"), other.parent)
    with full(farm.lab) as make_room, farm.run("first.log", "sweep.factor=[41]", *ONE_GPU) as first:
        farm.wait(lambda: len(farm.jobs("PENDING")) == 1, 60, "a job waits")
        slurm("login", "scontrol", "hold", str(min(farm.jobs())))
        farm.wait(lambda: "is held (Slurm: JobHeld" in first.said, 60, "the hold is said")
        slurm("login", "scontrol", "update", "PartitionName=gpu", "State=INACTIVE")
        with farm.run("second.log", "sweep.factor=[42,43]", *ONE_GPU, study=other) as second:
            farm.wait(lambda: "Slurm refuses a job of kind gpu1" in second.said, 60, "a refusal")
            slurm("login", "scontrol", "update", "PartitionName=gpu", "State=UP")
            slurm("login", "scontrol", "release", str(min(farm.jobs())))
            farm.wait(lambda: len(farm.jobs("PENDING")) == 3, 90, "a job for each trial waits")
            kept = sorted(farm.jobs())[:2]
            first.send(signal.SIGUSR1)
            assert first.end(60) == 75, first.said
            farm.wait(lambda: sorted(farm.jobs()) == kept, 120, "the youngest is withdrawn")
            assert farm.lab.kill_ray(farm.lab.host(farm.head()), farm.head()) > 2
            farm.wait(lambda: "is taken over" in second.said, 90, "another head takes the jobs over")
            assert sorted(farm.jobs("PENDING")) == kept
            make_room()
            assert second.end(180) == 0, second.said
    assert {int(n) for n in re.findall(r"job (\d+) \(gpu1\) runs on gr003", second.said)} == set(kept)
    farm.wait_until_idle()


def test_two_farms_do_not_take_each_others_workers(farm: Farm, tmp_path: Path) -> None:
    """The second has its head on the login node, is killed whole, comes back, and goes."""
    other = Farm(farm.lab, "here")
    other.results.mkdir()
    study = ("sweep.factor=[51,52]", "trial.epochs=60", "trial.seconds=0.5", *ONE_GPU)
    with farm.run("both.log", *study) as ours:
        with other.lab.background("up", *UP, "head=here", other.place, log=other.results / "up.log") as head:
            wait_for(lambda: (other.logs / "cluster" / "address").exists(), 60, "the second farm is up", other.told)
            with other.run("both.log", *study) as theirs:
                other.wait_for_epochs(4)
                assert len(farm.jobs()) == len(other.jobs()) == 2
                tokens = {(one.logs / "cluster" / "token").read_text() for one in (farm, other)}
                assert len(tokens) == 2
                orphans = other.jobs()
                head.send(signal.SIGKILL, family=True)
                assert theirs.end(60) == 3, theirs.said
                assert "its head is gone" in theirs.said
        with other.lab.background("up", *UP, "head=here", other.place, log=other.results / "again.log") as head:
            other.wait(lambda: not orphans.keys() & other.jobs("RUNNING").keys(), 90, "its old workers are cancelled")
            with other.run("again.log", *study) as theirs:
                assert theirs.end(240) == 0, theirs.said
            other.down()
            head.end(60)
        assert ours.end(120) == 0, ours.said
    wanted = undisturbed(tmp_path, 60, "sweep.factor=[51,52]")
    for one in (farm, other):
        assert [r for r in rows(one.results) if r[0] in (51, 52)] == wanted
    lines = [(one.logs / "jobs.log").read_text() for one in (farm, other)]
    mine, hers = ({int(n) for n in re.findall(r"job (\d+) ", text)} for text in lines)
    assert not mine & hers
    assert "cancelled by somebody else" not in (farm.logs / "jobs.log").read_text().rpartition("taken over")[2]
