"""The tables of problem 3."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.load import Data
from analysis.problem3_layers import (
    POOLS,
    WEIGHTED,
    Network,
    biases,
    mac_factors,
    product,
    short,
    sides,
    weight_factors,
)
from analysis.provenance import Source, source
from analysis.table import Shown, Table, number_column, text_column

BYTES = 4
"""Of a number in single precision."""


def source_of(rows: pd.DataFrame, note: str = "") -> Source:
    """The source made of these rows, of whichever table."""
    return Source(tuple(str(i) for i in rows["trial_id"].unique()), len(rows), note)


def alexnet_table(data: Data, network: Network) -> Table:
    """AlexNet's layers with parameters, weights and biases apart, and the total."""
    rows = [_parameter_record(row) for row in network.of_kind(*WEIGHTED)]
    total = {key: sum(int(r[key]) for r in rows) for key in ("weights", "biases", "parameters")}
    frame = pd.DataFrame([*rows, {"layer": "total", "output": "", "calculation": ""} | total])
    frame["share"] = frame["parameters"] / total["parameters"]
    columns = (
        text_column("Layer", "layer"),
        text_column("Output", "output"),
        text_column("Weights", "calculation"),
        number_column("= Weights", "weights", ",.0f"),
        number_column("Biases", "biases", ",.0f"),
        number_column("Parameters", "parameters", ",.0f"),
        number_column("Share (%)", "share", ".1f", 100),
    )
    return Table("AlexNet as in the paper: parameters", frame, columns, source=source(data, [network.trial_id]))


def _parameter_record(row: Mapping[str, Any]) -> dict[str, Any]:
    factors = weight_factors(row)
    numbers = {"weights": math.prod(factors), "biases": biases(row), "parameters": int(row["parameters"])}
    shape = product(sides(row["output_shape"]), "×")
    return {"layer": row["layer"], "output": shape, "calculation": product(factors), **numbers}


def two_alexnets_table(data: Data, paper: Network, other: Network) -> Table:
    """The paper's AlexNet and torchvision's, layer by layer."""
    pairs = zip(paper.of_kind(*WEIGHTED), other.of_kind(*WEIGHTED), strict=True)
    rows = [
        {
            "layer": a["layer"],
            "paper": product(weight_factors(a)),
            "paper_parameters": int(a["parameters"]),
            "torchvision": product(weight_factors(b)),
            "torchvision_parameters": int(b["parameters"]),
        }
        for a, b in pairs
    ]
    totals = {k: sum(int(r[k]) for r in rows) for k in ("paper_parameters", "torchvision_parameters")}
    frame = pd.DataFrame([*rows, {"layer": "total", "paper": "", "torchvision": ""} | totals])
    columns = (
        text_column("Layer", "layer"),
        text_column("Paper: weights", "paper"),
        number_column("with biases", "paper_parameters", ",.0f"),
        text_column("torchvision: weights", "torchvision"),
        number_column("with biases", "torchvision_parameters", ",.0f"),
    )
    title = "AlexNet as in the paper and as in torchvision"
    return Table(title, frame, columns, source=source(data, [paper.trial_id, other.trial_id]))


def vgg_table(data: Data, network: Network) -> Table:
    """VGG19 in the sheet's own form, without biases, with totals."""
    rows = network.of_kind("conv", *POOLS, "linear")
    first = sides(rows[0]["input_shape"])
    shape = (*first[1:], first[0])
    given = {"layer": "Input", "memory": _memory(shape), "compute": "0", "activations": math.prod(shape), "weights": 0}
    lines = [given, *(_vgg_record(row) for row in rows)]
    totals = {key: sum(int(line[key]) for line in lines) for key in ("activations", "weights")}
    memory = f"{totals['activations']:,} ({short(totals['activations'])})"
    total = {"layer": "TOTAL", "memory": memory, "compute": f"{totals['weights']:,}"}
    columns = (
        text_column("Layer", "layer"),
        Shown("Number of Activations (Memory)", lambda row: str(row["memory"])),
        Shown("Parameters (Compute)", lambda row: str(row["compute"])),
    )
    note = (
        "Biases are left out, as the sheet asks. K and M are rounded to two digits as in the sheet; the total is the "
        "sum of the exact numbers (they are in the CSV), input included. In single precision the activations of one "
        f"image take {_mebibytes(totals['activations'])} and the weights {_mebibytes(totals['weights'])}."
    )
    title = "Table 1 of the sheet: VGG19 memory and weights"
    return Table(title, pd.DataFrame([*lines, total | totals]), columns, (note,), source(data, [network.trial_id]))


def _vgg_record(row: Mapping[str, Any]) -> dict[str, Any]:
    shape = sides(row["output_shape"])
    places = (*shape[1:], shape[0])
    record: dict[str, Any] = {"activations": int(row["activations"]), "weights": int(row["parameters_without_bias"])}
    if row["kind"] in POOLS:
        return record | {"layer": f"POOL{sides(row['kernel'])[0]}", "memory": _memory(places), "compute": "0"}
    factors, weights = weight_factors(row), f"{record['weights']:,}"
    if row["kind"] == "linear":
        return record | {"layer": "FC", "memory": str(shape[-1]), "compute": f"{_opened(row)}*{shape[-1]} = {weights}"}
    name, kernel = f"CONV{factors[0]}-{factors[-1]}", product(factors[:-1], "*")
    return record | {"layer": name, "memory": _memory(places), "compute": f"({kernel})*{factors[-1]} = {weights}"}


