"""Problem 3: architectures, counted layer by layer; receptive fields, measured; region proposals, trained and shown.

A trial is one of three tasks: `architecture` analyses one network on meta tensors (trials/architectures.py),
`receptive_field` measures stacks of convolutions by their gradients (trials/stacks.py), `proposals` trains a small
region proposal network on drawn scenes and keeps what becomes of every anchor of one of them
(trials/region_training.py).

    python farm/run.py problem=3                                 the sheet's networks, stacks and proposals, on CPUs
    python farm/run.py problem=3 sweep.network=[vgg16,googlenet] any classification network of torchvision
    python farm/run.py problem=3 profile=smoke                   a short training

It takes no GPU and no dataset. On one core of an AMD EPYC, torch 2.14.1: a network 0.3 to 0.5 s, the training of 720
steps 24 s (n = 1; up to three times that where others use the core too), all trials on two cores 41 s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from trials import network_names
from trials.problem3_tables import TABLES
from trials.spec import Column, Context, Outcome, Row, Scalar, Spec, TrialRun, parameter

__all__ = ["TABLES", "Parameters", "check", "run"]

REVISION = 1
SUMMARY = (
    Column("parameters", "int", help="weights and biases of the network"),
    Column("macs", "int", help="multiply-accumulates of one forward pass on one input"),
)


@dataclass(frozen=True)
class Parameters:
    """What a trial of problem 3 can be asked to do."""

    task: str = parameter("architecture", "kind of trial", choices=("architecture", "receptive_field", "proposals"))
    network: str = parameter("", "network to analyse: one of ours or of torchvision's classifiers")
    input_size: int = parameter(0, "height and width of its input; 0: its own", unit="pixels", minimum=0, maximum=4096)
    channels: int = parameter(256, "channels that go into an Inception module", minimum=1, maximum=65536)
    filters_conv1x1: int = parameter(128, "Inception: 1x1 convolution", unit="filters", minimum=1)
    filters_conv3x3: int = parameter(192, "Inception: 3x3 convolution", unit="filters", minimum=1)
    filters_conv5x5: int = parameter(96, "Inception: 5x5 convolution", unit="filters", minimum=1)
    filters_reduce3x3: int = parameter(128, "Inception: 1x1 before the 3x3", unit="filters", minimum=1)
    filters_reduce5x5: int = parameter(32, "Inception: 1x1 before the 5x5", unit="filters", minimum=1)
    filters_project: int = parameter(64, "Inception: 1x1 after the pool", unit="filters", minimum=1)
    most_layers: int = parameter(6, "receptive field: stacks of up to N convolutions", minimum=1, maximum=20)
    largest_filter: int = parameter(7, "receptive field: filters from 2 to F", unit="pixels", minimum=2, maximum=15)
    epochs: int = parameter(12, "proposals: epochs of training", unit="epochs", minimum=1, maximum=10_000)
    steps: int = parameter(60, "proposals: steps of an epoch", unit="steps", minimum=1, maximum=100_000)
    batch_size: int = parameter(4, "proposals: scenes of a step, each new", unit="scenes", minimum=1, maximum=1024)
    learning_rate: float = parameter(
        2e-3, "proposals: Adam's, falling along half a cosine to a hundredth", minimum=0, maximum=10
    )
    box_weight: float = parameter(
        5.0, "proposals: weight of the boxes' loss against that of objectness (torchvision: 1)", minimum=0, maximum=1000
    )
    scene_size: int = parameter(160, "proposals: side of a scene", unit="pixels", minimum=96, maximum=1024)
    suppression_iou: float = parameter(0.7, "proposals: overlap above which one is suppressed", minimum=0, maximum=1)
    before_suppression: int = parameter(2000, "proposals: most that enter suppression", minimum=1)
    after_suppression: int = parameter(300, "proposals: most that leave it", minimum=1)


def check(parameters: Mapping[str, Scalar]) -> str | None:
    """What is wrong with these parameters together, or None."""
    p = Parameters(**parameters)  # type: ignore[arg-type]  # types were checked against the fields
    return network_names.unknown(p.network) if p.task == "architecture" else None


def run(spec: Spec, context: Context) -> TrialRun:
    """Rows of the tables that the task fills."""
    p = Parameters(**spec.parameters)  # type: ignore[arg-type]
    from trials import process

    process.configure("cpu", spec.threads, "fp32", deterministic=False)
    if p.task == "proposals":
        from trials import region_training

        recipe = {f.name: spec.parameters[f.name] for f in fields(region_training.Recipe)}
        return (yield from region_training.run(region_training.Recipe(**recipe), spec.seed, context))  # type: ignore[arg-type]
    if p.task == "receptive_field":
        from trials import stacks

        rows: list[Row] = [{"table": "stacks"} | row for row in stacks.rows(p.most_layers, p.largest_filter, spec.seed)]
        yield rows, None
        return Outcome("completed", {})
    from trials import architectures, networks

    network, shape = networks.build(p.network, p.input_size, p.channels, networks.filters_of(spec.parameters))
    layers = architectures.analyse(network, shape, p.network)
    yield layers, None
    totals = {name: sum(int(row[name] or 0) for row in layers) for name in ("parameters", "macs")}  # type: ignore[arg-type]
    return Outcome("completed", totals)
