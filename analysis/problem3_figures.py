"""Figures of problem 3 that are drawn from layers: where an Inception module's multiply-accumulates go."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.patches import Patch

from analysis import style
from analysis.load import Data
from analysis.problem3_layers import Network
from analysis.provenance import source
from analysis.style import Figure

COLOURS = {
    "conv1x1": style.BLUE,
    "reduce3x3": style.SKY,
    "conv3x3": style.GREEN,
    "reduce5x5": style.ORANGE,
    "conv5x5": style.VERMILLION,
    "project": style.PURPLE,
}
NAMES = {
    "conv1x1": "1x1",
    "reduce3x3": "1x1 before 3x3",
    "conv3x3": "3x3",
    "reduce5x5": "1x1 before 5x5",
    "conv5x5": "5x5",
    "project": "1x1 after pool",
}


def inception_figure(data: Data, naive: Network, reduced: Network) -> Figure:
    """Multiply-accumulates of both modules, one bar each, cut by convolution."""
    modules = {"naive": naive, "reduced": reduced}
    drawing, (axes,) = style.new_drawing(height=2.5)
    drawing.subplots_adjust(left=0.14, right=0.97, bottom=0.42, top=0.97)
    shown = []
    with style.styled():
        for y, (name, network) in enumerate(modules.items()):
            start = 0.0
            for row in network.of_kind("conv"):
                millions = row["macs"] / 1e6
                axes.barh(-y, millions, left=start, height=0.6, color=COLOURS[row["layer"]], edgecolor="white")
                start += millions
                shown.append({"module": name, "convolution": row["layer"], "macs": row["macs"]})
            beside: dict[str, Any] = {"xytext": (4, 0), "textcoords": "offset points", "va": "center"}
            beside["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            axes.annotate(f"{start:,.0f}", (start, -y), **beside)
        axes.set_yticks([0, -1], list(modules))
        axes.set_xlabel("millions of multiply-accumulates")
        axes.grid(axis="y", visible=False)
        axes.set_xlim(0, 1.14 * max(n.total("macs") for n in modules.values()) / 1e6)
        handles = [Patch(color=COLOURS[key]) for key in NAMES]
        drawing.legend(handles, list(NAMES.values()), ncols=3, loc="lower center", frameon=False)
    ends = "; ".join(f"{name} {n.total('macs') / 1e6:,.1f} million" for name, n in modules.items())
    return Figure(
        title="Where the multiply-accumulates of an Inception module go",
        alt=f"Two horizontal bars cut by convolution: {ends}. In the naive module nearly all is 3x3 and 5x5.",
        caption=f"One image, input as in question 4b; {ends}.",
        drawing=drawing,
        source=source(data, [naive.trial_id, reduced.trial_id]),
        data=pd.DataFrame(shown),
    )
