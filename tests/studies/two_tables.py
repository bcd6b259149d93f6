"""A trial whose rows go to two tables."""

from __future__ import annotations

from dataclasses import dataclass

from trials.spec import Column, Context, Outcome, Spec, TrialRun, parameter

REVISION = 1
TABLES = {
    "steps": ("epoch", "train_loss"),
    "boxes": (Column("left", "float", "pixels", help="left edge"), Column("note", "str")),
}


@dataclass(frozen=True)
class Parameters:
    """Which rows a trial writes."""

    rows: str = parameter("both", "tables", choices=("both", "steps", "boxes", "unknown", "misplaced"))


def run(spec: Spec, context: Context) -> TrialRun:
    """One row of each table that the parameter names."""
    named = spec.parameters["rows"]
    if named in ("both", "steps"):
        yield [{"epoch": 1, "train_loss": 0.5}], lambda: {"epoch": 1}
    if named in ("both", "boxes"):
        yield [{"table": "boxes", "left": 3.0, "note": "first"}], None
    if named == "unknown":
        yield [{"table": "circles"}], None
    if named == "misplaced":
        yield [{"table": "boxes", "train_loss": 0.5}], None
    return Outcome("completed", {})
