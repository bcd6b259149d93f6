"""What a trial ran on: GPUs and their clocks, driver, how they are joined, and who else was there.

Read with nvidia-smi, which lists all GPUs of the node whatever this process may use; without it, from torch.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch

from trials.spec import Row

QUERY = {
    "index": "gpu",
    "uuid": "uuid",
    "name": "model",
    "driver_version": "driver",
    "clocks.sm": "clock_sm_mhz",
    "clocks.mem": "clock_memory_mhz",
    "clocks.max.sm": "clock_sm_most_mhz",
    "power.limit": "power_limit_watts",
    "pcie.link.gen.max": "pcie_generation",
    "pcie.link.width.max": "pcie_width",
    "memory.total": "memory_mib",
}
"""nvidia-smi's names and ours."""
WHOLE = ("gpu", "clock_sm_mhz", "clock_memory_mhz", "clock_sm_most_mhz", "pcie_generation", "pcie_width", "memory_mib")
SECONDS = 30


def smi(*arguments: str) -> str | None:
    """What nvidia-smi prints, or None where it is absent or refuses."""
    if shutil.which("nvidia-smi") is None:
        return None
    try:
        done = subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, timeout=SECONDS)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None


def gpu_rows(text: str | None) -> list[Row]:
    """One row for each GPU of the node from `--query-gpu=… --format=csv,noheader,nounits`; unknown values are None."""
    rows: list[Row] = []
    for line in csv.reader((text or "").splitlines(), skipinitialspace=True):
        row: Row = dict(zip(QUERY.values(), line, strict=True))
        rows.append({k: _number(k, str(v)) for k, v in row.items()})
    return rows


def _number(name: str, text: str) -> str | int | float | None:
    if name not in (*WHOLE, "power_limit_watts"):
        return text
    try:
        return int(text) if name in WHOLE else float(text)
    except ValueError:  # [N/A], [Not Supported]
        return None


def node_gpus() -> list[Row]:
    """All GPUs of the node, in nvidia-smi's order, with their clocks now."""
    return gpu_rows(smi(f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"))


def topology(matrix: str | None) -> str:
    """How the node's GPUs are joined, from `nvidia-smi topo -m`: "4 GPUs, NV18 between all", or every pair.

    NV18 are 18 NVLinks; PIX, PXB, PHB, NODE and SYS are ever longer ways over PCIe and between processors.
    Empty where there is no matrix to read.
    """
    plain = re.sub(r"\x1b\[[0-9;]*m", "", matrix or "")
    rows = [line.split() for line in plain.splitlines() if re.match(r"GPU\d+\s", line)]  # the heading is indented
    count = len(rows)
    if count < 2:
        return f"{count} GPU" if count else ""
    pairs = {f"{a}-{b}": rows[a][1 + b] for a in range(count) for b in range(a + 1, count)}
    ways = set(pairs.values())
    between = f"{ways.pop()} between all" if len(ways) == 1 else ", ".join(f"{k} {v}" for k, v in pairs.items())
    return f"{count} GPUs, {between}"


def node_topology(gpus: int) -> str:
    """The node's topology; where nvidia-smi cannot tell, what torch says of the trial's own GPUs."""
    if found := topology(smi("topo", "-m")):
        return found
    if not torch.cuda.is_available():
        return "cpu"
    pairs = [(a, b) for a in range(gpus) for b in range(gpus) if a != b]
    joined = sum(torch.cuda.can_device_access_peer(a, b) for a, b in pairs)
    return f"{gpus} GPU" if gpus == 1 else f"{gpus} GPUs, peer access in {joined} of {len(pairs)} directions"


def visible() -> list[str] | None:
    """Numbers or UUIDs of the GPUs that this process may use, in torch's order; None for all."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    return None if names is None else [n.strip() for n in names.split(",") if n.strip()]


def own_gpus(node: Sequence[Row], names: Sequence[str] | None, count: int) -> list[Row]:
    """The first `count` of the GPUs that this process may use, of all that the node has."""
    if names is None:
        return list(node[:count])
    chosen = [g for n in names for g in node if n == str(g["gpu"]) or str(g["uuid"]).startswith(n)]
    return chosen[:count]


def cotenants(apps: str | None, uuids: Sequence[str]) -> int | None:
    """Compute processes on some GPUs beside this one, from `--query-compute-apps=pid,gpu_uuid`; None: not known.

    In a container nvidia-smi lists other numbers than the process has, so of the processes on each GPU one is
    taken to be ours where it holds a context there, and none where it does not (`torch.cuda` not initialised).
    """
    if apps is None:
        return None
    lines = [line.split(",") for line in apps.splitlines() if line.count(",") == 1]
    pids = {int(pid) for pid, uuid in lines if uuid.strip() in uuids and pid.strip().isdigit()}
    return len(pids - {os.getpid()}) - int(bool(pids) and os.getpid() not in pids and torch.cuda.is_initialized())


def facts(device: str, gpus: int) -> tuple[Row, list[Row]]:
    """Columns that every row of a trial gets, and a row for each of its GPUs (none on a CPU)."""
    if device == "cpu":
        return {"device": "cpu", "driver": "", "topology": "cpu", "cotenants": None}, []
    rows = own_gpus(node_gpus(), visible(), gpus)
    names = {torch.cuda.get_device_name(i) for i in range(gpus)}
    apps = smi("--query-compute-apps=pid,gpu_uuid", "--format=csv,noheader")
    common: Row = {
        "device": ", ".join(sorted(names)),
        "driver": str(rows[0]["driver"]) if rows else "",
        "cuda_version": str(torch.version.cuda),
        "nccl_version": ".".join(map(str, torch.cuda.nccl.version())),
        "topology": node_topology(gpus),
        "cotenants": cotenants(apps, [str(r["uuid"]) for r in rows]),
    }
    return common, rows


def boot_id() -> str:
    """The kernel's id of its start: another on another machine, and after a restart. Empty where it has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def clock_sm_mhz(gpus: int) -> int | None:
    """The lowest clock of the trial's GPUs at this moment, in MHz; None where nvidia-smi cannot tell."""
    found = [g["clock_sm_mhz"] for g in own_gpus(node_gpus(), visible(), gpus)]
    return min((int(v) for v in found if v is not None), default=None)
