"""`farm up` and `farm down`: a head whose autoscaler makes Slurm jobs when trials wait, and the end of all of it."""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from farm.config import Place, data_directory
from farm.errors import PreflightError
from farm.site import NodeType
from farm.slurm.cluster import Cluster, autoscaling, cluster_at, prepare
from farm.slurm.script import NodeJob, render
from farm.slurm.sizes import nice, worker_types
from farm.slurm.submit import check_image, sbatch, site_words

DOWN_SECONDS = 90.0
NO_GPU = {"constraint": ""}
"""Constraints name kinds of GPUs."""
SQUEUE_TRIES, SQUEUE_PAUSE_SECONDS = 5, 2.0
SLURM = ("sbatch", "squeue", "scancel", "scontrol")


def scripts(place: Place, cluster: Cluster) -> dict[str, str]:
    """The batch scripts of the head and of each kind of worker."""
    settings = place.settings
    types = worker_types(settings.slurm)
    own = place.site.endswith((".yaml", ".yml"))
    data = data_directory(settings.data_root)  # the checkout's own is bound where it is: a bind of nothing fails
    seen = [str(place.results), *([str(data)] if settings.data_root or data.is_dir() else [])]
    seen += [str(Path(place.site).expanduser().absolute().parent)] if own else []

    def job(kind: str, role: str, node: NodeType, **more: Any) -> str:
        words = site_words(settings, node, seen) | {"shared": str(cluster.shared), "logs": str(cluster.logs)} | more
        return render(NodeJob(name=f"{cluster.name}-{kind}", cluster=cluster.name, role=role, kind=kind, **words))

    slurm = settings.slurm
    head = NodeType(slurm.head_cpus, 0, slurm.head_memory_gib)
    workers = {
        kind: job(
            kind, "worker", node, extra=tuple(slurm.options), nice=nice(node, types), **({} if node.gpus else NO_GPU)
        )
        for kind, node in types.items()
    }
    return {"head": job("head", "head", head, extra=tuple(slurm.head_options), **NO_GPU)} | workers


def up(place: Place, words: list[str], dry_run: bool) -> str:
    """Start the head; the text to show. With head=here this process becomes the head and does not return.

    Raises `PreflightError` where Slurm is not here or refuses the jobs, `UsageError` where the site is not right.
    """
    worker_types(place.settings.slurm)
    if dry_run:
        cluster = cluster_at(place.results, place.site)
        return "\n".join(f"# {kind}.sh\n{text}" for kind, text in scripts(place, cluster).items())
    _check_here(place)
    cluster = prepare(place)
    with _one_at_a_time(cluster):
        return _up(place, cluster, words)


def _up(place: Place, cluster: Cluster, words: list[str]) -> str:
    if living := head_of(cluster):
        where = "" if living.startswith("job") else "; where that host is gone, farm down first"
        return f"{cluster.name} is up already: {living}{where}\n{_next(place, words)}"
    (cluster.shared / "stop").unlink(missing_ok=True)
    _write_files(place, cluster)
    script = cluster.shared / "head.sh"
    if place.settings.head == "here":
        _note_head(cluster, f"here {socket.gethostname()} {os.getpid()}")
        print(f"{cluster.name}: the head runs here until Ctrl-C or farm down\n{_next(place, words)}", flush=True)
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "SBATCH_"))}
        os.execvpe("bash", ["bash", str(script)], environment)
    answer = sbatch(script.read_text())
    if answer.returncode:
        raise PreflightError(f"sbatch: {answer.stderr.strip()}")
    number = answer.stdout.strip().split(";")[0]
    _note_head(cluster, f"job {number}")
    return f"{cluster.name}: job {number} is its head; {cluster.logs}/head.log is its log\n{_next(place, words)}"


