"""Sections to pages: one Markdown text, and one HTML page that needs no network and no other file."""

from __future__ import annotations

import base64
import functools
import re
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from analysis import math_font, provenance, style, words
from analysis.arms import AROUND, apart, apart_each
from analysis.load import Data, study_word
from analysis.markup import to_html
from analysis.outcomes import fate
from analysis.section import Section
from analysis.sheet import ITEMS
from analysis.style import Figure
from analysis.table import Table

PLACE = re.compile(r"^\[\[(figure|table) ([\w.-]+)\]\]$", re.MULTILINE)
"""A line of a section's text where a figure or table stands."""


class Images(IntEnum):
    """What the images behind some numbers are; the greater, the less they answer of the sheet."""

    REAL = 0
    PARTLY_DRAWN = 1
    DRAWN = 2

    @classmethod
    def of(cls, datasets: Collection[str]) -> Images:
        """Of the names of datasets; "synthetic" are the built-in drawn images."""
        if "synthetic" not in datasets:
            return cls.REAL
        return cls.PARTLY_DRAWN if set(datasets) > {"synthetic"} else cls.DRAWN

    @property
    def words(self) -> str:
        """ "drawn images", "partly drawn images"; empty for real ones."""
        return ("", "partly drawn images", "drawn images")[self]

    @property
    def notice(self) -> str:
        """What to say of numbers that come from them, after "these numbers are"; empty for real ones."""
        part = "partly " if self is Images.PARTLY_DRAWN else ""
        return f"{part}from the built-in drawn images, not from CIFAR-10" if self else ""


@dataclass(frozen=True)
class Entry:
    """One study on the index page: its directory's name, its report's manifest, why the report is stale."""

    study: str
    manifest: Mapping[str, Any]
    stale: Sequence[str]

    @property
    def title(self) -> str:
        """The report's title."""
        return str(self.manifest.get("title", self.study))

    @property
    def questions(self) -> list[str]:
        """Numbers of the sheet's items that the report answers."""
        return [str(q) for q in self.manifest.get("questions", [])]

    @property
    def images(self) -> Images:
        """What its results come from; before there are any, its plan."""
        return Images.of(self.manifest.get("datasets", []))

    @property
    def done(self) -> int:
        """Trials of its plan that are done."""
        return int(self.manifest.get("states", {}).get("done", 0))

    @property
    def answer(self) -> str:
        """What to know of its answers to the sheet; empty for a study of the sheet's data with results."""
        return ", ".join(filter(None, ["" if self.done else "no results yet", self.images.words]))

    @property
    def states(self) -> str:
        """ "12 done, 2 new"."""
        return ", ".join(f"{n} {state}" for state, n in self.manifest.get("states", {}).items())


def texts(sections: Sequence[Section]) -> list[str]:
    """The Markdown of each section; figures and tables that no line places are placed at its end."""
    return [_text(section) for section in sections]


def _text(section: Section) -> str:
    text = _environment().get_template(section.template).render(**section.context).strip()
    placed = set(PLACE.findall(text))
    parts = [("figure", name) for name in section.figures] + [("table", name) for name in section.tables]
    known = set(parts)
    text = PLACE.sub(lambda m: m.group() if m.groups() in known else "", text)
    return "\n\n".join([text, *(f"[[{kind} {name}]]" for kind, name in parts if (kind, name) not in placed)])


def markdown(title: str, data: Data, sections: Sequence[Section], section_texts: Sequence[str]) -> str:
    """The report as Markdown; figures are links to figures/."""
    parts = [f"# {words.escape(title)}", *notices(data)]
    for section, text in zip(sections, section_texts, strict=True):
        parts.append(f"## {section.title}")
        parts += _pieces(section, text, str, _markdown_figure(data), _markdown_table(data))
    return "\n\n".join(p.strip() for p in parts if p.strip()) + "\n"


