"""How figures look and how they are saved: one palette, alternative text, the same bytes every time.

Colours are those of Okabe & Ito (2008, "Color Universal Design"), told apart with any colour vision; yellow is
left out, it vanishes on white. Figures are narrow with large type, so that they can be read when a phone
shows them 360 pixels wide, and lines also differ in print without colour by their direct labels.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from analysis.provenance import Source

BLACK, SKY, BLUE, GREEN = "#000000", "#56b4e9", "#0072b2", "#009e73"
ORANGE, VERMILLION, PURPLE, GREY = "#e69f00", "#d55e00", "#cc79a7", "#7f7f7f"
DASHES = ("-", "--", ":", "-.")
PALETTE = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK, GREY)

ARM_COLOURS: Mapping[str, str] = {
    "baseline": BLACK,
    "cutout M=1": PURPLE,
    "cutout M=2": SKY,
    "cutout M=4": BLUE,
    "cutout M=8": GREEN,
    "cutout M=16": ORANGE,
    "cutout M=32": VERMILLION,
    "adagrad": BLUE,
    "rmsprop": ORANGE,
    "rmsprop_nesterov": VERMILLION,
    "adadelta": GREEN,
    "adam": PURPLE,
}
"""Arms that the sheet names have one colour for ever, in every figure and every report."""

WIDTH_INCHES = 5.0
"""A point of type is then about a pixel on a phone 390 pixels wide."""
LABEL_POINTS = 9.0
"""Type of labels at the ends of lines."""
RC: Mapping[str, Any] = {
    "svg.hashsalt": "farm",  # ids inside an SVG are then the same in every run
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.6,
    "figure.dpi": 100,
    "savefig.dpi": 200,
}


@dataclass(frozen=True)
class Figure:
    """A drawing with its title, the text for those who cannot see it, a caption and its source.

    `data` are the numbers that are drawn, for the CSV beside the picture.
    """

    title: str
    alt: str
    caption: str
    drawing: Drawing
    source: Source = Source()
    data: pd.DataFrame | None = None


def colours(names: Iterable[str]) -> dict[str, str]:
    """A colour for each arm. Pass all arms of the study, also to a figure of some: then colours agree.

    Arms of `ARM_COLOURS` have theirs; others take what is left of the palette, in order, then again.
    """
    wanted = list(dict.fromkeys(names))
    chosen = {name: ARM_COLOURS[name] for name in wanted if name in ARM_COLOURS}
    free = [c for c in PALETTE if c not in chosen.values()] or list(PALETTE)
    others = [name for name in wanted if name not in chosen]
    return chosen | {name: free[i % len(free)] for i, name in enumerate(others)}


def dashes(palette: Mapping[str, str]) -> dict[str, str]:
    """A line style for each arm of `colours`: solid, and another one each time that its colour comes again."""
    before = [list(palette.values())[:i].count(colour) for i, colour in enumerate(palette.values())]
    return {name: DASHES[n % len(DASHES)] for name, n in zip(palette, before, strict=True)}


@contextmanager
def styled() -> Iterator[None]:
    """Matplotlib with this project's settings, whatever the user's own are."""
    with matplotlib.rc_context():
        defaults: Any = matplotlib.rcParamsDefault
        settings: Any = {**defaults, "backend": "agg", **RC}
        matplotlib.rcParams.update(settings)
        yield


def new_drawing(
    columns: int = 1, rows: int = 1, *, width: float = WIDTH_INCHES, height: float = 3.7, **subplots: Any
) -> tuple[Drawing, list[Axes]]:
    """An empty drawing (inches) and its axes, row by row. `subplots` goes to `Figure.subplots`."""
    with styled():
        drawing = Drawing(figsize=(width, height))
        FigureCanvasAgg(drawing)
        axes = drawing.subplots(rows, columns, squeeze=False, **subplots)
    return drawing, [a for row in axes for a in row]


class PlainTicks(LogLocator):
    """Ticks of a logarithmic axis at round numbers: 1, 2 and 5 of each decade, decades alone where there are many,
    and evenly spaced where the axis spans less than a factor of five."""

    def tick_values(self, vmin: float, vmax: float) -> Any:
        """Three to ten numbers between the ends of the axis."""
        low, high = min(vmin, vmax), max(vmin, vmax)
        if low <= 0 or high / low < 5:
            even = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
            return [v for v in even if low <= v <= high]
        subs = (1.0,) if high / low > 1e4 else (1.0, 2.0, 5.0)
        return LogLocator(subs=subs, numticks=30).tick_values(low, high)


def log_scale(axes: Axes, axis: str = "y", *, percent: bool = False) -> None:
    """A logarithmic axis with plain numbers at its ticks; `percent` shows fractions as %."""
    getattr(axes, f"set_{axis}scale")("log")
    which = axes.yaxis if axis == "y" else axes.xaxis
    which.set_major_locator(PlainTicks())
    which.set_minor_locator(NullLocator())
    which.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:g} %" if percent else f"{v:,g}"))


def percent_axis(axes: Axes) -> None:
    """Fractions on the y axis shown as percent."""
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:g} %"))


def epoch_axis(axes: Axes, last: float, *, name: bool = True) -> None:
    """An x axis of epochs up to `last`, each with its tick where they are few, and whole numbers otherwise."""
    few = last <= 8
    axes.set_xlim(0.8 if few else 0, last + 0.2 if few else last)
    axes.xaxis.set_major_locator(FixedLocator(range(1, int(last) + 1)) if few else MaxNLocator("auto", integer=True))
    if name:
        axes.set_xlabel("epoch")


def label_ends(axes: Axes, ends: Sequence[tuple[str, str, float, float]], gap_points: float = 12.0) -> None:
    """Write each line's label (label, colour, x, y of its end) right of the axes, apart from one another, and no
    higher or lower than the axes where there is room for all.

    Call it when scales, limits and margins are final: labels are placed in display space.
    """
    if not ends:
        return
    scale = axes.figure.dpi / 72
    wanted = [float(axes.transData.transform((x, y))[1]) for _, _, x, y in ends]
    box = axes.bbox
    places = spread(wanted, gap_points * scale, box.y0, box.y1)
    for (label, colour, x, y), place in zip(ends, places, strict=True):
        axes.annotate(
            label,
            xy=(x, y),
            xytext=(1.045, (place - box.y0) / box.height),
            textcoords="axes fraction",
            va="center",
            fontsize=LABEL_POINTS,
            color=colour,
            parse_math=False,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "lw": 0.7,
                "shrinkA": 2,
                "shrinkB": 1,
                "relpos": (0, 0.5),
            },
        )


def label_width(axes: Axes, labels: Iterable[str]) -> float:
    """Width of the widest label, as a fraction of the drawing's."""
    canvas: Any = axes.figure.canvas
    text = axes.text(0, 0, "", fontsize=LABEL_POINTS, parse_math=False)
    widths = [0.0]
    for label in labels:
        text.set_text(label)
        widths.append(float(text.get_window_extent(canvas.get_renderer()).width))
    text.remove()
    return max(widths) / float(axes.figure.bbox.width)


