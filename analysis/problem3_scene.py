"""Figures of the region proposals, drawn from the rows of boxes, scanlines, suppression and epochs alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.patheffects as effects
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from analysis import style, words
from analysis.problem3_layers import records
from analysis.problem3_scene_tables import stage_counts
from analysis.problem3_tables import source_of
from analysis.style import Figure

SIDES = ("left", "top", "right", "bottom")
ANCHOR = tuple(f"anchor_{side}" for side in SIDES)
DRAWN = 100
"""Proposals that are drawn before suppression: the best by objectness."""
SCALE_COLOURS = (style.ORANGE, style.VERMILLION, style.SKY)
LOSSES = (
    ("train_loss", "weighted sum", style.BLACK),
    ("objectness_loss", "objectness", style.BLUE),
    ("box_loss", "boxes", style.VERMILLION),
)
RECALLS = (
    ("recall_10", "best 10", style.BLUE),
    ("recall_100", "best 100", style.GREEN),
    ("recall_all", "all", style.BLACK),
)


def pixels(scanlines: pd.DataFrame) -> Any:
    """The scene as uint8 (height, width, 3)."""
    lines = [np.frombuffer(bytes.fromhex(line), np.uint8) for line in scanlines.sort_values("line")["pixels"]]
    return np.stack(lines).reshape(len(lines), -1, 3)


def split(boxes: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The true boxes, and the anchors by rank."""
    true = boxes["stage"] == "truth"
    return boxes[true], boxes[~true].sort_values("rank")


def best_cell(anchors: pd.DataFrame) -> pd.DataFrame:
    """The anchors of the cell that the best proposal comes from."""
    best = anchors.iloc[0]
    same = (anchors["cell_row"] == best["cell_row"]) & (anchors["cell_column"] == best["cell_column"])
    cell: pd.DataFrame = anchors[same]
    return cell


def proposals_figure(boxes: pd.DataFrame, scanlines: pd.DataFrame) -> Figure:
    """Four panels: anchors at one cell, objectness, proposals before and after suppression."""
    truth, anchors = split(boxes)
    picture, counts = pixels(scanlines), stage_counts(anchors)
    entering = anchors[anchors["stage"].isin(("sized", "unsuppressed", "proposed"))].head(DRAWN)
    left = entering[entering["stage"] != "sized"]
    drawing, panels = style.new_drawing(2, 2, height=5.5)
    drawing.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.95, wspace=0.04, hspace=0.13)
    titles = (
        f"1. anchors at one of {counts['anchor'] // len(best_cell(anchors))} cells",
        f"2. objectness of {counts['anchor']:,} anchors",
        f"3. best {len(entering)} of {counts['sized']:,} before",
        f"4. {len(left)} of those are left after",
    )
    with style.styled():
        for panel, title in zip(panels, titles, strict=True):
            panel.imshow(picture, interpolation="nearest")
            panel.set_axis_off()
            panel.set_title(title, fontsize=9.5)
            panel.set_xlim(-0.5, picture.shape[1] - 0.5)
            panel.set_ylim(picture.shape[0] - 0.5, -0.5)
        _anchors(panels[0], anchors, truth)
        _objectness(panels[1], anchors, picture.shape[0])
        for panel, rows in ((panels[2], entering), (panels[3], left)):
            _proposals(panel, rows)
            _truth(panel, truth)
    return Figure(
        title="From anchors to proposals, on one drawn scene",
        alt=f"Four pictures of a scene with {_figures(truth)}. First: nine anchor boxes of three sizes and three "
        "proportions around one point. Second: the greatest objectness of each cell, high on the figures. Third: "
        f"{len(entering)} boxes crowd the figures. Fourth: the {len(left)} that suppression leaves of them.",
        caption="1: the nine anchors (three scales by colour, three proportions) at the cell that the best proposal "
        "comes from; white and dashed, there and below: true boxes. 2: the greatest objectness of each cell's anchors. "
        f"3: the {len(entering)} best proposals that enter suppression, the surer the more opaque. 4: those of them "
        "that it leaves. The network is a small one trained on drawn figures; no pretrained weights were used.",
        drawing=drawing,
        source=source_of(boxes, "rows are boxes of the scene shown"),
        data=anchors[["rank", "stage", "score", "truth_iou", *SIDES, *ANCHOR]].head(DRAWN * 3),
    )


