"""Arms: the points of a grid, seeds put together, with a name that says what varies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

SAME_ARM = ("seed", "fingerprint", "module")
"""Config columns that never tell arms apart: seeds are the repetitions, the others are said otherwise."""
AROUND = ("threads", "dataset", "fingerprint", "revision", "timed", "hardware")
"""Config columns that are no point of the grid: what its trials are made with."""
UNTIMED = "untimed"
"""What stands in place of a time that is no result."""
UNTIMED_NOTE = "Untimed: such trials may share their device, so how long they took is no result."


@dataclass(frozen=True)
class Arm:
    """Trials that differ in the seed alone. `values` are all its config values, without the prefix config_.

    `name` says what the problem calls it ("cutout M=4"), `variation` the other swept parameters
    ("schedule=budget"; empty where none vary).
    """

    name: str
    variation: str
    values: Mapping[str, Any]
    trials: tuple[str, ...]

    @property
    def label(self) -> str:
        """Name and variation."""
        return ", ".join(part for part in (self.name, self.variation) if part)

    @property
    def timed(self) -> bool:
        """Whether how long its trials took is a result; it varies within no arm."""
        return is_timed(self.values.get("timed"))


def is_timed(value: Any) -> bool:
    """Whether times are results, of a trial's config_timed; one that is not recorded passes for timed."""
    return bool(pd.isna(value)) or bool(value)


def arms(
    plan: pd.DataFrame, name: Callable[[Mapping[str, Any]], str] | None = None, named: Sequence[str] = ()
) -> list[Arm]:
    """Group the plan's trials into arms, in the plan's order.

    `name` makes an arm's name from its values; `named` are the parameters it speaks of, so they are not
    repeated in the variation. Without `name` the varying parameters are the name, short as
    `farm plan` has it where that tells all apart.
    """
    columns = _config_columns(plan)
    groups: dict[tuple[str, ...], list[int]] = {}
    for position, row in enumerate(plan[columns].itertuples(index=False)):
        groups.setdefault(tuple(_text(v) for v in row), []).append(position)
    vary = [p for p in varying(plan) if p not in named]
    if not name:  # what a text says comes first
        vary.sort(key=lambda p: not any(isinstance(v, str) for v in plan[f"config_{p}"]))
    everything = [{c.removeprefix("config_"): plan.iloc[p[0]][c] for c in columns} for p in groups.values()]
    told_apart = len({short(values, vary) for values in everything}) == len(everything)
    write = short if told_apart and not name else describe
    found = []
    for values, positions in zip(everything, groups.values(), strict=True):
        rest = write(values, vary)
        found.append(
            Arm(
                name=name(values) if name else rest or "all trials",
                variation=rest if name else "",
                values=values,
                trials=tuple(str(plan["trial_id"].iloc[p]) for p in positions),
            )
        )
    return found


def varying(plan: pd.DataFrame) -> list[str]:
    """Parameters with more than one value in the plan, without prefix; the seed is not one."""
    return [c.removeprefix("config_") for c in _config_columns(plan) if len({_text(v) for v in plan[c]}) > 1]


def apart(each: Sequence[Mapping[str, str]], plan: pd.DataFrame) -> dict[str, list[str]]:
    """What `apart_each` tells of trials, put together: names in the plan's order, and all values of each."""
    found: dict[str, set[str]] = {}
    for differs in each:
        for name, value in differs.items():
            found.setdefault(name, set()).add(value)
    order = [str(c).removeprefix("config_") for c in plan]
    return {name: sorted(found[name]) for name in order if name in found}


def apart_each(trials: pd.DataFrame, plan: pd.DataFrame) -> list[dict[str, str]]:
    """What tells each trial from the nearest one of a plan: names without prefix, and its values as people write them.

    The same point of the grid is nearer than any other, whatever it was made with, and another seed nearer than
    other parameters. Of another dataset the fingerprint goes without saying.
    """
    columns = [str(c) for c in plan if str(c).startswith("config_") and c in trials and c != "config_module"]
    if plan.empty or trials.empty:
        return []
    texts = pd.concat([plan[columns], trials[columns]]).map(_text)
    codes = texts.apply(lambda column: pd.factorize(column)[0]).to_numpy()
    grid, found = codes[: len(plan)], []
    weight = dict.fromkeys(AROUND, 1) | {"seed": len(columns)}
    weights = [weight.get(c.removeprefix("config_"), 2 * len(columns)) for c in columns]
    for row, values in zip(codes[len(plan) :], texts[columns].iloc[len(plan) :].itertuples(index=False), strict=True):
        nearest = grid[((grid != row) @ weights).argmin()]
        differs = {
            c.removeprefix("config_"): value[:12] if c == "config_fingerprint" else value
            for c, value, same in zip(columns, values, nearest == row, strict=True)
            if not same
        }
        if "dataset" in differs:
            differs.pop("fingerprint", None)
        found.append(differs)
    return found


def describe(values: Mapping[str, Any], parameters: Iterable[str]) -> str:
    """ "depth=20, schedule=budget" for some of the values."""
    return ", ".join(f"{p}={_text(values[p])}" for p in parameters)


def short(values: Mapping[str, Any], parameters: Iterable[str]) -> str:
    """ "cutout smoothing=0.1": a text speaks for itself, other values have their parameter's name."""
    return " ".join(v if isinstance(v := values[p], str) and v else describe(values, [p]) for p in parameters)


def _config_columns(plan: pd.DataFrame) -> list[str]:
    """The columns that can tell arms apart."""
    names = [str(c) for c in plan.columns if str(c).startswith("config_")]
    return [c for c in names if c.removeprefix("config_") not in SAME_ARM]


def _text(value: Any) -> str:
    """A value as people write it: no ".0" on a whole number that pandas made a float (a column with gaps)."""
    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        return "none"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return f"{value:g}" if isinstance(value, float) else str(value)
