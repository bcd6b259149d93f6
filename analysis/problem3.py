"""Problem 3: parameters, memory and operations of architectures, receptive fields, region proposals.

Everything is drawn from the study's row tables: `layers`, `stacks`, `boxes`, `suppression`, `scanlines`, `epochs`.
Where a trial has no rows, its section says so and the rest stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis import problem3_layers as layers
from analysis import problem3_scene as scene
from analysis import problem3_scene_tables as scene_tables
from analysis import problem3_tables as made
from analysis.load import Data
from analysis.options import Options
from analysis.problem3_figures import inception_figure
from analysis.problem3_layers import Network, networks, why_missing
from analysis.provenance import distinct
from analysis.section import Section
from analysis.style import Figure
from analysis.table import Table

TITLE = "Problem 3: convolutional network architectures"
PAPER_NEURONS = {"conv1": 253_440, "conv2": 186_624, "conv3": 64_896, "conv4": 64_896, "conv5": 43_264}
"""Numbers of neurons in the caption of AlexNet's Figure 2."""
MODULES = {"inception_naive": "naive", "inception_reduced": "with dimension reduction"}
SHEETS_STACK = (3, 5)
"""Question 3: three filters of 5x5."""


def tables(data: Data, options: Options | None = None) -> dict[str, Table]:
    """All tables of the problem by name."""
    return {name: table for section in sections(data, options) for name, table in section.tables.items()}


def figures(data: Data, options: Options | None = None) -> dict[str, Figure]:
    """All figures of the problem by name."""
    return {name: figure for section in sections(data, options) for name, figure in section.figures.items()}


def main(data: Data, options: Options | None = None) -> tuple[dict[str, Figure], dict[str, Table]]:
    """The figure of the proposals and the table of all networks, as far as there are any."""
    found = networks(data)
    boxes, lines = _rows(data, "boxes"), _rows(data, "scanlines")
    shown = {"proposals": scene.proposals_figure(boxes, lines)} if len(boxes) else {}
    return shown, ({"networks": made.networks_table(data, found)} if found else {})


def sections(data: Data, options: Options | None = None) -> list[Section]:
    """The report: the sheet's five questions, and every network of the study."""
    found = networks(data)
    parts = (_alexnet, _vgg, _receptive, _inception, _faster, _suppression, _all_networks)
    return [part(data, found) for part in parts]


def _rows(data: Data, table: str) -> pd.DataFrame:
    """Rows of one table, of one trial where several have some (the plan's first)."""
    frame = data.tables.get(table, pd.DataFrame())
    if frame.empty:
        return frame
    first = next(i for i in data.plan["trial_id"] if i in set(frame["trial_id"]))
    chosen: pd.DataFrame = frame[frame["trial_id"] == first]
    return chosen


def _missing(data: Data, found: Mapping[str, Network], *names: str) -> list[str]:
    return [why_missing(data, "network", name) for name in names if name not in found]


def _alexnet(data: Data, found: Mapping[str, Network]) -> Section:
    paper, other = found.get("alexnet_paper"), found.get("alexnet")
    context: dict[str, Any] = {
        "missing": _missing(data, found, "alexnet_paper", "alexnet"),
        "paper": None,
        "other": None,
    }
    shown: dict[str, Table] = {}
    context["other"] = None
    if paper:
        weighted = paper.of_kind(*layers.WEIGHTED)
        context |= {
            "paper": list(layers.explained(paper)),
            "sum": layers.summed([int(r["parameters"]) for r in weighted]),
            "total": paper.total("parameters"),
            "dense": sum(int(r["parameters"]) for r in weighted if r["kind"] == "linear") / paper.total("parameters"),
            "units": {r["layer"]: int(r["activations"]) for r in weighted},
            "neurons": sum(int(r["activations"]) for r in weighted),
            "captioned": PAPER_NEURONS,
        }
        shown["alexnet-parameters"] = made.alexnet_table(data, paper)
    if paper and other:
        context["other"] = other.total("parameters")
        shown["alexnet-and-torchvision"] = made.two_alexnets_table(data, paper, other)
    return Section("AlexNet's parameters, layer by layer", "problem3-alexnet.md", ("3.1",), context, {}, shown)


