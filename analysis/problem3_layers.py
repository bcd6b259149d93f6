"""Problem 3's arithmetic, written out from the rows of layers.parquet: every product shown gives the row's own number.

The analyser counted; here the same numbers are computed again from shapes and filters alone, and a difference
between the two is an error, not a footnote.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.load import AnalysisError, Data
from analysis.outcomes import fate

Row = Mapping[str, Any]
WEIGHTED = ("conv", "linear")
POOLS = ("max_pool", "avg_pool")


@dataclass(frozen=True)
class Network:
    """Rows of one network's layers in the order of execution, and the trial that they are of."""

    name: str
    trial_id: str
    layers: pd.DataFrame

    def of_kind(self, *kinds: str) -> list[Row]:
        """The layers of some kinds that inference uses."""
        return [r for r in records(self.layers) if r["kind"] in kinds and r["in_forward"]]

    def total(self, column: str, *kinds: str) -> int:
        """The sum of a column, over some kinds or all."""
        rows = self.layers[self.layers["kind"].isin(kinds)] if kinds else self.layers
        return int(rows[column].sum())


def networks(data: Data) -> dict[str, Network]:
    """The networks of the plan that have rows, in the plan's order; of several trials of one, the first."""
    rows = data.tables.get("layers", pd.DataFrame({"trial_id": []}))
    found: dict[str, Network] = {}
    for planned in records(data.plan):
        name, trial_id = str(planned.get("config_network") or ""), str(planned["trial_id"])
        own = rows[rows["trial_id"] == trial_id]
        if name and len(own) and name not in found:
            found[name] = Network(name, trial_id, own.sort_values("position"))
    return found


def why_missing(data: Data, column: str, value: str) -> str:
    """Why the plan's trial with a value in a config column has no rows, in words."""
    planned = data.plan[data.plan[f"config_{column}"] == value] if f"config_{column}" in data.plan else data.plan[:0]
    if planned.empty:
        return f"{value} is not among this study's trials"
    return f"{value}: {fate(data, str(planned.iloc[0]['trial_id']))}"


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dictionaries."""
    return [{str(k): v for k, v in row.items()} for row in frame.to_dict("records")]


def sides(text: Any) -> tuple[int, ...]:
    """ "96x55x55" as numbers; nothing for a missing value."""
    return tuple(int(v) for v in str(text).split("x")) if isinstance(text, str) and text else ()


def product(factors: Sequence[int], sign: str = "·") -> str:
    """ "11·11·3·96"."""
    return sign.join(map(str, factors))


def weight_factors(row: Row) -> tuple[int, ...]:
    """Factors of the number of weights: kernel, channels that a filter sees, filters; of a fully connected layer
    inputs and outputs. Raises `AnalysisError` where their product is not the row's number."""
    incoming, outgoing = sides(row["input_shape"]), sides(row["output_shape"])
    if row["kind"] == "conv":
        factors = (*sides(row["kernel"]), incoming[0] // int(row["groups"]), outgoing[0])
    else:
        factors = (incoming[-1], outgoing[-1])
    return _agree(row, factors, "parameters_without_bias")


def mac_factors(row: Row) -> tuple[int, ...]:
    """Factors of the multiply-accumulates: output places and filters, then products for each. As above."""
    outgoing = sides(row["output_shape"])
    if row["kind"] == "conv":
        groups = int(row["groups"])
        seen = (*sides(row["kernel"]), sides(row["input_shape"])[0] // groups)
        return _agree(row, (*outgoing[1:], outgoing[0], *seen), "macs")
    return _agree(row, (outgoing[-1], sides(row["input_shape"])[-1]), "macs")


def _agree(row: Row, factors: tuple[int, ...], column: str) -> tuple[int, ...]:
    if math.prod(factors) != int(row[column]):
        raise AnalysisError(
            f"{row['network']}, layer {row['layer']}: {product(factors)} = {math.prod(factors):,} is not {column} = "
            f"{int(row[column]):,} of layers.parquet"
        )
    return factors


def biases(row: Row) -> int:
    """Parameters of a layer that are biases."""
    return int(row["parameters"]) - int(row["parameters_without_bias"])


def output_side(row: Row) -> str:
    """How the output's side follows: "(227 − 11 + 2·0)/4 + 1 = 55", rounded down where it does not divide."""
    before, after = sides(row["input_shape"])[1], sides(row["output_shape"])[1]
    kernel, stride, padding = (sides(row[name])[0] for name in ("kernel", "stride", "padding"))
    fits = (before - kernel + 2 * padding) % stride == 0
    fraction = f"({before} − {kernel} + 2·{padding})/{stride}"
    computed = (before - kernel + 2 * padding) // stride + 1
    if computed != after:
        raise AnalysisError(f"{row['network']}, layer {row['layer']}: {fraction} + 1 is not {after}")
    return f"{fraction if fits else f'⌊{fraction}⌋'} + 1 = {after}"


def explained(network: Network) -> Iterator[str]:
    """The calculation of each layer with a size or parameters of its own, a line a layer."""
    for row in network.of_kind("conv", *POOLS, "linear"):
        yield {"conv": _explained_convolution, "linear": _explained_linear}.get(str(row["kind"]), _explained_pool)(row)


def _explained_convolution(row: Row) -> str:
    (channels, high, wide), output = sides(row["input_shape"]), sides(row["output_shape"])
    kernel, groups = sides(row["kernel"]), int(row["groups"])
    grouped = f", in {groups} groups, so that a filter sees {channels}/{groups} = {channels // groups} of them"
    return (
        f"**{row['layer']}**: {channels} maps of {high}×{wide}; {output[0]} filters of {product(kernel, '×')}, stride "
        f"{sides(row['stride'])[0]}, padding {sides(row['padding'])[0]}{grouped if groups > 1 else ''}. "
        f"Side {output_side(row)}, so {product(output)} = {int(row['activations']):,} units. "
        f"{_parameters(row)}"
    )


def _explained_linear(row: Row) -> str:
    incoming, outgoing = sides(row["input_shape"])[-1], sides(row["output_shape"])[-1]
    return (
        f"**{row['layer']}**: {incoming:,} inputs, {outgoing:,} units, each joined to every input. {_parameters(row)}"
    )


def _explained_pool(row: Row) -> str:
    word, output = str(row["kind"]).replace("_", " "), sides(row["output_shape"])
    return (
        f"**{row['layer']}**: {word}, {product(sides(row['kernel']), '×')}, stride {sides(row['stride'])[0]}. Side "
        f"{output_side(row)}, so {product(output)} = {int(row['activations']):,} units. Nothing to learn: 0."
    )


def _parameters(row: Row) -> str:
    factors, count = weight_factors(row), biases(row)
    weights = f"Weights {product(factors)} = {math.prod(factors):,}"
    plus = f", biases {count:,}, together {math.prod(factors):,} + {count:,}" if count else ""
    return f"{weights}{plus} = **{int(row['parameters']):,}**." if count else f"{weights}."


def summed(numbers: Sequence[int]) -> str:
    """ "34,944 + 307,456 = 342,400"."""
    return f"{' + '.join(f'{n:,}' for n in numbers)} = {sum(numbers):,}"


def short(number: int) -> str:
    """Two significant digits in thousands or millions, as the sheet writes them: 150K, 3.2M, 800K, 25K."""
    digits = len(str(number)) - 2
    rounded = round(number, -digits) if digits > 0 else number
    if rounded >= 1_000_000:
        return f"{rounded / 1e6:g}M"
    return f"{rounded / 1e3:g}K" if rounded >= 10_000 else str(number)
