"""Every key of a study file, a site file and the command line, with its type, unit, range and default."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from farm.site import Slurm
from trials.spec import parameter


@dataclass
class Resources:
    """What one trial holds while it runs. `cpu` and `gpu` are numbers or the name of a parameter."""

    cpu: Any = parameter(1, "CPUs of one trial, a number or a parameter's name", unit="CPUs", minimum=0)
    gpu: Any = parameter(0, "GPUs of one trial, fractions allowed, or a parameter's name", unit="GPUs", minimum=0)
    exclusive: str = parameter("", "`node` keeps every other trial off the node", choices=("", "node"))


@dataclass
class Settings:
    """Every key of a study file and of the command line, except the trial module's own parameters."""

    problem: str = parameter("", "problem of the homework sheet that the study answers")
    title: str = parameter("", "one line for reports")
    module: str = parameter("", "trial module that runs a spec, e.g. trials.problem4")
    data: str = parameter("cifar10", "dataset", choices=("cifar10", "synthetic", "none"))
    data_root: str | None = parameter(None, "directory of CIFAR-10: torchvision's batches or Parquet shards")
    results: str | None = parameter(None, "directory of results (else $FARM_RESULTS, the site's, ./results)")
    device: str = parameter("auto", "device of a trial", choices=("auto", "cpu", "cuda"))
    timed: bool = parameter(False, "the wall-clock is a result: a trial has its GPUs to itself")
    hardware: str | None = parameter(None, "GPU model of timed trials (else this machine's or the site's)")
    threads: int = parameter(1, "CPU threads of a trial", unit="threads", minimum=1, maximum=1024)
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "seeds; each repeats the whole grid"})
    trial: Any = field(default_factory=dict, metadata={"help": "values of the trial module's parameters"})
    sweep: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "axes of the grid: a list of values for each parameter"}
    )
    zip: list[Any] = field(default_factory=list, metadata={"help": "groups of axes that move together"})
    extra: list[Any] = field(default_factory=list, metadata={"help": "points outside the product"})
    resources: Resources = field(default_factory=Resources)
    executor: str = parameter("ray", "`inline` runs in this process, without Ray", choices=("ray", "inline"))
    ray_address: str | None = parameter(
        None, "Ray cluster to join, `up` for that of `farm up` (else $RAY_ADDRESS, else a local Ray)"
    )
    cpus: int | None = parameter(None, "CPUs of the local Ray (else all)", unit="CPUs", minimum=1)
    gpus: int | None = parameter(None, "GPUs of the local Ray (else all; may be logical)", unit="GPUs", minimum=0)
    commit_seconds: float = parameter(30.0, "least time between two commits of a trial", unit="s", minimum=0)
    drain_seconds: float = parameter(
        5.0, "on a stop, an epoch that ends within this time is finished", unit="s", minimum=0
    )
    retries: int = parameter(3, "times that a trial is tried again after an infrastructure failure", minimum=0)
    back_off_seconds: float = parameter(
        1.0, "pause before the first of these, four times as long before each further one", unit="s", minimum=0
    )
    max_gpu_hours: float | None = parameter(
        None,
        "run nothing where the plan's estimate is above it, or where a trial has none",
        unit="GPU-hours",
        minimum=0,
    )
    retry: str = parameter("none", "`failed` runs trials again that failed; a time, those that failed before it")
    keep: str = parameter("none", "`weights` keeps the final state of each trial", choices=("none", "weights"))
    view: str = parameter("auto", "live table or plain lines", choices=("auto", "live", "plain"))
    nodes: int = parameter(1, "nodes of a Slurm allocation", unit="nodes", minimum=1)
    gpus_per_node: int | None = parameter(
        None, "GPUs of each node of a Slurm allocation (else what one trial needs)", unit="GPUs", minimum=0
    )
    time: str = parameter("04:00:00", "walltime of a Slurm job")
    head: str = parameter("job", "`farm up`: a Slurm job of its own, or `here`", choices=("job", "here"))
    slurm: Slurm = field(default_factory=Slurm)