def _vgg(data: Data, found: Mapping[str, Network]) -> Section:
    network = found.get("vgg19")
    context: dict[str, Any] = {"missing": _missing(data, found, "vgg19"), "network": None}
    shown: dict[str, Table] = {}
    if network:
        dense = network.of_kind("linear")
        weights = network.total("parameters_without_bias")
        convolutions = network.of_kind("conv")
        units = [int(r["activations"]) for r in convolutions]
        context |= {
            "network": network.name,
            "weights": weights,
            "with_bias": network.total("parameters"),
            "first_dense": int(dense[0]["parameters_without_bias"]),
            "dense_share": sum(int(r["parameters_without_bias"]) for r in dense) / weights,
            "early": sum(units[:4]) / sum(units),
            "field": int(convolutions[-1]["receptive_field"]),
        }
        shown["vgg19"] = made.vgg_table(data, network)
    return Section("VGG19: memory and weights", "problem3-vgg.md", ("3.2",), context, {}, shown)


def _receptive(data: Data, found: Mapping[str, Network]) -> Section:
    stacks = _rows(data, "stacks")
    context: dict[str, Any] = {"missing": [], "stacks": 0}
    if stacks.empty:
        context["missing"] = [why_missing(data, "task", "receptive_field")]
        return Section(*_RECEPTIVE, context)
    n, f = SHEETS_STACK
    asked = layers.records(stacks[(stacks["layers"] == n) & (stacks["filter"] == f)])
    context |= {"stacks": len(stacks), "agree": made.receptive_agree(stacks), "asked": asked[0] if asked else None}
    context |= {"most": int(stacks["layers"].max()), "largest": int(stacks["filter"].max())}
    return Section(*_RECEPTIVE, context, {}, {"receptive-fields": made.receptive_table(stacks)})


_RECEPTIVE = ("Receptive field of stacked convolutions", "problem3-receptive.md", ("3.3",))


def _inception(data: Data, found: Mapping[str, Network]) -> Section:
    modules = {key: found[name] for name, key in MODULES.items() if name in found}
    context: dict[str, Any] = {"missing": _missing(data, found, *MODULES), "modules": {}, "saving": None}
    shown_figures: dict[str, Figure] = {}
    for key, network in modules.items():
        context["modules"][key] = _module(network)
    shown = {
        f"inception-{key.split()[0] if key == 'naive' else 'reduced'}": made.inception_table(
            data, network, f"Inception module, {key}: convolutions"
        )
        for key, network in modules.items()
    }
    if len(modules) == len(MODULES):
        naive, reduced = modules.values()
        context["saving"] = _saving(naive, reduced)
        shown_figures["inception-operations"] = inception_figure(data, naive, reduced)
    title = "Inception modules"
    return Section(title, "problem3-inception.md", ("3.4",), context, shown_figures, shown)


def _module(network: Network) -> dict[str, Any]:
    """What the answers say of one module: input, what is joined, output, totals."""
    shape = layers.sides(network.of_kind("cat")[0]["output_shape"])
    convolutions = {str(r["layer"]): r for r in network.of_kind("conv")}
    ends = [name for name in ("conv1x1", "conv3x3", "conv5x5") if name in convolutions]
    widths = [layers.sides(convolutions[name]["output_shape"])[0] for name in ends]
    last = convolutions.get("project") or network.of_kind("max_pool")[0]
    channels, height, width = layers.sides(network.of_kind("conv")[0]["input_shape"])
    return {
        "input": f"{height}×{width}×{channels}",
        "output": layers.product((*shape[1:], shape[0]), "×"),
        "sum": layers.summed([*widths, layers.sides(last["output_shape"])[0]]),
        "channels": channels,
        "joined": shape[0],
        "macs": network.total("macs"),
        "macs_sum": layers.summed([int(r["macs"]) for r in convolutions.values()]),
        "parameters": network.total("parameters"),
    }


