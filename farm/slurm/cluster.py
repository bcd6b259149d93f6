"""What a farm with elastic workers has on shared storage: RESULTS/.up/SITE with its logs, and the private directory.

.up/SITE/head.log, jobs.log, NUMBER.log      what the head said, what Slurm did with each job, what a worker said
.up/SITE/cluster/                            while up: name, gpu_type, token, address, scripts, cluster.yaml, spool
"""

from __future__ import annotations

import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from farm.config import ROOT, Place, Settings
from farm.errors import PreflightError
from farm.plan import Node
from farm.site import NodeType

TEMPLATE = ROOT / "cluster.yaml"
UP = "up"
FARM_UP = "FARM_UP"
"""Variable with the private directory, in what runs on the farm's head."""


@dataclass(frozen=True)
class Cluster:
    """The directories of one farm; whether it is up is another question."""

    logs: Path

    @property
    def shared(self) -> Path:
        """The private directory."""
        return self.logs / "cluster"

    @property
    def name(self) -> str:
        """With it the names of all its jobs begin. Empty where no farm is up."""
        return _text(self.shared / "name")

    @property
    def gpu_type(self) -> str:
        """Kind of GPU of its workers, in the site's word; empty where no farm is up, or it names none."""
        return _text(self.shared / "gpu_type")

    @property
    def address(self) -> str:
        """The head's HOST:PORT; empty while there is none."""
        return _text(self.shared / "address")

    @property
    def jobs_log(self) -> Path:
        """What Slurm did with each job, in plain words."""
        return self.logs / "jobs.log"


def cluster_at(results: Path, site: str) -> Cluster:
    """The farm of a site and a results directory."""
    return Cluster(results / ".up" / Path(site).stem)


def prepare(place: Place) -> Cluster:
    """The farm's directories, with name and token; those of a farm that was up and lost its head are kept."""
    cluster = cluster_at(place.results, place.site)
    try:
        cluster.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        cluster.shared.mkdir(mode=0o700, exist_ok=True)
        _check_private(cluster.shared)
        if not cluster.name:
            _write(cluster.shared / "token", secrets.token_hex(32))
            site = re.sub(r"[^a-z0-9]", "", cluster.logs.name.lower())
            _write(cluster.shared / "name", f"farm-{site}-{secrets.token_hex(3)}")
    except OSError as error:
        raise PreflightError(f"results: {cluster.logs} cannot be made: {error.strerror}") from None
    return cluster


def _check_private(directory: Path) -> None:
    """Raise `PreflightError` where others could read the token, or put scripts there that this user would run."""
    found = directory.stat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise PreflightError(f"{directory} is open to others: it must be yours and have mode 0700")


def kinds_that_are_up(shared: Path) -> dict[str, Node]:
    """What the workers of a farm that is up hold, which a run's own settings need not repeat."""
    tree = yaml.safe_load((shared / "cluster.yaml").read_text())
    return {
        kind: Node(node["resources"]["CPU"], node["resources"]["GPU"])
        for kind, node in tree["available_node_types"].items()
        if kind != tree["head_node_type"]
    }


def autoscaling(cluster: Cluster, settings: Settings, types: dict[str, NodeType]) -> dict[str, Any]:
    """cluster.yaml with this farm's name, directories and node types in place of the example's."""
    slurm = settings.slurm
    tree: dict[str, Any] = yaml.safe_load(TEMPLATE.read_text())
    tree["cluster_name"] = cluster.name
    tree["provider"] |= {"shared": str(cluster.shared), "logs": str(cluster.logs)}
    tree |= {"max_workers": slurm.max_workers, "idle_timeout_minutes": slurm.idle_minutes}
    head = tree["head_node_type"]
    tree["available_node_types"] = {head: tree["available_node_types"][head]} | {
        kind: {
            "resources": {"CPU": node.cpus, "GPU": node.gpus, kind: 1},
            "node_config": {"script": str(cluster.shared / f"{kind}.sh")},
            "max_workers": slurm.max_workers,
        }
        for kind, node in types.items()
    }
    return tree


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def _write(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as sink:
        sink.write(text)