def _anchors(axes: Axes, anchors: pd.DataFrame, truth: pd.DataFrame) -> None:
    cell = best_cell(anchors)
    colours = dict(zip(sorted(cell["scale"].unique()), SCALE_COLOURS, strict=False))
    for row in records(cell):
        _rectangle(axes, [row[side] for side in ANCHOR], colours[row["scale"]], linewidth=1.3)
    _truth(axes, truth)
    first = records(cell)[0]
    middle = [(first[ANCHOR[i]] + first[ANCHOR[i + 2]]) / 2 for i in (0, 1)]
    axes.plot(*middle, "o", color="white", markeredgecolor="black", markersize=4)


def _truth(axes: Axes, truth: pd.DataFrame) -> None:
    for row in records(truth):
        _rectangle(axes, [row[side] for side in SIDES], "white", linewidth=1.2, linestyle="--")


def _objectness(axes: Axes, anchors: pd.DataFrame, size: int) -> None:
    """The greatest score of each cell over the darkened scene."""
    cells = anchors.groupby(["cell_row", "cell_column"])["score"].max().unstack().to_numpy()
    image = axes.imshow(
        cells, cmap="viridis", vmin=0, vmax=1, alpha=0.8, extent=(-0.5, size - 0.5, size - 0.5, -0.5)
    )  # fmt: skip
    bar = axes.inset_axes((0.05, 0.88, 0.4, 0.04))
    axes.figure.colorbar(image, cax=bar, orientation="horizontal", ticks=[0, 1])
    bar.tick_params(colors="white", labelsize=8, length=0, pad=1)
    bar.xaxis.set_ticks_position("top")


def _proposals(axes: Axes, rows: pd.DataFrame) -> None:
    for row in reversed(records(rows)):
        _rectangle(axes, [row[side] for side in SIDES], style.ORANGE, linewidth=0.8, alpha=0.15 + 0.85 * row["score"])


def suppression_figure(boxes: pd.DataFrame, scanlines: pd.DataFrame, steps: pd.DataFrame) -> Figure:
    """The small example before and after suppression, each box with its letter."""
    chosen = boxes[boxes["letter"].notna()].sort_values("letter")
    dropped = set(steps.loc[steps["suppressed"].astype(bool), "other"])
    kept = chosen[~chosen["letter"].isin(list(dropped))]
    picture = pixels(scanlines)
    drawing, panels = style.new_drawing(2, 1, height=2.85)
    drawing.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.9, wspace=0.04)
    colours, places = dict(zip(chosen["letter"], _cycle(len(chosen)), strict=True)), _letter_places(chosen)
    with style.styled():
        for panel, rows, title in (
            (panels[0], chosen, f"before: {len(chosen)} proposals"),
            (panels[1], kept, f"after: {len(kept)} are left"),
        ):
            panel.imshow(picture, interpolation="nearest")
            panel.set_axis_off()
            panel.set_title(title, fontsize=9.5)
            _lettered(panel, rows, colours, places)
    listed = ", ".join(f"{r['letter']} {r['score']:.2f}" for r in records(chosen))
    return Figure(
        title="Non-maximum suppression of a small example",
        alt=f"Two pictures of the scene. Left: {len(chosen)} boxes with letters, several on each figure. Right: "
        f"{', '.join(kept['letter'])} are left; {', '.join(sorted(dropped)) or 'none'} are gone.",
        caption=f"Letters go by objectness ({listed}). The steps are in the table.",
        drawing=drawing,
        source=source_of(boxes, "rows are boxes of the scene shown"),
        data=chosen[["letter", "score", "rank", *SIDES]],
    )


