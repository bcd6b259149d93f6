"""Problem 2: data parallelism in PyTorch, ResNet-18 on CIFAR-10, batches growing until a GPU's memory is full.

The network and its training are those of kuangliu/pytorch-cifar, the loaders those of the sheet. A trial holds `gpus`
GPUs of one node and goes up the ladder of batch sizes 32, 128, 512, …: at each rung `repeats` times a fresh network
trains an epoch to warm up and an epoch that is measured (trials/timing.py says how, trials/data_parallel.py what). The
rung that does not fit is a row with the peak, larger ones are rows that say they were skipped. Beside the training it
measures what the links between its GPUs can do (trials/links.py). When nothing is left to be timed, the profiler looks
at each rung (trials/communication.py).

    python farm/run.py problem=2                                  both modes, 1, 2 and 4 GPUs, weak and strong scaling
    python farm/run.py problem=2 sweep.precision=[tf32,fp32]      and without TF32
    python farm/run.py problem=2 profile=smoke                    the whole path without a GPU, in less than a minute
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from trials.problem2_tables import TABLES
from trials.spec import Context, Outcome, Scalar, Spec, TrialRun, parameter

__all__ = ["TABLES", "Parameters", "check", "resolve", "revision", "run", "steps"]

REVISION = 1
TRAIN_IMAGES = 50_000
"""CIFAR-10's."""


@dataclass(frozen=True)
class Parameters:
    """What a trial of problem 2 can be asked to do."""

    mode: str = parameter("dataparallel", "nn.DataParallel, or one process a GPU", choices=("dataparallel", "ddp"))
    gpus: int = parameter(1, "GPUs of the trial, all on one node", unit="GPUs", minimum=1, maximum=64)
    scaling: str = parameter(
        "weak", "the ladder's batch is each GPU's (weak) or all GPUs' (strong)", choices=("weak", "strong")
    )
    precision: str = parameter("tf32", "torch's default: TF32 in convolutions; or fp32", choices=("tf32", "fp32"))
    repeats: int = parameter(3, "repetitions of each rung, each with a fresh network", minimum=1, maximum=1000)
    first_batch: int = parameter(32, "the ladder's first rung", unit="images", minimum=1, maximum=2**24)
    batch_factor: int = parameter(4, "from rung to rung", minimum=2, maximum=1024)
    last_batch: int = parameter(131_072, "no rung is larger", unit="images", minimum=1, maximum=2**24)
    least_iterations: int = parameter(
        10, "a measurement has at least so many iterations, of several epochs where one has fewer", minimum=1
    )
    profiled_iterations: int = parameter(10, "iterations under the profiler for each repetition; 0: none", minimum=0)
    workers: int = parameter(2, "processes of a loader", minimum=0, maximum=256)
    pinned: bool = parameter(False, "the loader's batches lie in pinned memory")
    cudnn_benchmark: bool = parameter(False, "cuDNN tries its algorithms out (torch's default: no)")
    learning_rate: float = parameter(0.1, "SGD's", minimum=0, maximum=100)
    momentum: float = parameter(0.9, "SGD's, without Nesterov", minimum=0, maximum=1)
    weight_decay: float = parameter(5e-4, "L2 on all parameters", minimum=0, maximum=1)
    width: int = parameter(64, "channels of ResNet-18's first stage; other than 64 only to save time", minimum=1)
    largest_message: int = parameter(
        2**28, "end of the sweep of all-reduces", unit="bytes", minimum=4096, maximum=2**34
    )
    train_examples: int = parameter(
        0, "train on the first n images of the canonical order; 0: all", unit="images", minimum=0
    )

    def rungs(self) -> list[int]:
        """The ladder: 32, 128, 512, …"""
        found, batch = [], self.first_batch
        while batch <= self.last_batch:
            found.append(batch)
            batch *= self.batch_factor
        return found


def resolve(parameters: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """One GPU scales nowhere: its weak and strong trials are one."""
    return {**parameters, "scaling": "weak"} if parameters.get("gpus") == 1 else dict(parameters)


def revision(parameters: Mapping[str, Scalar]) -> int:
    """DDP has one more since waiting for other ranks' batches is data wait; several GPUs have one more since the
    profiler comes after all that is timed. One GPU was never profiled."""
    return REVISION + (parameters.get("mode") == "ddp") + (parameters.get("gpus") != 1)


def steps(parameters: Mapping[str, Scalar]) -> int:
    """The links, each repetition of a rung that the data hold, all other rungs, and each rung under the profiler; fewer
    where memory is full."""
    p = Parameters(**parameters)  # type: ignore[arg-type]
    largest = (p.train_examples or TRAIN_IMAGES) // (p.gpus if p.scaling == "weak" else 1)
    held = [rung <= largest for rung in p.rungs()]
    looks = sum(held) if p.gpus > 1 and p.profiled_iterations else 0
    return 1 + p.repeats * sum(held) + (not all(held)) + looks


def check(parameters: Mapping[str, Scalar]) -> str | None:
    """What is wrong with these parameters together, or None."""
    p = Parameters(**parameters)  # type: ignore[arg-type]  # types were checked against the fields
    if p.last_batch < p.first_batch:
        return f"last_batch={p.last_batch} is less than first_batch={p.first_batch}: the ladder has no rung"
    if p.scaling == "strong" and p.first_batch % p.gpus:
        return f"first_batch={p.first_batch} cannot be shared equally by gpus={p.gpus} in strong scaling"
    return None


def run(spec: Spec, context: Context) -> TrialRun:
    """Rows of the machine and its links, then of each rung and repetition."""
    from trials import data_parallel, machine
    from trials.ladder import Climb
    from trials.splits import Images

    p = Parameters(**spec.parameters)  # type: ignore[arg-type]
    data_parallel.configure(context.device, spec.threads, p.precision, p.cudnn_benchmark)
    dataset = context.dataset
    images = Images(dataset.train_images, dataset.train_labels).first(p.train_examples)
    common, gpus = machine.facts(context.device, p.gpus)
    climb = Climb(p, spec, context, images, common | {"load": os.getloadavg()[0]})
    with ExitStack() as stack:
        climb.start(stack)
        begun = [] if climb.finished else climb.begun_on(gpus)
        if context.state is None:
            yield begun, climb.state
            begun = []
        while not climb.finished:
            yield [*begun, *climb.next_rows()], climb.state
            begun = []
    return Outcome("completed", {})
