"""A table: the numbers as a data frame (its CSV), and what a reader sees of them (Markdown, HTML, LaTeX)."""

from __future__ import annotations

import csv
import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.provenance import Source
from analysis.stats import Estimate
from analysis.words import all_alike, written

GREEK = {"α": "alpha", "β": "beta", "δ": "delta", "ε": "epsilon", "η": "eta", "ρ": "rho"}
Cell = Callable[[Mapping[str, Any]], str]
ALIKE = re.compile(r"\(all\N{NO-BREAK SPACE}\d+\)")
ALIKE_NOTE = "(all n): all n have the same value, which says nothing of how they scatter, so there is no interval."


@dataclass(frozen=True)
class Shown:
    """A column that readers see: its heading, and the text of its cell made from a row of the frame."""

    heading: str
    cell: Cell
    numeric: bool = True


@dataclass(frozen=True)
class Table:
    """`frame` has one row a line and every number behind the cells (estimate, low, high, n in columns).

    `notes` are sentences under the table: what marks mean, what is missing. The first `keys` columns name the row.
    On paper at most `side_by_side` of the others stand beside them, the rest in further tables below; 0 is all.
    """

    title: str
    frame: pd.DataFrame
    columns: tuple[Shown, ...]
    notes: tuple[str, ...] = ()
    source: Source = Source()
    keys: int = 1
    side_by_side: int = 0

    @property
    def sheets(self) -> list[list[int]]:
        """The columns, by their place, of each table that this one becomes on paper."""
        keys, others = list(range(self.keys)), list(range(self.keys, len(self.columns)))
        size = self.side_by_side or len(others) or 1
        return [keys + others[start : start + size] for start in range(0, len(others), size)] or [keys]

    @property
    def headings(self) -> list[str]:
        """The headings that readers see."""
        return [c.heading for c in self.columns]

    @functools.cached_property
    def cells(self) -> list[list[str]]:
        """The texts that readers see, row by row."""
        records = [{str(k): v for k, v in row.items()} for row in self.frame.to_dict("records")]
        return [[column.cell(row) for column in self.columns] for row in records]

    @property
    def remarks(self) -> tuple[str, ...]:
        """What stands under the table: the notes, and what "(all 3)" means where a cell has it."""
        alike = any(ALIKE.search(cell) for row in self.cells for cell in row)
        return (*self.notes, ALIKE_NOTE) if alike else self.notes

    def csv(self) -> str:
        """The frame as CSV, numbers at full precision; `pandas.read_csv` gives them back."""
        return self.frame.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_MINIMAL)

    def markdown(self) -> str:
        """A GitHub-flavoured Markdown table with its notes."""
        rule = ["---:" if c.numeric else "---" for c in self.columns]
        lines = [self.headings, rule, *self.cells]
        text = "\n".join("| " + " | ".join(_markdown(c) for c in line) + " |" for line in lines)
        return text + "".join(f"\n\n{_markdown(note)}" for note in self.remarks) + "\n"

    def latex(self) -> str:
        """A `tabular` for the booktabs package and the notes in small type under it; all text is escaped."""
        alignment = "".join("r" if c.numeric else "l" for c in self.columns)
        lines = [" & ".join(latex_text(c) for c in line) + r" \\" for line in [self.headings, *self.cells]]
        body = ["% needs \\usepackage{booktabs}", rf"\begin{{tabular}}{{{alignment}}}", r"\toprule", lines[0]]
        body += [r"\midrule", *lines[1:], r"\bottomrule", r"\end{tabular}"]
        if self.remarks:
            body += [r"\par\smallskip", "{\\footnotesize", *(rf"{latex_text(note)}\par" for note in self.remarks), "}"]
        return "\n".join(body) + "\n"

    def save(self, directory: Path, name: str, formats: Sequence[str] = ("csv", "md", "tex")) -> list[Path]:
        """Write `<name>.<format>` for each format; returns the paths."""
        directory.mkdir(parents=True, exist_ok=True)
        paths = [directory / f"{name}.{kind}" for kind in formats]
        for path, kind in zip(paths, formats, strict=True):
            path.write_text(self.as_text(kind), encoding="utf-8")
        return paths

    def as_text(self, kind: str) -> str:
        """The whole file of a kind: "csv", "md" or "tex"."""
        if kind == "md":
            return f"**{self.title}**\n\n{self.markdown()}"
        return self.csv() if kind == "csv" else self.latex()


