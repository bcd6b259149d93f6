"""The Ray of one node of an allocation: starts it with explicit ports and limits, and ends it by process id.

    python -m farm.slurm.node head|worker --shared DIRECTORY --cpus N --gpus N --memory-gib N
    … head --config CLUSTER.YAML                 with Ray's autoscaler: a farm of elastic workers
    … worker --kind NODE-TYPE --instance ID      one of these workers

Everything the nodes tell each other is in DIRECTORY, on shared storage: `token`, `address` (written by the head),
`ready-HOST`, `stop`. `ray stop` is never used: it kills by name, also the Ray of others.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil

from farm.failures import NO_MEMORY_MONITOR
from farm.slurm.jobs import joined_file
from trials.parent import end_with_parent

STARTED = "Ray runtime started."
ADDRESS_SECONDS = 600.0
START_SECONDS = 300.0
LINGER_SECONDS = 25.0
LEAVE_SECONDS = 20
END_SECONDS = 10.0
SOCKET_PATH_BYTES = 107
LONGEST_SOCKET = "/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"
FIRST_PORT, LAST_PORT = 12000, 30000  # below the range from which the kernel gives out ports by itself
PORTS = ("port", "dashboard-port", "node-manager-port", "object-manager-port", "runtime-env-agent-port",
         "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port")  # fmt: skip
HEAD_ONLY = ("port", "dashboard-port")
YEAR_SECONDS = 365 * 86400
AUTOSCALER = {
    "RAY_enable_autoscaler_v2": "1",
    "RAY_CLOUD_INSTANCE_ID": "head",
    "RAY_NODE_TYPE_NAME": "head",
    "RAY_AUTOSCALER_RECONCILE_ALLOCATE_STATUS_TIMEOUT_S": str(YEAR_SECONDS),  # a job may wait in the queue for days
    "AUTOSCALER_MAX_CONCURRENT_LAUNCHES": "50",  # all kinds at once, so that the largest can go first
    "RAY_AUTOSCALER_PENDING_NODE_IDLE_TIMEOUT_S": "60",  # and is withdrawn when no trial has wanted it for so long
}
WORKER = {"RAY_NUM_REDIS_GET_RETRIES": "1", "RAY_gcs_rpc_server_connect_timeout_s": "5"}  # a head that is gone: give up
GIB = 1 << 30


def no_client_server(parameters: Any, head: bool) -> None:
    """Ray's start hook: the Ray Client server would listen on the node's address, and nobody here uses it."""
    parameters.ray_client_server_port = None


def ports(job: int, taken: Iterable[int] = ()) -> dict[str, int]:
    """A free port for each of Ray's services: a block that follows from the job's id, or the next free one."""
    blocks = (LAST_PORT - FIRST_PORT) // len(PORTS)
    for shift in range(blocks):
        first = FIRST_PORT + (job * 7 + shift) % blocks * len(PORTS)
        block = range(first, first + len(PORTS))
        if not set(block) & set(taken) and all(_free(p) for p in block):
            return dict(zip(PORTS, block, strict=True))
    raise RuntimeError(f"no {len(PORTS)} free ports in a row between {FIRST_PORT} and {LAST_PORT}")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def temporary_directory(parent: str, job: str) -> Path:
    """Ray's directory on this node, new and closed to others. Raises RuntimeError where it cannot be so."""
    path = Path(parent) / f"r{job}"
    if len(f"{path}{LONGEST_SOCKET}") > SOCKET_PATH_BYTES:
        raise RuntimeError(f"{path}: too long for a socket's name; use a shorter slurm.temporary")
    shutil.rmtree(path, ignore_errors=True)  # what a killed run of this job left
    path.mkdir(mode=0o700)  # fails where it is another user's
    return path


def memory(limit_gib: float, shared_memory_bytes: int) -> tuple[int, int]:
    """Bytes for Ray's heap and for its object store, which the farm hardly uses, out of what the job may have."""
    store = int(min(1.0 * GIB, 0.2 * limit_gib * GIB, 0.8 * shared_memory_bytes))
    return int(0.9 * limit_gib * GIB) - store, store


def own_address(peer: str | None) -> str:
    """This node's address as others reach it: the one that leads to `peer`, else the host name's own."""
    if peer is None:
        found = socket.gethostbyname(os.environ.get("SLURMD_NODENAME") or socket.gethostname())
        if not found.startswith("127."):
            return found
        peer = "10.255.255.255"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((peer, 9))  # sends nothing
        return str(probe.getsockname()[0])


