"""`farm submit`: from a configuration to one Slurm job that runs the study to its end."""

from __future__ import annotations

import math
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from farm import study
from farm.config import CONF, ROOT, Config, Place, Settings
from farm.errors import PreflightError, UsageError
from farm.ledger.store import now
from farm.plan import Node, Plan
from farm.provenance import farm_commit
from farm.site import NodeType, Slurm, absolute, account, check_drain, expand, image_path, no_image, share
from farm.slurm.script import BatchJob

IMAGE_CODE = "/opt/"
PATHS = ("study", "site", "data_root", "results")


def site_nodes(config: Config) -> list[Node]:
    """What each node of an allocation holds, by the site's node types; empty when the site names none."""
    return [Node(t.cpus, t.gpus) for t in config.settings.slurm.node_types.values()]


def allocation_plan(config: Config) -> Plan:
    """The plan against what one allocation has of each node, which may be less than the node.

    Raises `UsageError` where no node type has the GPUs of the largest trial, or those of `gpus_per_node=`.
    """
    node = allocation_share(config, study.make_plan(config, [], estimate=False))
    return study.make_plan(config, [Node(node.cpus, node.gpus)])


def allocation_share(config: Config, plan: Plan) -> NodeType:
    """What an allocation asks of each node: the share of `gpus_per_node=`, else of the largest trial's GPUs."""
    largest = max((t.bundle.gpu for t in plan.trials), default=0)
    chosen = config.settings.gpus_per_node
    return share(config.settings.slurm, math.ceil(largest) if chosen is None else chosen)


def batch_job(config: Config, arguments: Sequence[str], plan: Plan) -> BatchJob:
    """The job that runs what the plan lacks. Raises `UsageError` where the site cannot hold it."""
    settings, slurm = config.settings, config.settings.slurm
    own = [w for w in arguments if w.startswith("ray_address=")]
    if own and settings.ray_address:
        raise UsageError(f"{own[0]}: the job of farm submit starts a Ray of its own; farm run {own[0]} joins that one")
    seen = [str(config.results), *map(str, _data_there(config))]
    seen += [str(config.study_file.parent)] if _own_study(config) else []
    seen += [str(Path(config.site).expanduser().absolute().parent)] if config.site.endswith((".yaml", ".yml")) else []
    return BatchJob(
        name=f"farm-{config.study}",
        arguments=tuple(absolute_arguments(config, [w for w in arguments if w not in own])),
        ledger=str(config.ledger),
        chosen=config.chosen,
        nodes=settings.nodes,
        extra=(*slurm.options, *(["--exclusive"] if any(t.bundle.exclusive for t in plan.trials) else [])),
        **site_words(settings, allocation_share(config, plan), seen),
    )


def site_words(settings: Settings, node: NodeType, seen: Sequence[str]) -> dict[str, Any]:
    """What every job says at this site: who pays, what of a node, in which image. The image sees the paths `seen`."""
    slurm = settings.slurm
    check_drain(settings.drain_seconds, slurm.signal_seconds)
    image = image_path(slurm)
    code = absolute("slurm.code", slurm.code) if image is not None else str(ROOT)
    return {
        "code": code,
        "python": expand(slurm.python) if image is not None else sys.executable,
        "gpus": node.gpus,
        "cpus": node.cpus,
        "memory_gib": node.memory_gib,
        "time": settings.time,
        "commit": farm_commit(),
        "temporary": absolute("slurm.temporary", slurm.temporary),
        "signal_seconds": slurm.signal_seconds,
        "logical_gpus": slurm.logical_gpus,
        "account": account(slurm),
        "partition": slurm.partition,
        "qos": slurm.qos,
        "constraint": _replaced(slurm.constraint, {"{gpu_type}": slurm.gpu_type}),
        "gres": _gres(slurm, node.gpus),
        "modules": tuple(slurm.modules),
        "image": str(image) if image is not None else None,
        "container": slurm.container,
        "container_options": tuple(map(expand, slurm.container_options)),
        "binds": tuple(_binds(slurm, code, seen)) if image is not None else (),
    }


def doctor_script(place: Place) -> str:
    """A job of the site's kind that does nothing, for `sbatch --test-only` where no study is named."""
    slurm, gpus = place.settings.slurm, place.settings.gpus_per_node
    if gpus is None:
        gpus = min(1, max((t.gpus for t in slurm.node_types.values()), default=0))
    node = share(slurm, gpus)
    options = [f"--nodes={place.settings.nodes}", f"--time={place.settings.time}", f"--mem={node.memory_gib}G"]
    options += [f"--cpus-per-task={node.cpus}", *placement_options(place.settings)]
    if gpus:
        options.append(f"--gres={_gres(slurm, gpus)}")
    lines = [f"#SBATCH {name}={shlex.quote(value)}" for name, _, value in (o.partition("=") for o in options)]
    return "\n".join(["#!/bin/bash", *lines, "true", ""])