def html(title: str, data: Data, sections: Sequence[Section], section_texts: Sequence[str]) -> str:
    """The report as one HTML page: pictures, tables' CSV and styles are inside it."""
    bodies = [Markup(section_html(data, s, text)) for s, text in zip(sections, section_texts, strict=True)]
    notes = [Markup(to_html(n)) for n in notices(data)]
    template = _environment().get_template("page.html")
    named = [(f"section-{i}", section, body) for i, (section, body) in enumerate(zip(sections, bodies, strict=True), 1)]
    math = math_font.data_uri(math_font.signs("".join(bodies)))
    return template.render(title=title, notices=notes, sections=named, math_font=math)


def section_html(data: Data, section: Section, text: str, files: bool = True) -> str:
    """A section's text, figures and tables as HTML; `files` links to those that lie beside the report."""
    parts: Any = _environment().get_template("parts.html").module

    def figure(name: str, f: Figure) -> str:
        origin, picture = provenance.sentence(data, f.source), _data_uri("image/svg+xml", style.svg(f))
        return str(parts.figure(name, f, picture, _csv(f), origin, files))

    def table(name: str, t: Table) -> str:
        return str(parts.table(name, t, _data_uri("text/csv", t.csv()), provenance.sentence(data, t.source), files))

    return "\n".join(_pieces(section, text, to_html, figure, table))


def notices(data: Data) -> list[str]:
    """What a reader must know first: what is missing, and numbers that are not of the sheet's data."""
    notes = []
    if images := Images.of(data.datasets):
        asked = ", and answer nothing that the sheet asks" if data.module.startswith("trials.problem") else ""
        which = "They" if images is Images.DRAWN else "Those"
        notes.append(f"**These numbers are {images.notice}.** {which} show that the whole way works{asked}.")
    rest = [(row.name, fate(data, str(row.trial_id))) for row in data.plan.itertuples() if row.state != "done"]
    ends = ", ".join(f"{n} {status}" for status, n in data.trials["status"].value_counts().items())
    done = len(data.plan) - len(rest)
    verb = "is" if 1 in (done, len(data.plan)) else "are"
    count = f"{done} of {words.counted(len(data.plan), 'trial')} of the plan {verb} done"
    count += f" ({ends})" if ends else ""
    listed = "".join(f"\n- {words.escape(str(name))}: {words.escape(why)}" for name, why in rest[:20])
    more = f"\n- and {len(rest) - 20} more" if len(rest) > 20 else ""
    notes.append(count + (f". Without results:\n{listed}{more}" if rest else "."))
    return notes + ([_outside(data)] if len(data.outside) else [])


def _outside(data: Data) -> str:
    """Which finished trials the report leaves out, what tells them from those of the grid, and how to have them."""
    n, command = len(data.outside), f"farm report {study_word(data.directory)}"
    shown = ", ".join(f"`{name}`" for name in data.outside["name"][:10]) + (", …" if n > 10 else "")
    each = apart_each(data.outside, data.plan)
    told = [f"{k} ({', '.join(v[:5])}{', …' if len(v) > 5 else ''})" for k, v in apart(each, data.plan).items()]
    alone = {d["hardware"] for d in each if {"hardware"} == d.keys() & set(AROUND)}  # hardware= changes nothing else
    models = sorted(alone - {"cpu", "none"})
    which = words.counted(n, "finished trial")
    parts = [
        f"Outside this grid, and not shown: {which} ({shown}).",
        f"What sets {'it' if n == 1 else 'them'} apart from the nearest of the grid: "
        f"{words.escape(words.listing(told))}." if told else "",
        *(f"`{command} {shlex.quote(f'hardware={m}')}` shows those of that GPU model instead." for m in models[:5]),
        f"`{command}` without further words takes in those that differ only in what the study sweeps; what is of other "
        "data, hardware, settings or an older revision does not compare.",
    ]  # fmt: skip
    return " ".join(filter(None, parts))


def index_markdown(entries: Sequence[Entry]) -> str:
    """All studies' reports, as Markdown."""
    lines = ["# Studies", ""]
    for e in entries:
        stale = " The report is older than its rows." if e.stale else ""
        stale += f" {words.sentence(e.images.notice)}" if e.images else ""
        lines.append(f"- [{words.escape(e.title)}]({e.study}/report/report.md): {e.states}.{stale}")
    return "\n".join(lines) + "\n"