def _saving(naive: Network, reduced: Network) -> dict[str, Any]:
    before, after = naive.total("macs"), reduced.total("macs")
    rows = {str(r["layer"]): r for r in reduced.of_kind("conv")}
    plain = {str(r["layer"]): r for r in naive.of_kind("conv")}
    large = sum(int(plain[name]["macs"]) for name in ("conv3x3", "conv5x5"))
    branches = {
        side: (
            int(plain[f"conv{side}"]["macs"]),
            int(rows[f"reduce{side}"]["macs"]),
            int(rows[f"conv{side}"]["macs"]),
        )
        for side in ("3x3", "5x5")
    }
    return {
        "macs": before - after,
        "part": 1 - after / before,
        "factor": before / after,
        "large": large / before,
        "branches": branches,
    }


def _faster(data: Data, found: Mapping[str, Network]) -> Section:
    boxes, lines, epochs = (_rows(data, name) for name in ("boxes", "scanlines", "epochs"))
    context: dict[str, Any] = {"missing": [], "shown": None}
    title, template = "Faster R-CNN: from Fast R-CNN to region proposals", "problem3-faster.md"
    if boxes.empty or epochs.empty:
        context["missing"] = [why_missing(data, "task", "proposals")]
        return Section(title, template, ("3.5",), context)
    truth, anchors = scene.split(boxes)
    cell, last = scene.best_cell(anchors), epochs.sort_values("epoch").iloc[-1]
    context["shown"] = {
        "counts": scene_tables.stage_counts(anchors),
        "cells": len(anchors) // len(cell),
        "anchors": len(cell),
        "rows": int(anchors["cell_row"].max()) + 1,
        "scales": sorted(int(v) for v in cell["scale"].unique()),
        "ratios": [f"{v:g}" for v in sorted(cell["ratio"].unique())],
        "truth": len(truth),
        "best": layers.records(anchors.head(1))[0],
        "epochs": int(last["epoch"]),
        "steps": int(epochs["steps"].sum()),
        "scenes": int(epochs["samples"].sum()),
        "seconds": float(epochs["train_seconds"].sum()),
        "first_loss": float(epochs.sort_values("epoch").iloc[0]["train_loss"]),
        "last": {str(k): v for k, v in last.to_dict().items()},
        "true_boxes": scene.true_boxes(epochs),
        "side": len(lines),
        "box_weight": distinct(epochs, "config_box_weight"),
    }
    drawn = {
        "proposals": scene.proposals_figure(boxes, lines),
        "proposal-training": scene.training_figure(epochs),
    }
    return Section(title, template, ("3.5",), context, drawn, {"proposal-stages": scene_tables.stages_table(anchors)})


def _suppression(data: Data, found: Mapping[str, Network]) -> Section:
    boxes, lines, steps = (_rows(data, name) for name in ("boxes", "scanlines", "suppression"))
    context: dict[str, Any] = {"missing": [], "example": None}
    title, template = "Non-maximum suppression", "problem3-suppression.md"
    if boxes.empty or steps.empty:
        context["missing"] = [why_missing(data, "task", "proposals")]
        return Section(title, template, ("3.5",), context)
    _, anchors = scene.split(boxes)
    counts = scene_tables.stage_counts(anchors)
    dropped = steps[steps["suppressed"].astype(bool)]
    context["example"] = {
        "boxes": int(anchors["letter"].notna().sum()),
        "kept": int(anchors["letter"].notna().sum()) - dropped["other"].nunique(),
        "threshold": float(steps["threshold"].iloc[0]),
        "entered": counts["sized"],
        "left": counts["unsuppressed"],
        "handed": counts["proposed"],
    }
    drawn = {"suppression": scene.suppression_figure(boxes, lines, steps)}
    shown = {
        "suppression-boxes": scene_tables.example_table(anchors, steps),
        "suppression-steps": scene_tables.steps_table(anchors, steps),
    }
    return Section(title, template, ("3.5",), context, drawn, shown)


def _all_networks(data: Data, found: Mapping[str, Network]) -> Section:
    shown = {"networks": made.networks_table(data, found)} if found else {}
    return Section("Every network of this study", "problem3-networks.md", (), {"found": list(found)}, {}, shown)