def placement_options(settings: Settings) -> list[str]:
    """Options of sbatch and srun that say who pays and where."""
    slurm = settings.slurm
    words = {"account": account(slurm), "partition": slurm.partition, "qos": slurm.qos}
    words["constraint"] = _replaced(slurm.constraint, {"{gpu_type}": slurm.gpu_type})
    return [f"--{name}={value}" for name, value in words.items() if value] + slurm.options


def _gres(slurm: Slurm, gpus: int) -> str:
    return _replaced(slurm.gres, {"{gpu_type}": slurm.gpu_type, "{gpus}": str(gpus)}).replace("::", ":")


def absolute_arguments(config: Config, arguments: Sequence[str]) -> list[str]:
    """The arguments with every path made absolute and the results directory named: they run elsewhere.

    They may run again and again, and `retry=failed` means what has failed until now: a bug is met once.
    """
    words = [w for w in arguments if w.partition("=")[0] not in PATHS]
    if config.settings.retry == "failed":
        words = [w for w in words if not w.startswith("retry=")] + [f"retry={now()}"]
    words += [f"study={config.study_file}"] if _own_study(config) else []
    if config.site.endswith((".yaml", ".yml")):
        words.append(f"site={Path(config.site).expanduser().absolute()}")
    elif config.site != "local":
        words.append(f"site={config.site}")
    if not _own_study(config) and not any(w.startswith("problem=") for w in words):
        words.insert(0, f"study={config.study_file.stem}")
    words += [f"data_root={path}" for path in _data_there(config)]
    return [*words, f"results={config.results}"]


def submit(config: Config, script: str) -> int:
    """Hand the script to sbatch; the job's id. Raises `PreflightError` with sbatch's own words."""
    if shutil.which("sbatch") is None:
        raise PreflightError("sbatch: not found; farm submit runs on a login node (--dry-run shows the script)")
    check_image(config.settings.slurm, config.site)
    for path in _data_there(config):
        if not config.settings.data_root and not path.is_dir():  # one that is given may be there on the nodes alone
            raise PreflightError(f"data: {path} is not there; farm data fetch, or data_root= names another place")
    directory = config.ledger / "slurm"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise PreflightError(f"results: {directory} cannot be made: {error.strerror}") from None
    answer = sbatch(script)
    if answer.returncode:
        raise PreflightError(f"sbatch: {answer.stderr.strip() or answer.stdout.strip()}")
    job = int(answer.stdout.strip().split(";")[0])
    (directory / f"{job}.sh").write_text(script)
    return job


def check_image(slurm: Slurm, site: str) -> None:
    """Raise `PreflightError` where the image that the site names is not there."""
    image = image_path(slurm)
    if image is not None and (why := no_image(image)):
        raise PreflightError(f"slurm.image: {why}; `farm image site={site}` says how to get it")


def sbatch(script: str, *options: str) -> subprocess.CompletedProcess[str]:
    """`sbatch` reading the script from its input, without the variables of any Ray or token of this shell."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "SBATCH_"))}
    return subprocess.run(
        ["sbatch", "--parsable", *options], input=script, capture_output=True, text=True, env=environment, cwd="/"
    )


def _own_study(config: Config) -> bool:
    return not config.study_file.is_relative_to(CONF)


def _data_there(config: Config) -> list[Path]:
    """Where jobs read CIFAR-10, if they have to be told: the default is in the checkout, and an image has another."""
    needed = config.settings.slurm.image is not None and config.settings.data == "cifar10"
    return [config.data_root] if config.settings.data_root or needed else []


def _binds(slurm: Slurm, code: str, seen: Sequence[str]) -> list[str]:
    """Directories that the image must see at their own paths, each once and no child of another.

    `slurm.binds` may say SOURCE:DESTINATION, as the container's own --bind does, which no path can quote.
    """
    own = [*seen, *([code] if not code.startswith(IMAGE_CODE) else [])]
    for path in own:
        if ":" in path:
            raise UsageError(f"{path}: a colon separates what --bind is told; use a path without one")
    wanted = [*own, *(absolute("slurm.binds", bind) for bind in slurm.binds)]
    plain = [Path(w) for w in wanted if ":" not in w]
    kept = [p for p in dict.fromkeys(plain) if not any(p != q and p.is_relative_to(q) for q in plain)]
    return [*map(str, kept), *(w for w in wanted if ":" in w)]


def _replaced(text: str, words: dict[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(word, value)
    if "{" in text:
        raise UsageError(f"slurm: {text!r}: only {', '.join(words)} are replaced")
    return text
