"""Several studies' reports as one Markdown file with all that it links to: docs/reference-report.md.

    python -m analysis.joined analysis/reference docs/reference-report.md            (`make reference`)

Beside NAME.md the directory NAME/ gets the linked figures and tables, and loses those that NAME.md linked before.
CIFAR-10's images are in none of them, on purpose, and the figure of cutout says so.
"""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from analysis.load import AnalysisError
from analysis.options import Options
from analysis.report import PROBLEMS, write_report

WITHOUT_IMAGES = "for CIFAR-10's images are not published here; farm report problem=4 with data_root= shows two of them"
FILE = r"(?:figures|tables)/[\w-]+\.\w+"
LINK = re.compile(rf"(?<=\]\(){FILE}(?=\))")
HEADING = re.compile(r"^#", re.MULTILINE)
FIRST = re.compile(r"^(?:## Problem |Not run: problem )", re.MULTILINE)
"""Where the reports begin; what stands before it in the file is written by hand and stays."""


def join(results: Path, target: Path) -> None:
    """Write the reports of the sheet's problems below `results`, and `target` from them.

    A problem without rows is named as not run. Raises `AnalysisError` where none has rows, or some cannot be used.
    """
    studies = {p: results / f"problem{p}" for p in PROBLEMS}
    found = {p: study for p, study in studies.items() if any((study / "export").glob("*.parquet"))}
    if not found:
        raise AnalysisError(f"{results}: none of {', '.join(s.name for s in studies.values())} has an export there")
    options = Options(without_images=WITHOUT_IMAGES)
    reports = {study.name: write_report(study, p, options).markdown for p, study in found.items()}
    if not target.suffix:
        raise AnalysisError("the file needs a suffix (.md): without it its name is that of the directory beside it")
    files = target.with_suffix("")
    before = target.read_text(encoding="utf-8") if target.exists() else ""
    for link in re.findall(rf"\]\({re.escape(files.name)}/([\w-]+/{FILE})\)", before):
        (files / link).unlink(missing_ok=True)
    parts = [FIRST.split(before)[0].strip()]
    parts += [f"Not run: problem {p}." for p in PROBLEMS if p not in found]
    parts += [_moved(report, files / name, target.parent) for name, report in reports.items()]
    target.write_text("\n\n".join(filter(None, parts)) + "\n", encoding="utf-8")


def _moved(report: Path, files: Path, base: Path) -> str:
    """A report's Markdown, a heading deeper; what it links to is copied into `files` and linked from `base`."""

    def copied(link: re.Match[str]) -> str:
        path = files / link.group()
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(report.parent / link.group(), path)
        return path.relative_to(base).as_posix()

    return LINK.sub(copied, HEADING.sub("##", report.read_text(encoding="utf-8").strip()))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line: a directory of studies, and the Markdown file to write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args(arguments)
    try:
        join(options.results, options.target)
    except (AnalysisError, OSError) as error:
        raise SystemExit(f"{options.target}: not written: {error}") from None
    print(options.target)


if __name__ == "__main__":
    main()
