"""Lines over epochs: the mean over seeds with its interval, drawn with labels at their ends."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes

from analysis import stats, style

LEGEND_LETTERS = 34
"""A line of a legend: of the widest letters, still less than the picture's width."""
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """One line: `x` (epochs), the mean over trials `value`, and its interval `low`..`high` (NaN where n=1).

    `singles` holds the two lines of an arm with two trials: an interval from two values (12.7 standard errors
    wide) would cover the picture and say less than the two lines do. `cut` says that an interval was cut at zero.
    """

    label: str
    colour: str
    x: Array
    value: Array
    low: Array
    high: Array
    n: int
    dashes: str = "-"
    singles: tuple[tuple[Array, Array], ...] = ()
    cut: bool = False


def curve(
    rows: pd.DataFrame, column: str, label: str, colour: str, dashes: str = "-", confidence: float = 0.95,
    at_zero: bool = False,
) -> Curve:  # fmt: skip
    """The mean of a column at each epoch over the trials in `rows`, with a t interval at each epoch.

    `at_zero` cuts the intervals there: of what cannot be below it. An epoch that not every trial has (one
    diverged, or stopped early) has the mean of those that do.
    """
    kept = rows.loc[np.isfinite(rows[column].to_numpy(dtype=np.float64)), ["trial_id", "epoch", column]]
    whole = [(float(str(e)), stats.mean(g[column].to_numpy(), confidence)) for e, g in kept.groupby("epoch")]
    points = [(epoch, mean.within(0.0) if at_zero else mean) for epoch, mean in whole]
    n = kept["trial_id"].nunique()
    singles = [g.sort_values("epoch") for _, g in kept.groupby("trial_id")] if n == 2 else []
    return Curve(
        label=label,
        colour=colour,
        x=np.array([epoch for epoch, _ in points], dtype=np.float64),
        value=np.array([p.value for _, p in points], dtype=np.float64),
        low=np.array([p.low for _, p in points], dtype=np.float64),
        high=np.array([p.high for _, p in points], dtype=np.float64),
        n=n,
        dashes=dashes,
        singles=tuple((_floats(g["epoch"]), _floats(g[column])) for g in singles),
        cut=at_zero and any(mean.low < 0 for _, mean in whole),
    )


def _floats(values: pd.Series[float]) -> Array:
    return np.asarray(values, dtype=np.float64)


def frame(curves: Sequence[Curve], what: str) -> pd.DataFrame:
    """The lines as a table: arm, epoch, the mean of `what`, low and high."""
    parts = [
        pd.DataFrame({"arm": c.label, "epoch": c.x.astype(int), what: c.value, "low": c.low, "high": c.high})
        for c in curves
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def draw(axes: Axes, curves: Sequence[Curve], *, log: bool = False, percent: bool = False) -> None:
    """Lines and bands. A logarithmic axis is used only where every value is above zero."""
    for c in curves:
        axes.plot(c.x, c.value, c.dashes, color=c.colour, marker="o" if len(c.x) < 8 else "", markersize=3.5)
        for x, y in c.singles:
            axes.plot(x, y, "-", color=c.colour, linewidth=0.6, alpha=0.7)
        if c.n > 2:
            floor = c.value.min() / 2 if log else -np.inf
            axes.fill_between(c.x, np.maximum(c.low, floor), c.high, color=c.colour, alpha=0.18, linewidth=0)
    values = np.concatenate([c.value for c in curves]) if curves else np.ones(1)
    if log and len(values) and values.min() > 0:
        style.log_scale(axes, percent=percent)
    elif percent:
        style.percent_axis(axes)


def how_drawn(curves: Sequence[Curve], confidence: float) -> str:
    """The sentences of a caption that say what line and band are, with n."""
    counts = sorted({c.n for c in curves})
    if not counts:
        return ""
    n = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
    if counts[-1] < 2:
        return f"One seed an arm ({n}), so no intervals."
    text = f"Line: mean over seeds ({n})."
    if 2 in counts:
        text += " Thin lines: the two seeds, where there are two."
    cut = ", cut at zero" if any(c.cut for c in curves if c.n > 2) else ""
    return text + (f" Band: {100 * confidence:g} % t interval at each epoch{cut}." if counts[-1] > 2 else "")


def limit(axes: Axes, curves: Sequence[Curve], *others: float) -> None:
    """Fit the y axis to the lines and `others`, not to wide intervals, which then run out of the picture."""
    values = np.concatenate([c.value for c in curves] + [np.array(others, dtype=np.float64)])
    low, high = float(values.min()), float(values.max())
    if axes.get_yscale() == "log":
        axes.set_ylim(low / 1.15, high * 1.15)
    else:
        margin = 0.05 * ((high - low) or 1.0)
        axes.set_ylim(low - margin, high + margin)


def label(axes: Axes, curves: Sequence[Curve]) -> None:
    """Write each line's label at its right end; call it last."""
    ends = [(c.label, c.colour, float(c.x[-1]), float(c.value[-1])) for c in curves if len(c.x)]
    style.label_ends(axes, ends)


def name_lines(axes: Axes, curves: Sequence[Curve]) -> None:
    """Say which line is which: at its end where colours tell all apart and labels have room there, else in a legend
    below; and lay everything out so that all of it is in the picture.

    Call it last, for a drawing of these axes alone.
    """
    drawing: Any = axes.figure
    drawing.set_layout_engine("constrained")
    if len({c.colour for c in curves}) == len(curves) and style.label_width(axes, [c.label for c in curves]) < 0.42:
        label(axes, curves)
    else:
        _legend_below(axes, curves)
    drawing.draw_without_rendering()
    drawing.set_layout_engine("none")  # what is laid out stays so, in every format


def _legend_below(axes: Axes, curves: Sequence[Curve]) -> None:
    """A legend in as many columns as there is room for; the drawing becomes higher by it."""
    drawing: Any = axes.figure
    labels = [textwrap.fill(c.label, LEGEND_LETTERS) for c in curves]
    handles = [axes.plot([], [], c.dashes, color=c.colour)[0] for c in curves]
    columns = max(1, int(0.97 / (style.label_width(axes, labels) + 0.12)))  # 0.12: the handle, and space
    legend = drawing.legend(handles, labels, loc="outside lower left", ncols=columns, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    height = legend.get_window_extent(drawing.canvas.get_renderer()).height / drawing.dpi
    drawing.set_figheight(drawing.get_figheight() + height)


def learning_rate_drops(rows: pd.DataFrame, at_most: int = 4) -> list[int]:
    """Epochs (from 1) that were the first at a lower learning rate; none for one that falls all the time."""
    if "config_schedule" in rows:
        rows = rows[rows["config_schedule"] != "onecycle"]  # which in few epochs falls no more often than others drop
    if rows.empty or "learning_rate" not in rows:
        return []
    rates = rows.groupby("epoch")["learning_rate"].mean()
    lower = rates.to_numpy()[1:] < 0.999 * rates.to_numpy()[:-1]
    epochs = [int(e) for e in rates.index.to_numpy()[1:][lower]]
    return epochs if len(epochs) <= at_most else []