def start_line(options: argparse.Namespace, temporary: Path, head_address: str | None) -> list[str]:
    """`ray start …` for this node."""
    heap, store = memory(options.memory_gib, shutil.disk_usage("/dev/shm").total)
    peer = head_address.rpartition(":")[0] if head_address else None
    words = {
        "node-ip-address": own_address(peer),
        "num-cpus": options.cpus,
        "num-gpus": options.gpus,
        "memory": heap,
        "object-store-memory": store,
        "min-worker-port": 0,
        "max-worker-port": 0,
        "temp-dir": temporary,
    }
    numbers = ports(int(os.environ.get("SLURM_JOB_ID", "0")))
    if head_address is None:
        words |= numbers | {"dashboard-host": "127.0.0.1", "include-dashboard": "true"}
        words |= {"autoscaling-config": options.config} if options.config else {}
    else:
        words |= {k: v for k, v in numbers.items() if k not in HEAD_ONLY} | {"address": head_address}
        words |= {"resources": json.dumps({options.kind: 1})} if options.kind else {}
    first = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats"]
    return [*first, *(["--head"] if head_address is None else []), *(f"--{k}={v}" for k, v in words.items())]


def check_gpus(options: argparse.Namespace) -> None:
    """Raise RuntimeError where Slurm gave other GPUs than asked for; Ray would take those of others."""
    visible = [v for v in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if v]
    if options.gpus and not options.logical_gpus and len(visible) != options.gpus:
        raise RuntimeError(
            f"{options.gpus} GPUs were asked for and CUDA_VISIBLE_DEVICES={','.join(visible)!r}: "
            "this Slurm does not set it (slurm.logical_gpus=true is for test clusters only)"
        )


class NodeRay:
    """A running `ray start --block`, in a session of its own so that Slurm's SIGTERM does not reach it first."""

    def __init__(self, command: list[str], variables: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command,
            env=os.environ | _variables() | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )

    def until_started(self) -> None:
        """Return when Ray runs; raises RuntimeError with what it said when it does not, or not in `START_SECONDS`."""
        assert self.process.stdout is not None
        said = []
        timer = threading.Timer(START_SECONDS, self.process.kill)
        timer.start()
        try:
            for line in self.process.stdout:
                said.append(line)
                if STARTED in line:
                    return
        finally:
            timer.cancel()
        raise RuntimeError(f"ray start ended with {self.process.wait()}:\n{''.join(said)}")

    def has_raylet(self) -> bool:
        """Whether this node still serves: `ray start --block` stays when a drained raylet has left."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return any(p.name() == "raylet" for p in psutil.Process(self.process.pid).children(recursive=True))
        return False

    def end(self) -> None:
        """End the processes that this one started, and no others."""
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(self.process.pid).children(recursive=True)
            self.process.terminate()
            for one in psutil.wait_procs(family, timeout=END_SECONDS)[1]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
        self.process.kill()
        self.process.wait()


def _variables() -> dict[str, str]:
    """No memory monitor, the start hook; and `python` means this one, also in `ray job submit -- python …`."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    ours = {"RAY_START_HOOK": "farm.slurm.node.no_client_server", "PYTHONUNBUFFERED": "1", "PATH": path}
    return NO_MEMORY_MONITOR | ours


def _listing(shared: Path) -> set[str]:
    """Names in the shared directory. A listing is fresh where a look at one name may be cached (NFS)."""
    try:
        return set(os.listdir(shared))
    except FileNotFoundError:
        return {"stop"}


def _head_address(shared: Path) -> str:
    deadline = time.monotonic() + ADDRESS_SECONDS
    while "address" not in (names := _listing(shared)):
        if "stop" in names or time.monotonic() > deadline:
            raise RuntimeError("the head has not come up")
        time.sleep(0.2)
    return (shared / "address").read_text()


def _publish(shared: Path, name: str, text: str) -> None:
    draft = shared / f".{name}.{os.getpid()}"
    draft.write_text(text)
    draft.rename(shared / name)


@contextlib.contextmanager
def _arrivals(number: signal.Signals) -> Iterator[list[float]]:
    """Times at which a signal came."""
    times: list[float] = []
    before = signal.signal(number, lambda *_: times.append(time.monotonic()))
    try:
        yield times
    finally:
        signal.signal(number, before)