def _letter_places(rows: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """For each box's letter that of its corners which is farthest from the letters already there."""
    places: dict[str, tuple[float, float]] = {}
    for row in records(rows):
        left, top, right, bottom = (row[side] for side in SIDES)
        corners = [(x, y) for x in (left + 4, right - 4) for y in (top + 5, bottom - 5)]
        taken = list(places.values())
        places[row["letter"]] = max(
            corners, key=lambda c: min((abs(c[0] - x) + abs(c[1] - y) for x, y in taken), default=0.0)
        )
    return places


def _lettered(
    axes: Axes, rows: pd.DataFrame, colours: Mapping[str, str], places: Mapping[str, tuple[float, float]]
) -> None:
    for row in records(rows):
        letter = row["letter"]
        _rectangle(axes, [row[side] for side in SIDES], colours[letter], linewidth=1.4)
        text = axes.text(
            *places[letter], letter, color=colours[letter], fontsize=9, weight="bold", ha="center", va="center"
        )
        text.set_path_effects([effects.withStroke(linewidth=2, foreground="black")])


def _cycle(n: int) -> list[str]:
    palette = ("#ffffff", style.ORANGE, style.SKY, "#f0e442", style.PURPLE, style.VERMILLION)
    return [palette[i % len(palette)] for i in range(n)]


def _rectangle(axes: Axes, box: Sequence[float], colour: str, **line: Any) -> None:
    left, top, right, bottom = box
    axes.add_patch(Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, edgecolor=colour, **line))


def true_boxes(epochs: pd.DataFrame) -> int:
    """How many true boxes the recall of the last epoch is of; 0 where the rows are older than that column."""
    if "true_boxes" not in epochs:
        return 0
    count = epochs.sort_values("epoch")["true_boxes"].iloc[-1]
    return int(count) if pd.notna(count) else 0


def training_figure(epochs: pd.DataFrame) -> Figure:
    """Losses and recall against epoch, one panel each."""
    rows = epochs.sort_values("epoch")
    drawing, (above, below) = style.new_drawing(1, 2, height=4.4, sharex=True)
    drawing.subplots_adjust(left=0.14, right=0.76, bottom=0.12, top=0.97, hspace=0.12)
    with style.styled():
        for axes, lines in ((above, LOSSES), (below, RECALLS)):
            for column, _, colour in lines:
                axes.plot(rows["epoch"], rows[column], color=colour, marker=".")
        style.log_scale(above)
        above.set_ylabel("training loss")
        below.set_ylabel("true boxes found")
        below.set_ylim(0, 1.03)
        style.percent_axis(below)
        style.epoch_axis(below, float(rows["epoch"].max()))
        last = rows.iloc[-1]
        drawing.align_ylabels()
        for axes, lines in ((above, LOSSES), (below, RECALLS)):
            style.label_ends(axes, [(name, colour, last["epoch"], last[column]) for column, name, colour in lines])
    first, count = rows.iloc[0], true_boxes(rows)
    fell = last["train_loss"] < first["train_loss"]
    counted = f"; n = {words.counted(count, 'box', 'boxes')}" if count else ""
    return Figure(
        title="Training of the region proposal network",
        alt="Two line charts against epoch. "
        f"The loss {'falls' if fell else 'goes'} from {first['train_loss']:.3f} to {last['train_loss']:.3f}. "
        f"The best 10 proposals find {100 * first['recall_10']:.0f} % of the true boxes at first and "
        f"{100 * last['recall_10']:.0f} % in the end.",
        caption="Above: training loss of each epoch, logarithmic. Below: the part of the true boxes of scenes kept "
        f"apart that the best 10, the best 100 and all proposals find (IoU of 0.5 or more{counted}).",
        drawing=drawing,
        source=source_of(rows),
        data=rows[["epoch", *(c for c, _, _ in (*LOSSES, *RECALLS))]],
    )


def _figures(truth: pd.DataFrame) -> str:
    names = [str(n) for n in truth["figure"]]
    return (
        " and ".join([", ".join(f"a {n}" for n in names[:-1]), f"a {names[-1]}"]) if len(names) > 1 else f"a {names[0]}"
    )