@contextmanager
def _one_at_a_time(cluster: Cluster) -> Iterator[None]:
    """Of two `farm up` at once the second finds the first one's head. The lock goes with this process's end or exec."""
    with (cluster.shared / ".up.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def down(place: Place) -> str:
    """End the head and all workers, and wait until Slurm has none of them; the text to show."""
    cluster = cluster_at(place.results, place.site)
    name = cluster.name
    if not name:
        return f"no farm is up for site={place.site} with results={place.results}"
    living = head_of(cluster)
    (cluster.shared / "stop").touch()
    before = len(_jobs(name))
    if living and "PENDING" not in living:  # the head ends in order, and cancels all
        deadline = time.monotonic() + DOWN_SECONDS
        while cluster.shared.exists() and head_of(cluster) and time.monotonic() < deadline:
            time.sleep(0.3)
    deadline = time.monotonic() + DOWN_SECONDS  # of its own: a head that hangs, or whose host is gone, ends nothing
    while (jobs := _jobs(name)) and time.monotonic() < deadline:
        _run("scancel", *[number for number, state in jobs.items() if state != "COMPLETING"])
        time.sleep(0.5)
    if jobs:
        raise PreflightError(f"{name}: Slurm still has {', '.join(jobs)} after {DOWN_SECONDS:g} s; farm down goes on")
    shutil.rmtree(cluster.shared, ignore_errors=True)
    return f"{name}: {before} jobs ended, none is left in the queue; logs stay in {cluster.logs}"


def head_of(cluster: Cluster) -> str:
    """Where the farm's head lives, in words that begin with `job N` or `here HOST PID`; empty where it does not."""
    try:
        where = (cluster.shared / "head").read_text()
    except FileNotFoundError:
        return ""
    kind, *rest = where.split()
    if kind == "job":
        state = _squeue(f"--jobs={rest[0]}", "--format=%T").strip()
        return f"{where} {state}" if state else ""  # COMPLETING: it may be on its way back into the queue
    host, pid = rest
    if host != socket.gethostname():
        return where if cluster.address else ""
    line = Path(f"/proc/{pid}/cmdline")
    return where if line.exists() and "head.sh" in line.read_text() else ""


def _check_here(place: Place) -> None:
    if lacking := [p for p in SLURM if shutil.which(p) is None]:
        raise PreflightError(
            f"{', '.join(lacking)}: not found; farm up runs on a login node (--dry-run shows its jobs)"
        )
    check_image(place.settings.slurm, place.site)


def _write_files(place: Place, cluster: Cluster) -> None:
    for kind, text in scripts(place, cluster).items():
        (cluster.shared / f"{kind}.sh").write_text(text)
        answer = sbatch(text, "--test-only")
        if answer.returncode and not (kind == "head" and place.settings.head == "here"):
            said = " ".join(answer.stderr.split()).removeprefix("sbatch: ")
            raise PreflightError(f"Slurm refuses a job of kind {kind}: {said}; slurm.KEY=…, farm up --help lists them")
    (cluster.shared / "gpu_type").write_text(place.settings.slurm.gpu_type)
    tree = autoscaling(cluster, place.settings, worker_types(place.settings.slurm))
    (cluster.shared / "cluster.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))


def _note_head(cluster: Cluster, where: str) -> None:
    (cluster.shared / "head").write_text(where)


def _next(place: Place, words: list[str]) -> str:
    kept = [w for w in words if w.partition("=")[0] in ("site", "results")]
    site = shlex.join(kept)
    slurm = place.settings.slurm
    hardware = "" if slurm.gpu_type in slurm.gpu_models else " hardware='GPU MODEL'"
    return (
        f"run a study on it:  farm run problem=4 {site} ray_address=up{hardware}\n"
        f"what Slurm does:    tail -f {cluster_at(place.results, place.site).jobs_log}\n"
        f"end all of it:      farm down {site}"
    )


def _jobs(name: str) -> dict[str, str]:
    """Numbers and states of the farm's jobs that Slurm still has to do with."""
    lines = _squeue("--me", "--format=%A %T %j").splitlines()
    found = [line.split(maxsplit=2) for line in lines]
    return {number: state for number, state, job in found if job.startswith(f"{name}-")}


def _squeue(*words: str) -> str:
    """What squeue says; nothing of a job that it does not know any more.

    Raises `PreflightError` where Slurm does not answer, which does not mean that there are no jobs.
    """
    for _ in range(SQUEUE_TRIES):
        answer = _run("squeue", "--noheader", *words)
        if answer.returncode == 0 or "Invalid job id" in answer.stderr:
            return answer.stdout
        time.sleep(SQUEUE_PAUSE_SECONDS)
    raise PreflightError(f"squeue: {' '.join(answer.stderr.split())}; nothing was changed, the same command goes on")


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SQUEUE_")}  # could hide jobs
    return subprocess.run(words, capture_output=True, text=True, cwd="/", env=environment)