def text_column(heading: str, key: str) -> Shown:
    """A column of plain text."""
    return Shown(heading, lambda row: _blank(row[key]) or str(row[key]), numeric=False)


def number_column(heading: str, key: str, form: str = ",.0f", factor: float = 1.0) -> Shown:
    """A column of numbers formatted by `form`, times `factor` (100 for percent); NaN is "–"."""
    return Shown(heading, lambda row: _blank(row[key]) or written(factor * row[key], form))


def estimate_text(estimate: Estimate, form: str = ",.2f", factor: float = 1.0) -> str:
    """ "5.21 (5.03 to 5.39)", unbreakable within the brackets, or "82 (all 3)"; no interval for n=1, "–" for n=0."""
    if not math.isfinite(estimate.value):
        return "–"
    value, low, high = (written(factor * v, form) for v in (estimate.value, estimate.low, estimate.high))
    if estimate.alike:
        return f"{value} ({all_alike(estimate)})"
    return f"{value} ({low}\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}{high})" if estimate.has_interval else value


def estimate_columns(name: str, estimate: Estimate) -> dict[str, float]:
    """An estimate as columns of a frame: name, name_low, name_high, name_n."""
    values = (estimate.value, estimate.low, estimate.high, estimate.n)
    return dict(zip((name, f"{name}_low", f"{name}_high", f"{name}_n"), values, strict=True))


def estimate_of(row: Mapping[str, Any], name: str) -> Estimate:
    """The estimate back from the columns of `estimate_columns`."""
    return Estimate(row[name], row[f"{name}_low"], row[f"{name}_high"], int(row[f"{name}_n"]))


def estimate_column(heading: str, name: str, form: str = ",.2f", factor: float = 1.0) -> Shown:
    """A column of estimates that stand in the frame as `estimate_columns`."""
    return Shown(heading, lambda row: estimate_text(estimate_of(row, name), form, factor))


def latex_text(text: str) -> str:
    """Text with LaTeX's special characters escaped."""
    special = {c: rf"\{c}" for c in "&%$#_{}"} | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {
        "\\": r"\textbackslash{}",
        "†": r"$^\dagger$",
        "‡": r"$^\ddagger$",
        "§": r"\S{}",
        "⁹": "$^9$",
        "₁": "$_1$",
        "₂": "$_2$",
        "±": r"$\pm$",
        "×": r"$\times$",
        "·": r"$\cdot$",
        "≥": r"$\geq$",
        "−": "$-$",
        "–": "--",
        "\N{NO-BREAK SPACE}": "~",
    }
    special |= {letter: rf"$\{name}$" for letter, name in GREEK.items()}
    return re.sub("|".join(map(re.escape, special)), lambda m: special[m.group()], text)


def plain_table(
    title: str, frame: pd.DataFrame, headings: Mapping[str, str] | None = None, notes: Sequence[str] = ()
) -> Table:
    """A table that shows every column of a frame, whole numbers with thousands separators, others with 4 digits."""
    shown = tuple(_plain(str(key), (headings or {}).get(str(key), str(key)), frame) for key in frame.columns)
    return Table(title, frame, shown, tuple(notes))


def _plain(key: str, heading: str, frame: pd.DataFrame) -> Shown:
    kind = frame[key].dtype.kind if hasattr(frame[key].dtype, "kind") else "O"
    if kind in "iu":
        return number_column(heading, key, ",d")
    return number_column(heading, key, ",.4g") if kind == "f" else text_column(heading, key)


def _blank(value: Any) -> str:
    return "–" if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)) else ""


def _markdown(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("*", "\\*").replace("_", "\\_")
