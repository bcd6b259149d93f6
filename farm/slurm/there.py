"""`farm run … ray_address=up`: the study's driver runs beside the head of `farm up`, again when the head is lost."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from farm.config import Config
from farm.errors import COMPLETE, FAILED, INTERRUPTED, RESUMABLE, USAGE, PreflightError
from farm.signals import passed_to
from farm.slurm.cluster import FARM_UP, UP, Cluster, cluster_at
from farm.slurm.requeue import progress
from farm.slurm.submit import absolute_arguments
from farm.slurm.up import head_of

LOST_SECONDS = 10.0
"""So long after a driver's end its head shows that it is gone."""
INSIDE = '. "$1"; shift; inside "$python" farm/run.py "$@"'


def is_wanted(config: Config) -> bool:
    """Whether this command is to be run beside the head of `farm up`, and is not there yet."""
    return config.settings.ray_address == UP and FARM_UP not in os.environ


def run_there(config: Config, arguments: list[str]) -> int:
    """Run the study on the farm that is up; its exit code. A driver whose head is lost runs again on the next head.

    Raises `PreflightError` where no farm is up.
    """
    cluster = cluster_at(config.results, config.site)
    words = absolute_arguments(config, arguments)
    before = -1
    with _Signals() as signals, _told(cluster):
        while not signals.seen:
            address = _wait_for_head(config, cluster, signals)
            if signals.seen:
                break
            code = signals.run(_command(cluster, words))
            if signals.seen or code in (COMPLETE, USAGE) or not _lost(cluster, address):
                return INTERRUPTED if signal.SIGINT in signals.seen else code
            now = progress(config.ledger)
            if now <= before:
                raise PreflightError("the head was lost again before anything was committed; farm down, then farm up")
            before = now
            print("farm: the head is lost; the run goes on when there is another", flush=True)
    return INTERRUPTED if signal.SIGINT in signals.seen else RESUMABLE


def _wait_for_head(config: Config, cluster: Cluster, signals: _Signals) -> str:
    """The head's address, once there is one."""
    said, began = False, time.monotonic()
    while not signals.seen:
        name, living = cluster.name, head_of(cluster)
        if not name or not living:
            which = f"site={config.site} results={config.results}"
            known = "its head is gone" if name else "no farm is up"
            raise PreflightError(f"{known} for {which}; farm up {which}, and the same command goes on")
        if address := cluster.address:
            return address
        if not said:
            print(f"farm: waiting for the head ({living})", flush=True)
        said = True
        time.sleep(1 if time.monotonic() - began < 60 else 10)  # a head may wait in the queue for hours
    return ""


def _command(cluster: Cluster, words: list[str]) -> list[str]:
    """What runs farm/run.py beside the head: a step of its job, or a child where the head runs here."""
    where = head_of(cluster).split()
    line = ["bash", "-c", INSIDE, "farm-run", str(cluster.shared / "inside.sh"), *words]
    if not where or where[0] == "job":
        job = where[1] if where else "0"
        return ["srun", f"--jobid={job}", "--overlap", "--nodes=1", "--ntasks=1", "--cpus-per-task=1", *line]
    if where[1] != socket.gethostname():
        raise PreflightError(f"the head runs on {where[1]}; farm run … ray_address=up works there")
    return line


def _lost(cluster: Cluster, address: str) -> bool:
    """Whether a driver ended because its head did; a head that starts again has another address, or none yet."""
    deadline = time.monotonic() + LOST_SECONDS
    while time.monotonic() < deadline:
        if cluster.address != address or not head_of(cluster):
            return True
        time.sleep(0.5)
    return False


class _Signals:
    """Hands a stop on to the driver, as SIGUSR1, which srun passes through."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self._driver: subprocess.Popen[bytes] | None = None
        self._passed = passed_to(self._come)

    def __enter__(self) -> _Signals:
        self._passed.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._passed.__exit__(None, None, None)

    def _come(self, number: int) -> None:
        self.seen.append(number)
        if self._driver is not None and self._driver.poll() is None:
            self._driver.send_signal(signal.SIGUSR1)

    def run(self, command: list[str]) -> int:
        """Run a driver to its end; its exit code."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "SLURM_JOB", "PYTHONPATH"))}
        self._driver = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True, cwd="/"
        )
        if self.seen:
            self._driver.send_signal(signal.SIGUSR1)
        code = self._driver.wait()
        return code if code >= 0 else FAILED


@contextmanager
def _told(cluster: Cluster) -> Iterator[None]:
    """Show what Slurm does with the farm's jobs, as it happens."""
    over = threading.Event()
    try:
        start = cluster.jobs_log.stat().st_size
    except FileNotFoundError:
        start = 0

    def follow(path: Path, offset: int) -> None:
        while not over.wait(1.0):
            if path.exists() and path.stat().st_size > offset:
                with path.open() as source:
                    source.seek(offset)
                    for line in source:
                        print(f"slurm: {line.split(' ', 2)[-1]}", end="", flush=True)
                    offset = source.tell()

    thread = threading.Thread(target=follow, args=(cluster.jobs_log, start), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
