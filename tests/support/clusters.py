"""A real Ray head of a test's own: explicit ports, its own temporary directory, ended by process id."""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

RAY = Path(sys.executable).with_name("ray")
START_SECONDS = 90


@dataclass(frozen=True)
class Head:
    """Where a head listens, and the environment that its commands need."""

    address: str
    dashboard: str
    token: str
    environment: dict[str, str]

    def ray(self, *arguments: str, cwd: Path, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        """`ray …` with the head's environment."""
        return subprocess.run(
            [str(RAY), *arguments], capture_output=True, text=True, cwd=cwd, env=self.environment, timeout=timeout
        )

    def get(self, path: str) -> Any:
        """What the dashboard answers, from JSON. Raises URLError."""
        request = urllib.request.Request(self.dashboard + path, headers={"Authorization": f"Bearer {self.token}"})
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.load(answer)

    def nodes(self) -> list[dict[str, Any]]:
        """What the dashboard knows of each node there is or was: its `node_id`, its `state`, and more."""
        found: list[dict[str, Any]] = self.get("/api/v0/nodes")["data"]["result"]["result"]
        return found


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def head(cwd: Path, environment: dict[str, str], cpus: int = 2, gpus: int = 0) -> Iterator[Head]:
    """Start a head in `cwd`, wait until it takes jobs, and end its processes afterwards."""
    port, dashboard, agent, agent_rpc, client, metrics = free_ports(6)
    scratch = Path(tempfile.mkdtemp(prefix="fr", dir="/tmp"))  # a socket path holds 107 bytes
    token = secrets.token_hex(16)
    (scratch / "token").write_text(token)
    (scratch / "token").chmod(0o600)
    environment = environment | {
        "PATH": f"{RAY.parent}:{environment.get('PATH', '')}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(scratch / "token"),
    }
    found = Head(f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}", token, environment)
    options = {
        "port": port, "dashboard-host": "127.0.0.1", "dashboard-port": dashboard, "num-cpus": cpus, "num-gpus": gpus,
        "dashboard-agent-listen-port": agent, "dashboard-agent-grpc-port": agent_rpc, "ray-client-server-port": client,
        "metrics-export-port": metrics, "min-worker-port": 0, "max-worker-port": 0, "temp-dir": scratch,
        "node-ip-address": "127.0.0.1",
    }  # fmt: skip
    words = [f"--{k}={v}" for k, v in options.items()]
    log = (scratch / "start.log").open("w")
    process = subprocess.Popen(
        [str(RAY), "start", "--head", "--block", *words], cwd=cwd, env=environment, stdout=log, stderr=log
    )
    try:
        _wait_until_ready(process, found, scratch / "start.log")
        yield found
    finally:
        _end(process)
        log.close()
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def second_node(first: Head, cwd: Path, cpus: int = 2, gpus: int = 0) -> Iterator[None]:
    """Another node of a head's cluster on this machine, for the length of a block."""
    scratch = Path(first.environment["RAY_AUTH_TOKEN_PATH"]).parent
    agent, agent_rpc, metrics = free_ports(3)
    options = {
        "address": first.address, "num-cpus": cpus, "num-gpus": gpus, "dashboard-agent-listen-port": agent,
        "dashboard-agent-grpc-port": agent_rpc, "metrics-export-port": metrics, "min-worker-port": 0,
        "max-worker-port": 0, "node-ip-address": "127.0.0.1",
    }  # fmt: skip
    words = [str(RAY), "start", "--block", *(f"--{k}={v}" for k, v in options.items())]
    with (scratch / "second.log").open("w") as log:
        process = subprocess.Popen(words, cwd=cwd, env=first.environment, stdout=log, stderr=log)
        try:
            _wait_until_joined(process, first, scratch / "second.log")
            yield
        finally:
            _end(process)


def _wait_until_joined(process: subprocess.Popen[bytes], first: Head, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while sum(node["state"] == "ALIVE" for node in first.nodes()) < 2:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


def _wait_until_ready(process: subprocess.Popen[bytes], found: Head, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            found.get("/api/jobs/")
            return
        except (urllib.error.URLError, OSError):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the head and all that it started, and nothing else."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        process.terminate()
        for one in psutil.wait_procs(family, timeout=20)[1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
    process.wait()
