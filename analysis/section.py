"""What a problem module hands to the report: sections, each a text with its figures and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from analysis.load import Data
from analysis.options import Options
from analysis.style import Figure
from analysis.table import Table


@dataclass(frozen=True)
class Section:
    """One section of a report.

    `template` is a file of analysis/templates/ in Markdown, filled by Jinja with `context`; on lines of their
    own, `[[figure NAME]]` and `[[table NAME]]` say where figures and tables stand (those that no line names
    come last). `questions` are the items of the sheet that it answers, as "4.2".
    """

    title: str
    template: str
    questions: tuple[str, ...] = ()
    context: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Figure] = field(default_factory=dict)
    tables: Mapping[str, Table] = field(default_factory=dict)


class Problem(Protocol):
    """The module that analyses a problem: analysis/problem4.py and the like."""

    TITLE: str
    """The report's title; empty where it is the study's own."""

    def sections(self, data: Data, options: Options) -> Sequence[Section]:
        """All of the report."""

    def main(self, data: Data, options: Options) -> tuple[Mapping[str, Figure], Mapping[str, Table]]:
        """The figures and tables, mostly one of each, that a run ends with; made in a second or two."""
