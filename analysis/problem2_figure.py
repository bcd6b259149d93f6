"""Where an epoch's time goes: one bar a set-up, from waiting for data to communication."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis import stats, style
from analysis.load import Data
from analysis.options import Options
from analysis.problem2_grid import MODES
from analysis.problem2_numbers import split
from analysis.problem2_setups import Cell, Group, trials_of
from analysis.provenance import source
from analysis.style import Figure

PARTS = {
    "data": style.ORANGE,
    "copy": style.SKY,
    "compute": style.BLUE,
    "communication": style.VERMILLION,
    "step": style.PURPLE,
}
"""Where compute and communication are not told apart, they are NaN and `step` is both; elsewhere `step` is NaN."""
WORDS = {
    "data": "waiting for data",
    "copy": "copy to the GPU",
    "compute": "compute",
    "communication": "communication",
    "step": "step with communication",
}
LOST = "Where some seeds were out of memory, the bar is of the others; the tables name them."
LEGEND = 4
"""Parts that a line of the legend holds."""


def time_figure(data: Data, group: Group, mode: str, options: Options) -> Figure | None:
    """The mean epoch of each usable set-up of weak scaling, as a stacked bar; None where there is none."""
    cells = _cells(group, mode)
    if not cells:
        return None
    bars = [_bar(group, cell, options) for cell in cells]
    frame = pd.DataFrame(bars)
    lines = math.ceil(len(_shown(frame)) / LEGEND)
    height = 0.75 + 0.2 * lines + 0.3 * len(bars)
    drawing, (axes,) = style.new_drawing(height=height)
    drawing.subplots_adjust(left=0.27, right=0.97, bottom=0.5 / height, top=1 - (0.25 + 0.2 * lines) / height)
    with style.styled():
        _draw(axes, frame, math.ceil(len(_shown(frame)) / lines))
    return Figure(
        title=f"Where an epoch's time goes ({MODES[mode]}; {group.label})",
        alt="Stacked horizontal bars, seconds of an epoch. " + " ".join(_in_words(b) for b in bars),
        caption=_caption(group, frame) + (" " + LOST if any(c.lost for c in cells) else ""),
        drawing=drawing,
        source=source(data, trials_of(cells)),
        data=frame,
    )


def _cells(group: Group, mode: str) -> list[Cell]:
    """The set-ups that have a bar, those of one batch together."""
    counts, batches = group.gpu_counts(mode, "weak"), group.batches(mode, "weak")
    cells = [group.cell(mode, "weak", gpus, batch) for batch in batches for gpus in counts]
    return [c for c in cells if c.measured and not (group.machine.on_gpu and c.few)]


def _bar(group: Group, cell: Cell, options: Options) -> dict[str, Any]:
    """Seconds of each part of a set-up's epoch."""
    mode, gpus, batch = cell.key.mode, cell.key.gpus, cell.key.batch
    mean = {n: float(cell.values(f"{n}_seconds").mean()) for n in ("data", "copy", "step")}
    talk = split(group, mode, gpus, batch, options.confidence).communication.value if gpus > 1 else 0.0
    if math.isfinite(talk):
        talk, whole = max(talk, 0.0), math.nan
        compute = mean["step"] - min(talk, mean["step"])
    else:
        compute, whole = math.nan, mean["step"]
    parts = {"data": mean["data"], "copy": mean["copy"], "compute": compute, "communication": talk, "step": whole}
    return {"gpus": gpus, "batch": batch, **parts, "epoch": stats.mean(cell.whole, options.confidence).value}


def _draw(axes: Any, frame: pd.DataFrame, legend_columns: int) -> None:
    places = list(range(len(frame)))
    left = pd.Series(0.0, index=frame.index)
    for part in _shown(frame):
        colour, width = PARTS[part], frame[part].fillna(0.0)
        axes.barh(places, width, left=left, color=colour, height=0.7, label=WORDS[part])
        left = left + width
    axes.set_yticks(places, [_name(int(g), int(b)) for g, b in zip(frame["gpus"], frame["batch"], strict=True)])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("seconds of an epoch")
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.36, 1.0), ncols=legend_columns, frameon=False, handlelength=0.8,
        columnspacing=0.8,
    )  # fmt: skip


def _shown(frame: pd.DataFrame) -> list[str]:
    """The parts that some bar has."""
    return [part for part in PARTS if frame[part].notna().any()]


def _name(gpus: int, batch: int) -> str:
    return f"{gpus} × batch {batch:,}"


def _in_words(bar: dict[str, Any]) -> str:
    parts = ", ".join(f"{WORDS[p]} {bar[p]:.3g} s" for p in PARTS if math.isfinite(bar[p]) and bar[p] > 0)
    return f"{_name(bar['gpus'], bar['batch'])}: {parts}."


def _caption(group: Group, frame: pd.DataFrame) -> str:
    text = "Number of GPUs × batch on each; means over the repetitions. "
    if not group.machine.on_gpu:
        return text + "Measured on a CPU, where a step's compute and communication are not told apart."
    text += "Communication is Table 2's: what copy and step take longer than a k-th of one GPU's at the same batch"
    text += "; compute is the rest of the step"
    return text + ("; where that is not known, the step is one part." if frame["step"].notna().any() else ".")


def figures(data: Data, found: Sequence[Group], options: Options) -> dict[str, Figure]:
    """One figure for each group and mode that has bars, named by mode and, from the second group on, by its number."""
    made = {}
    for number, group in enumerate(found, 1):
        for mode in MODES:
            if (figure := time_figure(data, group, mode, options)) is not None:
                made[name("epoch-time", mode, number)] = figure
    return made


def name(what: str, mode: str, number: int) -> str:
    """File name of a table or figure: DataParallel's and the first group's have the plain one."""
    return f"{'ddp-' if mode == 'ddp' else ''}{what}{f'-{number}' if number > 1 else ''}"