def index_html(entries: Sequence[Entry], results: Path) -> str:
    """All studies' reports on one page, with each one's figures."""
    pictures = {e.study: list(_pictures(results / e.study / "report", e.manifest)) for e in entries}
    asked = [(item, text, answering(entries, item)) for item, text in ITEMS.items()]
    return (
        _environment().get_template("index.html").render(entries=entries, pictures=pictures, asked=asked, math_font="")
    )


def answering(entries: Sequence[Entry], item: str) -> Entry | None:
    """The report that answers an item of the sheet: one with results, of real images before partly drawn ones before
    drawn ones, with the most trials done, then the problem's own study."""
    found = [e for e in entries if item[:3] in e.questions]
    return min(found, key=lambda e: (not e.done, e.images, -e.done, e.study != f"problem{item[0]}"), default=None)


@dataclass(frozen=True)
class Picture:
    """A report's saved figure on the index page: its name, title and alternative text, picture and CSV as data URIs,
    provenance."""

    name: str
    title: str
    alt: str
    picture: str
    csv: str
    origin: str


def _pictures(report: Path, content: Mapping[str, Any]) -> Iterator[Picture]:
    """A report's saved figures."""
    for name in content.get("figures", []):
        path = report / "figures" / f"{name}.svg"
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            title, alt = (re.search(rf"<{tag}[^>]*>(.*?)</{tag}>", text, re.DOTALL) for tag in ("title", "desc"))
            yield Picture(
                name=name,
                title=Markup(title.group(1)).unescape() if title else name,
                alt=Markup(alt.group(1)).unescape() if alt else name,
                picture=_data_uri("image/svg+xml", text),
                csv=_saved_csv(report, content, f"figures/{name}.csv"),
                origin=str(content.get("origins", {}).get(name, "")),
            )


def _saved_csv(report: Path, content: Mapping[str, Any], name: str) -> str:
    """The data URI of a file that belongs to the report; empty where it has none of that name."""
    path = report / name
    known = name in content.get("files", []) and path.is_file()
    return _data_uri("text/csv", path.read_text(encoding="utf-8")) if known else ""


def _pieces(
    section: Section,
    text: str,
    prose: Callable[[str], str],
    figure: Callable[[str, Figure], str],
    table: Callable[[str, Table], str],
) -> list[str]:
    """The section's text cut at its places, each piece made into the page's language."""
    pieces = PLACE.split(text)  # prose, kind, name, prose, kind, name, ..., prose
    made = [prose(pieces[0])]
    for kind, name, following in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True):
        made.append(figure(name, section.figures[name]) if kind == "figure" else table(name, section.tables[name]))
        made.append(prose(following))
    return [piece for piece in made if piece.strip()]


def _markdown_figure(data: Data) -> Callable[[str, Figure], str]:
    def write(name: str, f: Figure) -> str:
        alt = f.alt.replace("[", "(").replace("]", ")")
        origin = f"*{provenance.sentence(data, f.source)}*" + (f" [CSV](figures/{name}.csv)" if _csv(f) else "")
        return f"![{alt}](figures/{name}.svg)\n\n**{f.title}.** {f.caption}\n\n{origin}"

    return write


def _markdown_table(data: Data) -> Callable[[str, Table], str]:
    def write(name: str, t: Table) -> str:
        origin = f"*{provenance.sentence(data, t.source)}* [CSV](tables/{name}.csv), [LaTeX](tables/{name}.tex)"
        return f"**{t.title}**\n\n{t.markdown()}\n{origin}"

    return write


def _csv(figure: Figure) -> str:
    return _data_uri("text/csv", figure.data.to_csv(index=False)) if figure.data is not None else ""


def _data_uri(kind: str, text: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(text.encode()).decode()}"


@functools.cache
def _environment() -> jinja2.Environment:
    """Templates; .html ones escape what they are given, .md ones are escaped when they become HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("analysis", "templates"),
        autoescape=jinja2.select_autoescape(["html"], default=False),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(words.FILTERS)
    return environment
