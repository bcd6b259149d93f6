"""Checks that types alone do not make: ranges, choices, axis values, and the nearest right name."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import math
import os
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from farm.errors import UsageError
from trials.spec import Scalar

if TYPE_CHECKING:
    from farm.config import Config
    from farm.settings import Settings


def nearest(name: str, names: Collection[str], prefix: str = "nearest is ") -> str:
    """`prefix` and the most similar of `names` (case and a leading `trial.` aside), or nothing.

    Where none is similar, one whose words begin with the letters of `name`: lr is near learning_rate.
    """
    by_tail = {n.removeprefix("trial.").lower(): n for n in names} | {n.lower(): n for n in names}
    wanted = name.lower()
    found = difflib.get_close_matches(wanted, by_tail, n=1, cutoff=0.6)
    found += [n for n in by_tail if "_" in n and n.isidentifier() and "".join(w[:1] for w in n.split("_")) == wanted]
    return f"{prefix}{by_tail[found[0]]}{'; ' if prefix == 'nearest is ' else ''}" if found else ""


def counted(number: float, noun: str) -> str:
    """ "1 trial", "3 trials", "0.5 GPUs"."""
    text = str(number) if isinstance(number, int) else f"{number:g}"
    return f"{text} {noun}{'' if number == 1 else 's'}"


def on_the_cpu(settings: Settings) -> str:
    """The words that a command lacks for a run on the CPU: "device=cpu resources.gpu=0", or one of the two."""
    device = ["device=cpu"] if settings.device != "cpu" else []
    return " ".join([*device, *(["resources.gpu=0"] if settings.resources.gpu != 0 else [])])


def short_path(path: Path) -> str:
    """The path as the user would type it: relative where that is shorter."""
    return min(str(path), os.path.relpath(path), key=len)


def check_ranges(values: Any, prefix: str) -> None:
    """Hold a dataclass instance against its fields' `choices`, `minimum` and `maximum`; NaN and infinity fail."""
    for f in dataclasses.fields(values):
        check_value(f"{prefix}{f.name}", getattr(values, f.name), f.metadata)


def check_value(key: str, value: Any, metadata: Any) -> None:
    """Raise `UsageError` naming the key and its range or choices when the value is outside them."""
    choices = metadata.get("choices")
    if choices is not None and value not in choices:
        raise UsageError(f"{key}={value}: one of {', '.join(map(str, choices))} is expected")
    low, high = metadata.get("minimum"), metadata.get("maximum")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        outside = (low is not None and value < low) or (high is not None and value > high)
        if outside or not math.isfinite(value):
            raise UsageError(f"{key}={value}: {range_text(metadata)} is expected")


def range_text(metadata: Any) -> str:
    """The allowed values of a field, for messages and help."""
    if metadata.get("choices") is not None:
        return " | ".join(str(c) or "''" for c in metadata["choices"])
    low, high = metadata.get("minimum"), metadata.get("maximum")
    if low is not None and high is not None:
        return f"a number from {low} to {high}"
    if low is not None:
        return f"a number of at least {low}"
    return f"a number of at most {high}" if high is not None else "a finite number"


def check_retry(retry: str) -> None:
    """Raise `UsageError` unless `retry` is none, failed, or a time that says its zone."""
    if retry in ("none", "failed"):
        return
    with contextlib.suppress(ValueError, OverflowError):  # the latter of a time at the edge of the calendar
        if (time := datetime.fromisoformat(retry)).tzinfo is not None and time.astimezone(UTC):
            return
    raise UsageError(f"retry={retry}: none, failed, or a time as 2026-11-30T12:00:00+00:00 is expected")


def check_reserved(config: Config, asked: Mapping[str, Any]) -> None:
    """Hold a study to the `resources` that its own file asks for.

    Raises `UsageError` where a timed trial would no longer have its node alone, or where a number takes the place of
    the parameter that says how many GPUs a trial runs on: in a timed study any other number, since its seconds are of
    trials that have what they asked for; else one that is too small. 0 does not, which is a run on the CPU, unless
    device=cuda.
    """
    settings, gpu = config.settings, config.settings.resources.gpu
    if settings.timed and asked.get("exclusive") == "node" and settings.resources.exclusive != "node":
        raise UsageError(
            "resources.exclusive='': a timed trial of this study has its node to itself, as its file says; "
            "use timed=false to run others beside it"
        )
    name = asked.get("gpu")
    if not isinstance(name, str) or name not in config.parameters or gpu == name:
        return
    if gpu == 0 and settings.device != "cuda":
        return
    default, axes = config.parameters[name], config.sweep | {k: v for group in config.zip for k, v in group.items()}
    values = [*axes.get(name, [default]), *(point.get(name, default) for point in config.extra)]
    allowed = [gpu]  # resources.gpu= takes whatever YAML makes of it, also what no set can hold
    if not settings.timed:  # a part of a GPU is one GPU that is shared
        held = isinstance(gpu, (int, float)) and settings.device != "cpu"
        allowed += [v for v in values if not held or not isinstance(v, (int, float)) or v <= math.ceil(gpu)]
    if any(value not in allowed for value in values):
        kind = "a timed trial" if settings.timed else "a trial"
        chosen_by = f"sweep.{name}=[…]" if name in axes else f"trial.{name}=…"
        raise UsageError(
            f"resources.gpu={gpu}: {kind} of this study holds the GPUs that it runs on, as many as {name} says; "
            f"{chosen_by} chooses, and {on_the_cpu(settings)} runs without"
        )


def axis_values(axes: Any, schema: Any, prefix: str) -> dict[str, list[Scalar]]:
    """Axes with every value converted to its parameter's type and checked against its range.

    Raises `UsageError` for an axis that is no parameter, is not a list, is empty, repeats a value, or holds
    a value of the wrong type or out of range.
    """
    if not isinstance(axes, dict):
        raise UsageError(f"{prefix}: a mapping of parameters to lists is expected")
    fields = {f.name: f for f in dataclasses.fields(schema)}
    checked: dict[str, list[Scalar]] = {}
    for name, values in axes.items():
        key = f"{prefix}.{name}"
        if name not in fields:
            raise UsageError(f"{key}: no such parameter{nearest(str(name), fields, prefix='; nearest is ')}")
        if not isinstance(values, list) or not values:
            raise UsageError(f"{key}={values}: a list of at least one value is expected, as {key}=[…]")
        holder = typed(schema)
        converted = [_converted(key, name, value, holder) for value in values]
        for value in converted:
            check_value(key, value, fields[name].metadata)
        if len({(type(v), v) for v in converted}) < len(converted):
            raise UsageError(f"{key}={values}: a value stands there twice")
        checked[str(name)] = converted
    return checked


def typed(schema: Any) -> DictConfig:
    """A dataclass as a typed OmegaConf node that can be written to, also when the dataclass is frozen."""
    node = OmegaConf.structured(schema)
    OmegaConf.set_readonly(node, False)
    assert isinstance(node, DictConfig)
    return node


def _converted(key: str, name: str, value: Any, holder: DictConfig) -> Scalar:
    try:
        OmegaConf.update(holder, name, value)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise UsageError(f"{key}: {str(error).splitlines()[0]}") from None
    scalar: Scalar = holder[name]
    return scalar