def _opened(row: Mapping[str, Any]) -> str:
    """Inputs of VGG's first fully connected layer as the maps they are, 7*7*512; of the others as they are."""
    inputs = sides(row["input_shape"])[-1]
    side = math.isqrt(inputs // 512)
    return f"{side}*{side}*512" if side > 1 and side * side * 512 == inputs else str(inputs)


def _mebibytes(numbers: int) -> str:
    return f"{BYTES * numbers / 2**20:.1f} MiB"


def _memory(places: Sequence[int]) -> str:
    return f"{product(places, '*')}={short(math.prod(places))}"


def receptive_table(stacks: pd.DataFrame) -> Table:
    """Measured receptive fields: a line for each N, a column for each F."""
    filters = sorted({int(v) for v in stacks["filter"]})
    measured = {(int(r["layers"]), int(r["filter"])): r for r in stacks.to_dict("records")}
    rows = [
        {"layers": n} | {f"F={f}": _measured(measured.get((n, f))) for f in filters}
        for n in sorted({int(v) for v in stacks["layers"]})
    ]
    columns = (number_column("N", "layers", ".0f"), *(Shown(f"F = {f}", _cell(f"F={f}")) for f in filters))
    agree = receptive_agree(stacks)
    note = (
        "Height x width of the region of the input from which one output of N stacked FxF convolutions has a "
        f"gradient; every input in it has one. {agree} of {len(stacks)} equal NF − N + 1, and also the region of one "
        "convolution with a filter of that side, measured the same way."
    )
    title = "Receptive field of N stacked FxF convolutions, measured"
    made = source_of(stacks, "random weights in double precision")
    return Table(title, pd.DataFrame(rows), columns, (note,), made)


def _measured(row: Mapping[Any, Any] | None) -> str:
    return f"{int(row['height'])}x{int(row['width'])}" if row is not None else "–"


def _cell(key: str) -> Any:
    return lambda row: str(row[key])


def _agreeing(stacks: pd.DataFrame) -> Any:
    """Whether every measure of a stack is the predicted one."""
    sizes = stacks[["height", "width", "single_height", "single_width"]]
    return sizes.eq(stacks["predicted"], axis=0).all(axis=1) & (stacks["touched"] == stacks["predicted"] ** 2)


def receptive_agree(stacks: pd.DataFrame) -> int:
    """Number of stacks whose measured field is the predicted one in every way."""
    return int(_agreeing(stacks).sum())


def inception_table(data: Data, network: Network, title: str) -> Table:
    """The convolutions of an Inception module: output, products, MACs, operations, parameters, and totals."""
    rows = [_operation_record(row) for row in network.of_kind("conv")]
    totals = {key: sum(int(r[key]) for r in rows) for key in ("macs", "operations", "parameters")}
    frame = pd.DataFrame([*rows, {"layer": "total", "output": "", "calculation": ""} | totals])
    columns = (
        text_column("Convolution", "layer"),
        text_column("Output", "output"),
        text_column("Multiply-accumulates", "calculation"),
        number_column("= MACs", "macs", ",.0f"),
        number_column("Operations = 2 MACs", "operations", ",.0f"),
        number_column("Parameters", "parameters", ",.0f"),
    )
    return Table(title, frame, columns, source=source(data, [network.trial_id]))


def _operation_record(row: Mapping[str, Any]) -> dict[str, Any]:
    factors = mac_factors(row)
    text = f"{product(factors[:3])}·({product(factors[3:])})"
    numbers = {"macs": int(row["macs"]), "operations": 2 * int(row["macs"]), "parameters": int(row["parameters"])}
    shape = sides(row["output_shape"])
    return {"layer": row["layer"], "output": product((*shape[1:], shape[0]), "×"), "calculation": text, **numbers}


def networks_table(data: Data, found: Mapping[str, Network]) -> Table:
    """Totals of every network of the study."""
    frame = pd.DataFrame([network_record(network) for network in found.values()])
    columns = (
        text_column("Network", "network"),
        text_column("Input", "input"),
        number_column("Parameters", "parameters", ",.0f"),
        number_column("without biases", "without_bias", ",.0f"),
        number_column("not used in inference", "unused", ",.0f"),
        number_column("MACs", "macs", ",.0f"),
        number_column("Operations", "operations", ",.0f"),
        number_column("Receptive field", "receptive_field", ",.0f"),
    )
    note = (
        "Parameters as the network is built; those not used in inference are of auxiliary classifiers. MACs are those "
        "of convolutions, fully connected layers and matrix products for one image; operations = 2 MACs. Receptive "
        "field: height in pixels for a unit of the last layer whose units do not all see the whole image."
    )
    ids = [n.trial_id for n in found.values()]
    return Table("Every network of this study", frame, columns, (note,), source(data, ids))


def network_record(network: Network) -> dict[str, Any]:
    """Totals of one network."""
    rows = network.layers
    fields = rows.loc[rows["in_forward"].astype(bool), "receptive_field"].dropna()
    return {
        "network": network.name,
        "input": product(sides(rows["input_shape"].iloc[0]), "×"),
        "parameters": network.total("parameters"),
        "without_bias": network.total("parameters_without_bias"),
        "unused": int(rows.loc[~rows["in_forward"].astype(bool), "parameters"].sum()),
        "macs": network.total("macs"),
        "operations": 2 * network.total("macs"),
        "receptive_field": float(fields.iloc[-1]) if len(fields) else math.nan,
    }
