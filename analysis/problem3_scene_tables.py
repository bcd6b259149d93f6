"""Tables of the region proposals: boxes at every stage, and suppression step by step."""

from __future__ import annotations

import pandas as pd

from analysis.problem3_tables import source_of
from analysis.table import Table, number_column, text_column

STAGES = (
    ("anchor", "one from each anchor, nine at every cell"),
    ("scored", "the best by objectness go on"),
    ("sized", "of those, boxes with some size inside the image"),
    ("unsuppressed", "left by non-maximum suppression"),
    ("proposed", "the best of those: proposals for the detector"),
)
"""How far an anchor came, and what the stage is called."""


def stage_counts(boxes: pd.DataFrame) -> dict[str, int]:
    """Anchors that came to each stage at least."""
    names = [name for name, _ in STAGES]
    came = boxes["stage"].map({name: i for i, name in enumerate(names)})
    return {name: int((came >= i).sum()) for i, name in enumerate(names)}


def stages_table(boxes: pd.DataFrame) -> Table:
    """How many boxes there are at each stage, and how many true ones they find."""
    counts, names = stage_counts(boxes), [name for name, _ in STAGES]
    came = boxes["stage"].map({name: i for i, name in enumerate(names)})
    rows = [
        {"stage": text, "boxes": counts[name], "good": int(((came >= i) & (boxes["truth_iou"] >= 0.5)).sum())}
        for i, (name, text) in enumerate(STAGES)
    ]
    columns = (
        text_column("Stage", "stage"),
        number_column("Boxes", "boxes", ",.0f"),
        number_column("of them with IoU ≥ 0.5 to a true box", "good", ",.0f"),
    )
    made = source_of(boxes, "rows are boxes of the scene shown")
    return Table("Boxes at every stage, for the scene shown", pd.DataFrame(rows), columns, source=made)


def steps_table(boxes: pd.DataFrame, steps: pd.DataFrame) -> Table:
    """Suppression of the example, a line for each box that is kept: what it drops and what stays."""
    chosen = boxes[boxes["letter"].notna()].sort_values("letter")
    dropped = set(steps.loc[steps["suppressed"].astype(bool), "other"])
    rows = []
    for number, row in enumerate((r for r in chosen.to_dict("records") if r["letter"] not in dropped), 1):
        own = steps[steps["picked"] == row["letter"]]
        out, stays = own[own["suppressed"].astype(bool)], own[~own["suppressed"].astype(bool)]
        text = ", ".join(f"{r['other']} ({r['iou']:.2f})" for r in out.to_dict("records")) or "none"
        most = max(stays.to_dict("records"), key=lambda r: r["iou"], default=None)
        rest = f"{most['other']} ({most['iou']:.2f})" if most is not None else "–"
        left = ", ".join(stays["other"]) or "–"
        rows.append(
            {
                "step": number,
                "kept": row["letter"],
                "score": row["score"],
                "dropped": text,
                "left": left,
                "nearest": rest,
            }
        )
    threshold = float(steps["threshold"].iloc[0])
    columns = (
        number_column("Step", "step", ".0f"),
        text_column("Best left, kept", "kept"),
        number_column("Objectness", "score", ".3f"),
        text_column(f"Dropped: IoU > {threshold:g}", "dropped"),
        text_column("Left for the next step", "left"),
        text_column("of those, the greatest IoU", "nearest"),
    )
    made = source_of(steps, "rows are comparisons of two boxes")
    return Table("Suppression, step by step", pd.DataFrame(rows), columns, source=made)


def example_table(boxes: pd.DataFrame, steps: pd.DataFrame) -> Table:
    """The boxes of the example, so that the steps can be followed by hand."""
    chosen = boxes[boxes["letter"].notna()].sort_values("letter")
    by = {r["other"]: r["picked"] for r in steps[steps["suppressed"].astype(bool)].to_dict("records")}
    frame = chosen[["letter", "left", "top", "right", "bottom", "score", "rank"]].reset_index(drop=True)
    frame["fate"] = [f"dropped by {by[i]}" if i in by else "kept" for i in frame["letter"]]
    columns = (
        text_column("Box", "letter"),
        *(number_column(side.capitalize(), side, ".1f") for side in ("left", "top", "right", "bottom")),
        number_column("Objectness", "score", ".3f"),
        number_column("Rank", "rank", ",.0f"),
        text_column("Fate", "fate"),
    )
    made = source_of(chosen, "rows are boxes of the scene shown")
    return Table("The boxes of the example, in pixels", frame, columns, source=made)
