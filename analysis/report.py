"""A study's report: Markdown, one HTML page that needs nothing else, and every table and figure as files.

Layout of `<study>/report/`: report.md, index.html, figures/, tables/, manifest.json. What a run ends with
(`write_main_results`) lies in figures/ and tables/ too, under the same names.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from analysis import manifest, provenance, style
from analysis.load import AnalysisError, Data, load
from analysis.load import title as load_title
from analysis.manifest import is_stale, report_directory
from analysis.options import Options
from analysis.section import Section

__all__ = [
    "AnalysisError",
    "Options",
    "ReportPaths",
    "index_is_stale",
    "is_stale",
    "write_index",
    "write_main_results",
    "write_report",
]


PROBLEMS = ("1", "2", "3", "4")
"""Those of the sheet, each with an analysis of its own."""


@dataclass(frozen=True)
class ReportPaths:
    """Where the report can be read."""

    markdown: Path
    html: Path


def problem_module(problem: str, data: Data) -> ModuleType:
    """analysis.problem<N> for results of that problem's trial module, else analysis.generic: a `section.Problem`."""
    sheets = problem in PROBLEMS and data.module == f"trials.problem{problem}"
    return importlib.import_module(f"analysis.problem{problem}" if sheets else "analysis.generic")


def write_main_results(study_dir: Path, problem: str, options: Options | None = None) -> list[Path]:
    """Write the main figure (PNG, SVG) and table (CSV, Markdown) of a study; returns their paths.

    Raises `AnalysisError` where there is no usable export.
    """
    data, report = load(study_dir), report_directory(study_dir)
    figures, tables = problem_module(problem, data).main(data, options or Options())
    paths = [
        p for name, figure in figures.items() for p in style.save(figure, report / "figures", name, ("png", "svg"))
    ]
    paths += [p for name, table in tables.items() for p in table.save(report / "tables", name, ("csv", "md"))]
    manifest.note(study_dir, _names(paths, report))
    return [p for p in paths if p.parent.name == "tables" or p.suffix != ".csv"]


def write_report(study_dir: Path, problem: str, options: Options | None = None) -> ReportPaths:
    """Write the whole report of a study; what the farm wrote there before and this report lacks is removed.

    Raises `AnalysisError` where there is no usable export.
    """
    from analysis import page  # Jinja, Markdown and MathML: not needed for the main figure after a run

    data, report = load(study_dir), report_directory(study_dir)
    report.mkdir(parents=True, exist_ok=True)
    manifest.withdraw(study_dir)
    module = problem_module(problem, data)
    title = module.TITLE or load_title(study_dir)
    sections: Sequence[Section] = module.sections(data, options or Options())
    files = _save_parts(sections, report)
    texts = page.texts(sections)
    paths = ReportPaths(report / "report.md", report / "index.html")
    paths.markdown.write_text(page.markdown(title, data, sections, texts), encoding="utf-8")
    paths.html.write_text(page.html(title, data, sections, texts), encoding="utf-8")
    content = {
        "problem": problem,
        "title": title,
        "states": _states(data),
        "datasets": data.datasets,
        "figures": [name for s in sections for name in s.figures],
        "origins": {n: provenance.sentence(data, f.source) for s in sections for n, f in s.figures.items()},
    }
    content |= {"questions": [q for s in sections for q in s.questions]}
    manifest.write(study_dir, content, _names([*files, paths.markdown, paths.html], report))
    manifest.remove_left_over(study_dir)
    return paths


def write_index(results: Path) -> ReportPaths:
    """Write `<results>/index.html` and index.md: one page for all studies that have a report."""
    texts = _index(results)
    for name, text in texts.items():
        (results / name).write_text(text, encoding="utf-8")
    return ReportPaths(*(results / name for name in texts))


def index_is_stale(results: Path) -> list[str]:
    """Why the index does not show the reports as they are, in sentences; empty where it does, or where there is none.

    It is made anew and compared.
    """
    try:
        texts = _index(results)
    except AnalysisError:
        return []
    paths = {results / name: text.encode() for name, text in texts.items()}
    return [
        f"{path} {'is older than the reports' if path.is_file() else 'is missing'}"
        for path, text in paths.items()
        if not path.is_file() or path.read_bytes() != text
    ]


def _index(results: Path) -> dict[str, str]:
    """The text of each file of the index, by name."""
    from analysis import page

    studies = [d for d in sorted(results.glob("*")) if d.is_dir() and manifest.read(d)]
    if not studies:
        raise AnalysisError(f"{results}: no study there has a report; `farm report study=NAME` writes one")
    entries = [page.Entry(d.name, manifest.read(d), is_stale(d)) for d in studies]
    return {"index.md": page.index_markdown(entries), "index.html": page.index_html(entries, results)}


def _save_parts(sections: Sequence[Section], report: Path) -> list[Path]:
    paths = [p for s in sections for n, f in s.figures.items() for p in style.save(f, report / "figures", n)]
    return paths + [p for s in sections for n, t in s.tables.items() for p in t.save(report / "tables", n)]


def _names(paths: Sequence[Path], report: Path) -> list[str]:
    """As the manifest has them."""
    return sorted(str(p.relative_to(report)) for p in paths)


def _states(data: Data) -> Mapping[str, int]:
    return {str(k): int(v) for k, v in data.plan["state"].value_counts().items()}
