"""Problem 4: validation error of batch augmentation with cutout, and what 94 % accuracy costs.

`tables` and `figures` take `load.load(...)`'s data and give named tables and figures; `sections` puts them
between the written answers; `main` is the one figure and table that a run ends with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis import curves, cutout, style
from analysis.arms import Arm, arms
from analysis.load import Data
from analysis.options import Options
from analysis.outcomes import ArmOutcome, device_of, outcome_table, outcomes
from analysis.problem4_answers import Answers, answers
from analysis.provenance import source
from analysis.section import Section
from analysis.style import Figure
from analysis.table import Table
from analysis.words import numbered

TITLE = "Problem 4: batch augmentation with cutout"
MAIN_FIGURE, MAIN_TABLE = "validation-error", "to-target"
ERROR = "validation_error"
NAMED = ("augmentation", "M")
REFERENCE_SCHEDULE = "hoffer"


def arm_name(values: Mapping[str, Any]) -> str:
    """ "baseline" is crop and flip without copies (question 2); the rest is augmentation and M."""
    augmentation, copies = str(values.get("augmentation", "cutout")), int(values.get("M", 1))
    if augmentation == "standard":
        return "baseline" if copies == 1 else f"crop + flip M={copies}"
    return f"cutout M={copies}" if augmentation == "cutout" else f"{augmentation} augmentation M={copies}"


def study_arms(data: Data) -> list[Arm]:
    """The study's arms: the baseline first, then by augmentation and M, variations in the plan's order."""
    found = arms(data.plan, arm_name, NAMED)
    return sorted(found, key=lambda a: (a.name != "baseline", a.name.split("M=")[0], int(a.values.get("M", 1))))


def reference(data: Data, found: Sequence[Arm]) -> str:
    """The variation that the main figure and the answers are of.

    The one with most arms that have completed trials, on real images before drawn ones; of equals that with Hoffer et
    al.'s schedule, else the first.
    """
    variations = list(dict.fromkeys(a.variation for a in found))

    def rank(variation: str) -> tuple[bool, int, bool]:
        own = [a for a in found if a.variation == variation]
        ran = [a for a in own if _completed(data, a)]
        real = any(a.values.get("dataset") != "synthetic" for a in ran)
        return real, len(ran), any(a.values.get("schedule") == REFERENCE_SCHEDULE for a in own)

    return max(variations, key=rank, default="")


def study_outcomes(data: Data, options: Options) -> list[ArmOutcome]:
    """What came of each arm: error, epochs and seconds to the target, what is missing."""
    return outcomes(data, study_arms(data), ERROR, 1 - options.target_accuracy, options.confidence)


def main_table(data: Data, options: Options) -> dict[str, Table]:
    """Epochs and wall-clock to the target, one table for each device: GPU models never share a table."""
    everything = study_outcomes(data, options)
    devices = list(dict.fromkeys(d for o in everything if (d := device_of(data, o.arm))))
    if len(devices) < 2:
        return {MAIN_TABLE: outcome_table(data, everything, options, devices[0] if devices else "")}
    placed = {d: [o for o in everything if (device_of(data, o.arm) or devices[0]) == d] for d in devices}
    names = {d: f"{MAIN_TABLE}-{'-'.join(d.lower().split())}" for d in devices}
    return {names[d]: outcome_table(data, placed[d], options, d, devices) for d in devices}


def tables(data: Data, options: Options | None = None) -> dict[str, Table]:
    """All tables of the problem by name."""
    return main_table(data, options or Options())


def figures(data: Data, options: Options | None = None) -> dict[str, Figure]:
    """All figures of the problem by name. Those that have no rows to show are left out."""
    options = options or Options()
    found = study_arms(data)
    made: dict[str, Figure | None] = {
        "cutout": cutout.before_and_after(options.images, options.images_source, options.without_images)
    }
    if baseline := [a for a in found if a.name == "baseline"]:
        made["baseline"] = baseline_figure(data, baseline, options)
    made[MAIN_FIGURE] = main_figure(data, options)
    variations = list(dict.fromkeys(a.variation for a in found))
    if len(variations) > 1:
        made["variations"] = variations_figure(data, found, variations, options)
    return {name: figure for name, figure in made.items() if figure is not None}


def main(data: Data, options: Options | None = None) -> tuple[dict[str, Figure], dict[str, Table]]:
    """The main figure and table alone, for the end of a run."""
    options = options or Options()
    figure = main_figure(data, options)
    return ({MAIN_FIGURE: figure} if figure else {}), main_table(data, options)


def sections(data: Data, options: Options | None = None) -> list[Section]:
    """The report: three questions of the sheet, and the protocol that their numbers rest on."""
    options = options or Options()
    made, listed = figures(data, options), tables(data, options)
    found: Answers = answers(data, study_outcomes(data, options), reference(data, study_arms(data)), options)
    context = {"a": found, "target": _target(options), "table_names": list(listed)}
    schedules = {name: made[name] for name in ("variations",) if name in made}
    return [
        Section("Cutout, and why not dropout", "problem4-cutout.md", ("4.1",), context, {"cutout": made["cutout"]}),
        Section("How it was measured", "problem4-protocol.md", (), context),
        Section("The baseline: crop and flip", "problem4-baseline.md", ("4.2",), context, _only(made, "baseline")),
        Section("Batch augmentation", "problem4-batch.md", ("4.3",), context, _only(made, MAIN_FIGURE), listed),
        Section("What the schedule changes", "problem4-schedule.md", ("4.3",), context, schedules),
    ]


def _only(made: Mapping[str, Figure], name: str) -> dict[str, Figure]:
    return {name: made[name]} if name in made else {}


def main_figure(data: Data, options: Options) -> Figure | None:
    """Validation error against epoch, one line an arm, for the reference variation (question 3)."""
    found = study_arms(data)
    variation = reference(data, found)
    shown = [a for a in found if a.variation == variation]
    return _error_figure(data, shown, found, options, "Validation error against epoch")


def baseline_figure(data: Data, baseline: Sequence[Arm], options: Options) -> Figure | None:
    """Validation and training error of the baseline against epoch (question 2)."""
    variation = reference(data, study_arms(data))
    ran = [a for a in baseline if _completed(data, a)]
    arm = next((a for a in ran if a.variation == variation), next(iter(ran), baseline[0]))
    rows = data.rows_of(_completed(data, arm))
    if rows.empty:
        return None
    lines = [curves.curve(rows, ERROR, "validation", style.BLACK, "-", options.confidence, at_zero=True)]
    if "train_error" in rows and rows["train_error"].notna().any():
        lines.append(curves.curve(rows, "train_error", "training", style.GREY, "--", options.confidence, at_zero=True))
    drawing, (axes,) = style.new_drawing()
    drawing.subplots_adjust(left=0.15, right=0.79, bottom=0.14, top=0.97)
    with style.styled():
        drops = _finish(axes, lines, rows, options)
        axes.set_ylabel("error")
    return Figure(
        title="Baseline: validation error against epoch",
        alt=f"Line chart. {_summary(lines)}{_drops(drops)}",
        caption=f"Crop and flip, M=1{f', {arm.variation}' if arm.variation else ''}. {_caption(lines, drops, options)}",
        drawing=drawing,
        source=source(data, _completed(data, arm)),
        data=curves.frame(lines, "error"),
    )


def variations_figure(data: Data, found: Sequence[Arm], variations: Sequence[str], options: Options) -> Figure | None:
    """One panel for each variation (schedule, precision, depth), same axes and colours."""
    palette = style.colours(a.name for a in found)
    height = 0.6 + 2.8 * len(variations)
    drawing, panels = style.new_drawing(1, len(variations), height=height, sharex=True, sharey=True)
    drawing.subplots_adjust(left=0.15, right=0.74, bottom=0.55 / height, top=1 - 0.3 / height, hspace=0.16)
    drawn: list[tuple[Any, list[curves.Curve], str]] = []
    for panel, variation in zip(panels, variations, strict=True):
        lines = _lines(data, [a for a in found if a.variation == variation], palette, options)
        drawn.append((panel, lines, variation))
    every = [c for _, lines, _ in drawn for c in lines]
    if not every:
        return None
    with style.styled():
        for panel, lines, variation in drawn:
            shown = [a for a in found if a.variation == variation]
            rows = data.rows_of([i for a in shown for i in _completed(data, a)])
            _finish(panel, lines, rows, options, scale_to=every, xlabel=panel is panels[-1])
            panel.set_title(variation or "reference", loc="left")
    ids = [i for a in found for i in _completed(data, a)]
    parts = " ".join(f"{variation}: {_summary(lines)}" for _, lines, variation in drawn)
    return Figure(
        title="Validation error against epoch, by schedule and other swept parameters",
        alt=f"{len(variations)} line charts with the same axes. {parts}",
        caption=f"One panel for each of {', '.join(v or 'reference' for v in variations)}. "
        + curves.how_drawn(every, options.confidence),
        drawing=drawing,
        source=source(data, ids),
        data=pd.concat([curves.frame(lines, ERROR).assign(variation=v) for _, lines, v in drawn]),
    )


def _error_figure(
    data: Data, shown: Sequence[Arm], found: Sequence[Arm], options: Options, title: str
) -> Figure | None:
    lines = _lines(data, shown, style.colours(a.name for a in found), options)
    if not lines:
        return None
    drawing, (axes,) = style.new_drawing()
    drawing.subplots_adjust(left=0.15, right=0.74, bottom=0.14, top=0.97)
    ids = [i for a in shown for i in _completed(data, a)]
    with style.styled():
        drops = _finish(axes, lines, data.rows_of(ids), options)
    absent = [a.name for a in shown if not _completed(data, a)]
    left_out = f" Not in the figure, no completed trial: {', '.join(absent)}." if absent else ""
    return Figure(
        title=title,
        alt=f"Line chart, one line an arm. {_summary(lines)}{_drops(drops)}{left_out}",
        caption=(f"{shown[0].variation}. " if shown[0].variation else "") + _caption(lines, drops, options) + left_out,
        drawing=drawing,
        source=source(data, ids),
        data=curves.frame(lines, ERROR),
    )


def _lines(data: Data, shown: Sequence[Arm], palette: Mapping[str, str], options: Options) -> list[curves.Curve]:
    lines = []
    for arm in shown:
        rows = data.rows_of(_completed(data, arm))
        if len(rows):
            dashes = "--" if arm.name == "baseline" else "-"
            lines.append(
                curves.curve(rows, ERROR, arm.name, palette[arm.name], dashes, options.confidence, at_zero=True)
            )
    return lines


def _finish(
    axes: Any,
    lines: list[curves.Curve],
    rows: Any,
    options: Options,
    scale_to: Sequence[curves.Curve] | None = None,
    xlabel: bool = True,
) -> list[int]:
    """Draw lines, target, learning-rate drops, scales and labels; returns the epochs of the drops."""
    target = 1 - options.target_accuracy
    curves.draw(axes, lines, log=True, percent=True)
    near = _near(scale_to or lines, options)
    if near:
        axes.axhline(target, color=style.GREY, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.annotate(
            f"{_target(options)} accuracy", (0.01, target), xycoords=("axes fraction", "data"),
            xytext=(0, 3), textcoords="offset points", fontsize=8.5, color="#555555",
        )  # fmt: skip
    drops = curves.learning_rate_drops(rows)
    for epoch in drops:
        axes.axvline(epoch - 0.5, color=style.GREY, linewidth=0.8, linestyle=":")
    curves.limit(axes, scale_to or lines, *([target] if near else []))
    axes.set_ylabel("validation error")
    style.epoch_axis(axes, max((float(c.x[-1]) for c in scale_to or lines), default=1.0), name=xlabel)
    curves.label(axes, lines)
    return drops


def _completed(data: Data, arm: Arm) -> list[str]:
    completed = set(data.ended("completed"))
    return [i for i in arm.trials if i in completed]


def _near(lines: Sequence[curves.Curve], options: Options) -> bool:
    """Whether the target is drawn: far from it, its line would squeeze the data into the top of the picture."""
    return min(float(c.value.min()) for c in lines) < 4 * (1 - options.target_accuracy)


def _target(options: Options) -> str:
    return f"{100 * options.target_accuracy:g} %"


def _summary(lines: Sequence[curves.Curve]) -> str:
    return " ".join(
        f"{c.label}: {100 * c.value[0]:.1f} % at epoch {c.x[0]:.0f}, {100 * c.value[-1]:.1f} % at epoch {c.x[-1]:.0f}."
        for c in lines
    )


def _drops(drops: Sequence[int]) -> str:
    return f" The learning rate drops at {numbered('epoch', drops)}." if drops else ""


def _caption(lines: Sequence[curves.Curve], drops: Sequence[int], options: Options) -> str:
    dotted = f" Dotted: first epoch with a new learning rate ({', '.join(map(str, drops))})." if drops else ""
    dashed = f" Thin dashes: {_target(options)} accuracy." if _near(lines, options) else ""
    return curves.how_drawn(lines, options.confidence) + dashed + dotted
