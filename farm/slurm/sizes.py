"""The sizes of elastic workers at a site: 1, 2, 4, … GPUs up to its largest node, and one without GPUs. Pure."""

from __future__ import annotations

from farm.errors import UsageError
from farm.plan import Node
from farm.site import NodeType, Slurm, share

CPU_KIND = "cpu"


def worker_types(slurm: Slurm) -> dict[str, NodeType]:
    """What a worker of each kind has; its CPUs and memory are the share that belongs to its GPUs.

    Raises `UsageError` where the site names no node types.
    """
    largest = max((t.gpus for t in slurm.node_types.values()), default=None)
    if largest is None:
        raise UsageError("slurm.node_types: this site has none; elastic workers need a Slurm site, e.g. site=greene")
    counts = sorted({largest, *(2**i for i in range(largest.bit_length()) if 2**i <= largest)} - {0})
    kinds = {f"gpu{n}": share(slurm, n) for n in counts}
    return {CPU_KIND: share(slurm, 0)} | kinds


def worker_nodes(slurm: Slurm) -> dict[str, Node]:
    """The same as what a plan holds trials against."""
    return {kind: Node(t.cpus, t.gpus) for kind, t in worker_types(slurm).items()}


def nice(kind: NodeType, types: dict[str, NodeType]) -> int:
    """Slurm's --nice: larger workers go first, or small ones would sit on every node that could hold a large gang."""
    return 10 * (max(t.gpus for t in types.values()) - kind.gpus)
