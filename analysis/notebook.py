"""What the notebooks show: the report's own sections, and the numbers behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from markupsafe import escape

from analysis import page
from analysis.load import AnalysisError, Data
from analysis.markup import to_html
from analysis.section import Section


@dataclass(frozen=True)
class Shown:
    """HTML that a notebook shows as a cell's value."""

    html: str

    def _repr_html_(self) -> str:
        return self.html


def notices(data: Data) -> Shown:
    """What a reader must know first: which trials are missing, and whether the data are the sheet's."""
    return Shown("".join(to_html(text) for text in page.notices(data)))


def show(data: Data, sections: Sequence[Section], wanted: str) -> Shown:
    """The sections that answer a question ("4.2"), or have a title: text, figures and tables as in the report.

    Raises `AnalysisError` where there is none, with what there is.
    """
    found = [s for s in sections if wanted in (*s.questions, s.title)]
    if not found:
        names = ", ".join(f"{s.title!r}" for s in sections)
        raise AnalysisError(f"{wanted}: no section answers that; there are {names}")
    parts = [
        f"<h3>{escape(s.title)}</h3>{page.section_html(data, s, text, files=False)}"
        for s, text in zip(found, page.texts(found), strict=True)
    ]
    return Shown("".join(parts))


def numbers(sections: Sequence[Section], name: str) -> pd.DataFrame:
    """The numbers behind a table or figure, by its name: estimates, interval ends, n. Raises `AnalysisError`."""
    tables = {n: t.frame for s in sections for n, t in s.tables.items()}
    drawn = {n: f.data for s in sections for n, f in s.figures.items() if f.data is not None}
    if (frame := (tables | drawn).get(name)) is None:
        raise AnalysisError(f"{name}: no such table or figure; there are {', '.join(sorted(tables | drawn))}")
    return frame