def spread(wanted: Sequence[float], gap: float, lowest: float = -math.inf, highest: float = math.inf) -> list[float]:
    """Move positions as little as possible (least squares) so that neighbours are `gap` apart, order kept, and none
    is below `lowest` nor, where there is room for all, above `highest`.

    Pool-adjacent-violators on the positions less their rank's gaps (Barlow et al. 1972, isotonic regression); cut
    at bounds its solution is the one within them.
    """
    highest = max(lowest, highest - (len(wanted) - 1) * gap)
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    pools: list[tuple[float, int]] = []
    for rank, i in enumerate(order):
        pools.append((wanted[i] - rank * gap, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (a, m), (b, n) = pools[-2:]
            pools[-2:] = [((a * m + b * n) / (m + n), m + n)]
    flat = [min(max(value, lowest), highest) for value, count in pools for _ in range(count)]
    placed = dict(zip(order, (v + rank * gap for rank, v in enumerate(flat)), strict=True))
    return [placed[i] for i in range(len(wanted))]


def svg(figure: Figure) -> str:
    """The drawing as SVG text with title and description; equal drawings give equal text."""
    buffer = io.StringIO()
    with styled():
        figure.drawing.savefig(
            buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    text = buffer.getvalue()
    text = re.sub(r"<\?xml[^>]*\?>\s*|<!DOCTYPE[^>]*>\s*|\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    head = f'<title id="title">{escape(figure.title)}</title><desc id="desc">{escape(figure.alt)}</desc>'
    return re.sub(r"<svg ([^>]*)>", rf'<svg role="img" aria-labelledby="title desc" \1>{_literal(head)}', text, count=1)


def save(figure: Figure, directory: Path, name: str, formats: Sequence[str] = ("png", "svg", "pdf")) -> list[Path]:
    """Write `<directory>/<name>.<format>` for each format, and the CSV of its data where it has any.

    Returns the paths. Equal drawings give equal files.
    """
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    if figure.data is not None:
        paths.append(directory / f"{name}.csv")
        paths[-1].write_text(figure.data.to_csv(index=False, lineterminator="\n"), encoding="utf-8")
    for kind in formats:
        path = directory / f"{name}.{kind}"
        if kind == "svg":
            path.write_text(svg(figure), encoding="utf-8")
        else:
            metadata = {"Title": figure.title} | ({"CreationDate": None} if kind == "pdf" else {"Software": None})
            with styled():
                figure.drawing.savefig(path, format=kind, metadata=metadata)
        paths.append(path)
    return paths


def _literal(text: str) -> str:
    """Text that `re.sub` takes as it is."""
    return text.replace("\\", r"\\")
