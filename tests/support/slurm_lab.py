"""A real Slurm for tests: three compute nodes that are namespaces of this machine, with 4, 4 and 2 logical GPUs."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from commands import ROOT, Finished, command, environment

SCRIPT = ROOT / "tests" / "cluster" / "lab.sh"
GPUS = {"gr001": 4, "gr002": 4, "gr003": 2}
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "munged", "ip", "nsenter", "unshare")
NAMESPACES = ("--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--net", "--uts")
SLURM_CONF = """ClusterName=lab
SlurmctldHost=login(10.77.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={lab}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={lab}/state
SlurmdSpoolDir={lab}/spool/%n
SlurmctldPidFile={lab}/slurmctld.pid
SlurmdPidFile={lab}/%n.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,bf_interval=2
"""
NODE = (
    "NodeName={name} NodeAddr={address} CPUs=8 Sockets=1 CoresPerSocket=8 ThreadsPerCore=1 RealMemory=32000 "
    "Gres=gpu:{gpus}\n"
)
SITE = """results: {lab}/shared/results
time: "20"
slurm:
  signal_seconds: 60
  logical_gpus: true
  cpus_per_node: 2
  memory_gib: 3
  node_types:
    four: {{cpus: 8, gpus: 4, memory_gib: 7}}
    two: {{cpus: 8, gpus: 2, memory_gib: 7}}
"""


def missing() -> str:
    """Why there can be no lab on this machine, or nothing."""
    if os.getuid() != 0:
        return "a Slurm of one's own needs root"
    if lacking := [p for p in PROGRAMS if shutil.which(p) is None]:
        return f"{', '.join(lacking)} not installed (apt-get install slurm-wlm munge iproute2)"
    probe = subprocess.run(
        ["unshare", *NAMESPACES, "ip", "link", "add", "probe", "type", "bridge"], capture_output=True
    )
    return f"namespaces cannot be made here: {probe.stderr.decode().strip()}" if probe.returncode else ""


def wait_for(condition: Callable[[], Any], seconds: float, what: str, state: Callable[[], str] = str) -> None:
    """Return when the condition holds; else fail with `what` was waited for and the `state` of things."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}\n{state()}"
        time.sleep(0.3)


@dataclass(frozen=True)
class Running:
    """A command that runs in the lab: nsenter, whose child it is."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def said(self) -> str:
        """What it has said so far."""
        return self.log.read_text()

    def send(self, number: int, family: bool = False) -> None:
        """Signal the command, or it and all that it started."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for one in psutil.Process(self.process.pid).children(recursive=family):
                one.send_signal(number)

    def end(self, seconds: float) -> int:
        """Wait for it; its exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not over within {seconds:g} s:\n{self.said}") from None


class Lab:
    """A running lab. Commands run on its login node or on a compute node."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.site = directory / "site.yaml"
        self.results = directory / "shared" / "results"
        self._holder: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Write the configuration, start everything, wait until all nodes are idle."""
        for name in ("log", "tmp", "munge", "state", "gpu", "spool", "shared", "home"):
            (self.directory / name).mkdir()
        _write_configuration(self.directory)
        with (self.directory / "log" / "lab.log").open("wb") as log:
            self._holder = subprocess.Popen(
                ["unshare", *NAMESPACES, "bash", str(SCRIPT), str(self.directory), str(ROOT), *GPUS],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        wait_for(self._ready, 60, "the lab's nodes are idle", self._logs)

    def stop(self) -> None:
        """Kill the first process of the lab's PID namespace, and with it everything."""
        assert self._holder is not None
        self._holder.kill()
        self._holder.wait()

    def on(self, host: str, *words: str, variables: dict[str, str] | None = None, timeout: float = 120) -> Finished:
        """Run a command on a host of the lab."""
        began = time.monotonic()
        settings = self._environment() | (variables or {})
        done = subprocess.run(
            [*self._enter(host), *words], capture_output=True, text=True, env=settings, timeout=timeout
        )
        return Finished(done.returncode, done.stdout, done.stderr, time.monotonic() - began)

    def farm(self, verb: str, *words: str) -> Finished:
        """`farm VERB … site=LAB` on the login node, by a user with an empty home."""
        return self.on("login", *command(*words, f"site={self.site}", verb=verb), variables=self._user())

    @contextlib.contextmanager
    def background(self, verb: str, *words: str, log: Path) -> Iterator[Running]:
        """The same for as long as a block; what it says goes into `log`."""
        line = [*self._enter("login"), *command(*words, f"site={self.site}", verb=verb)]
        with log.open("wb") as sink:
            running = Running(
                subprocess.Popen(
                    line,
                    stdin=subprocess.DEVNULL,
                    stdout=sink,
                    stderr=sink,
                    env=self._environment() | self._user(),
                    start_new_session=True,
                ),
                log,
            )
        try:
            yield running
        finally:
            running.send(signal.SIGKILL)
            running.process.wait()

    def _enter(self, host: str) -> list[str]:
        return ["nsenter", f"--target={self._pid(host)}", "--mount", "--pid", "--net", "--uts", f"--wd={ROOT}", "--"]

    def _environment(self) -> dict[str, str]:
        return environment() | {"SLURM_CONF": str(self.directory / "slurm.conf")}

    def _user(self) -> dict[str, str]:
        return {"PYTHONPATH": str(ROOT), "HOME": str(self.directory / "home")}

    def submit(self, *words: str, results: Path | None = None) -> int:
        """`farm submit …`; the job's id."""
        done = self.farm("submit", *words, f"results={results or self.results}")
        assert done.code == 0, done.err
        return int(done.out.split()[1].rstrip(":"))

    def scancel(self, job: int) -> None:
        """Cancel a job."""
        self.on("login", "scancel", str(job))

    def state(self, job: int) -> str:
        """The job's state in the queue, e.g. RUNNING; empty when it is not there."""
        return self.on("login", "squeue", "--noheader", "--format=%T", f"--jobs={job}").out.strip()

    def host(self, job: int) -> str:
        """The node of a running job."""
        return self.on("login", "squeue", "--noheader", "--format=%N", f"--jobs={job}").out.strip()

    def wait_until_over(self, job: int, seconds: float = 240) -> None:
        """Return when the job has left the queue."""
        wait_for(lambda: self.state(job) == "", seconds, f"job {job} is over", lambda: self.log(job))

    def log(self, job: int, results: Path | None = None) -> str:
        """What the job has said so far."""
        return "\n".join(p.read_text() for p in (results or self.results).parent.rglob(f"slurm/{job}.log"))

    def shared(self, job: int) -> Path:
        """Directory of the job's token and address, while it runs."""
        found = sorted(self.results.parent.rglob(f"slurm/{job}-*"))
        assert found, self.log(job)
        return found[-1]

    def processes(self, host: str) -> list[psutil.Process]:
        """All processes on one host, known by its network namespace."""
        own = os.stat(f"/proc/{self._pid(host)}/ns/net").st_ino
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):
                if os.stat(f"/proc/{process.pid}/ns/net").st_ino == own:
                    found.append(process)
        return found

    def ray_processes(self, host: str) -> list[psutil.Process]:
        """The Ray processes on one host: what has a Ray session directory or a Ray title in its command line."""
        found = []
        for process in self.processes(host):
            with contextlib.suppress(psutil.Error):
                line = " ".join(process.cmdline())
                if "session_" in line or line.startswith("ray::") or "/ray start" in line:
                    found.append(process)
        return found

    def kill_ray(self, host: str, job: int | None = None) -> int:
        """`kill -9` of the Ray processes on one host, or of those of one job there; how many there were."""
        mark = "" if job is None else f"/r{job}"
        found = [p for p in self.ray_processes(host) if mark in " ".join(p.cmdline())]
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return len(found)

    def _pid(self, host: str) -> int:
        """A process that lives on the host: slurmd, or the login node's slurmctld."""
        assert self._holder is not None
        wanted = ["slurmctld"] if host == "login" else ["slurmd", "-D", "-N", host]
        for process in psutil.Process(self._holder.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if process.cmdline()[: len(wanted)] == wanted:
                    return process.pid
        raise AssertionError(f"nothing runs on {host}: {self._logs()}")

    def _ready(self) -> bool:
        assert self._holder is not None
        assert self._holder.poll() is None, self._logs()
        if not (self.directory / "started").exists():
            return False
        with contextlib.suppress(AssertionError):
            return self.on("login", "sinfo", "--noheader", "--Node", "--format=%t").out.split() == ["idle"] * len(GPUS)
        return False

    def _logs(self) -> str:
        return "\n".join(f"{p.name}:\n{p.read_text()[-2000:]}" for p in sorted((self.directory / "log").iterdir()))


@contextlib.contextmanager
def slurm_lab() -> Iterator[Lab]:
    """A lab for the length of a block, in a directory outside /tmp: each node has a /tmp of its own."""
    directory = Path(tempfile.mkdtemp(prefix="lab", dir="/var/tmp"))
    lab = Lab(directory)
    try:
        lab.start()
        yield lab
    finally:
        lab.stop()
        shutil.rmtree(directory, ignore_errors=True)


def _write_configuration(lab: Path) -> None:
    key = lab / "munge" / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    key.parent.chmod(0o711)  # the socket is there too
    lab.chmod(0o755)
    addresses = {name: f"10.77.0.{i}" for i, name in enumerate(["login", *GPUS], start=1)}
    (lab / "hosts").write_text("127.0.0.1 localhost\n" + "".join(f"{a} {n}\n" for n, a in addresses.items()))
    nodes = "".join(NODE.format(name=n, address=addresses[n], gpus=g) for n, g in GPUS.items())
    partition = f"PartitionName=gpu Nodes={','.join(GPUS)} Default=YES MaxTime=INFINITE State=UP\n"
    (lab / "slurm.conf").write_text(SLURM_CONF.format(lab=lab) + nodes + partition)
    devices = ""
    for name, count in GPUS.items():
        for number in range(count):
            (lab / "gpu" / f"{name}-{number}").touch()
        devices += f"NodeName={name} Name=gpu File={lab}/gpu/{name}-[0-{count - 1}]\n"
    (lab / "gres.conf").write_text(devices)
    (lab / "site.yaml").write_text(SITE.format(lab=lab))


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: a killed pytest leaves no lab behind
