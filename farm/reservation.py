"""What a trial reserves on a node, and which of the node's GPUs it sees."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from farm.plan import Bundle, Node

OF_A_KIND = 0.001
"""What a trial takes of a kind's own resource: only workers of that kind have it."""


def reservation(bundle: Bundle, cluster: Sequence[Node], kinds: Mapping[str, Node] | None = None) -> dict[str, float]:
    """What a trial reserves on one node: its CPUs and GPUs, or all that a node has where it is to have it alone.

    An exclusive trial needs no custom resource, which clusters that others set up would lack: who holds all CPUs
    and GPUs of a node keeps every other trial off it. The node is one that no other exceeds in CPUs or GPUs without
    having fewer of the others, so that the reservation cannot fit into a part of a larger node.
    """
    if bundle.exclusive:
        holding = [n for n in cluster if n.cpu >= bundle.cpu and n.gpu >= bundle.gpu]
        whole = max(holding, key=lambda n: (n.gpu, n.cpu), default=Node(bundle.cpu, bundle.gpu))
        bundle = Bundle(whole.cpu, whole.gpu)
    reserved = {"CPU": bundle.cpu} | ({"GPU": bundle.gpu} if bundle.gpu else {})
    if kinds is None:
        return reserved
    fitting = [(n.gpu, n.cpu, kind) for kind, n in kinds.items() if n.cpu >= bundle.cpu and n.gpu >= bundle.gpu]
    return reserved | {min(fitting)[2]: OF_A_KIND}  # else small trials would sit on nodes that gangs have waited for


def first_gpus(visible: str, count: float) -> str:
    """The first `count` of an actor's visible GPUs: a trial that has a node alone may use fewer than that has."""
    names = sorted((n for n in visible.split(",") if n), key=lambda n: (not n.isdigit(), int(n) if n.isdigit() else 0))
    return ",".join(names[: math.ceil(count)])