def serve(options: argparse.Namespace) -> int:
    """Run this node's Ray until the job says stop; 1 when Ray ended by itself.

    After SIGTERM, Ray stays for `LINGER_SECONDS` at most: trials commit in that time.
    """
    shared: Path = options.shared
    check_gpus(options)
    address = None if options.role == "head" else _head_address(shared)
    temporary = temporary_directory(options.temporary, os.environ.get("SLURM_JOB_ID", str(os.getpid())))
    try:
        command = start_line(options, temporary, address)
        with _arrivals(signal.SIGTERM) as terminations, _arrivals(signal.SIGUSR1) as warnings:
            ray = NodeRay(command, elastic_variables(options))
            try:
                ray.until_started()
                if address is None:
                    words = dict(w[2:].split("=", 1) for w in command if w.startswith("--") and "=" in w)
                    _publish(shared, "dashboard", f"127.0.0.1:{words['dashboard-port']}")
                    _publish(shared, "address", f"{words['node-ip-address']}:{words['port']}")
                job, host = os.environ.get("SLURM_JOB_ID", ""), socket.gethostname()
                _publish(shared, joined_file(job) if options.instance else f"ready-{host}", "")
                return _wait(ray, options, address, terminations, warnings)
            finally:
                if address is None:
                    (shared / "address").unlink(missing_ok=True)
                ray.end()
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def elastic_variables(options: argparse.Namespace) -> dict[str, str]:
    """What Ray's autoscaler knows a node by; nothing in an allocation of a fixed size."""
    if options.config:
        return AUTOSCALER | {"PYTHONPATH": os.getcwd()}  # the autoscaler imports the farm's node provider
    if options.instance:
        return WORKER | {"RAY_CLOUD_INSTANCE_ID": options.instance, "RAY_NODE_TYPE_NAME": options.kind}
    return {}


def _wait(
    ray: NodeRay, options: argparse.Namespace, address: str | None, terminations: list[float], warnings: list[float]
) -> int:
    told = False
    while ray.process.poll() is None:
        if "stop" in _listing(options.shared):
            return 0
        leaves = bool(warnings or terminations) and not told and ray.has_raylet()
        if leaves and address and _head_lives(options, address):
            told = _leave(address, options.instance, LEAVE_SECONDS if terminations else options.leave_seconds)
        if warnings and options.instance and time.monotonic() - warnings[0] > options.leave_seconds:
            return 0
        if terminations and _may_go(ray, options, address, terminations[0]):
            return 0
        time.sleep(0.5)
    return 1


def _may_go(ray: NodeRay, options: argparse.Namespace, address: str | None, since: float) -> bool:
    """Whether nothing that could still commit would be cut short by ending now."""
    if options.config or time.monotonic() - since > LINGER_SECONDS:
        return True
    if options.instance is None:
        return False
    return not ray.has_raylet() or not _head_lives(options, address)


def _head_lives(options: argparse.Namespace, address: str | None) -> bool:
    """Whether an elastic worker's head is still the one that it joined."""
    if options.instance is None:
        return False
    try:
        return bool((options.shared / "address").read_text() == address)
    except FileNotFoundError:
        return False


def _leave(address: str, instance: str, seconds: int) -> bool:
    """Tell Ray that this node goes in `seconds`: Tune moves its trial, and counts no failure."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason  # type: ignore[attr-defined]

    print(f"farm: this node leaves in {seconds} s", flush=True)
    reason, deadline = DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION, int((time.time() + seconds) * 1000)
    try:
        client = GcsClient(address=address)
        for identity, node in client.get_all_node_info(timeout=5).items():
            if node.instance_id == instance and node.state == node.ALIVE:
                client.drain_node(identity.hex(), reason, "its Slurm job ends", deadline)
    except Exception as error:  # Ray raises many kinds; the trial is then moved when the node is gone
        print(f"farm: Ray did not hear of it: {error}", flush=True)
    return True


def main(arguments: list[str] | None = None) -> int:
    """Parse, serve, and say in one line what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=("head", "worker"))
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--cpus", type=int, required=True)
    parser.add_argument("--gpus", type=int, required=True)
    parser.add_argument("--memory-gib", type=float, required=True)
    parser.add_argument("--temporary", default="/tmp")
    parser.add_argument("--logical-gpus", action="store_true")
    parser.add_argument("--config", type=Path)
    parser.add_argument("--kind", default="")
    parser.add_argument("--instance")
    parser.add_argument("--leave-seconds", type=int, default=60)
    options = parser.parse_args(arguments)
    try:
        return serve(options)
    except (RuntimeError, OSError) as error:
        print(f"farm: {socket.gethostname()}: {error}", file=sys.stderr, flush=True)
        return 1


if __name__ == "__main__":
    sys.exit(main())
