"""Every question of the sheet has its answer in a report: docs/coverage.md says where, and is held to it."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from commands import ROOT

from analysis import load, page, report
from analysis.options import Options
from analysis.section import Section
from analysis.sheet import ITEMS

SHEET = ROOT.parent / "shared" / "homework-3.txt"
ROWS = [
    [cell.strip() for cell in line.strip("|\n").split(" | ")]
    for line in (ROOT / "docs" / "coverage.md").read_text().splitlines()
    if re.match(r"\| \d\.\d", line)
]


@cache
def written(study_dir: Path) -> list[tuple[Section, str]]:
    """Sections of a report with their Markdown, tables' and figures' titles and notes put in."""
    data = load.load(study_dir)
    sections = list(report.problem_module(study_dir.name[-1], data).sections(data, Options()))
    parts = [[*s.figures.values(), *s.tables.values()] for s in sections]
    notes = [" ".join(f"{p.title} {' '.join(getattr(p, 'notes', ()))}" for p in shown) for shown in parts]
    return [(s, f"{t} {n}") for s, t, n in zip(sections, page.texts(sections), notes, strict=True)]


def test_every_item_of_the_sheet_has_a_row() -> None:
    assert [row[0] for row in ROWS] == list(ITEMS)
    assert [row[1] for row in ROWS] == list(ITEMS.values())


@pytest.mark.skipif(not SHEET.exists(), reason="the sheet lies beside the checkout in ../shared, not in it")
def test_the_list_has_every_number_of_the_sheet() -> None:
    text = SHEET.read_text()
    problems = re.split(r"# Problem (\d)", text)[1:]
    numbered = {
        f"{n}.{item}" for n, body in zip(problems[::2], problems[1::2], strict=True)
        for item in re.findall(r"^(?:- )?(\d)\. [A-Z]", body, re.MULTILINE)
    }  # fmt: skip
    assert numbered == {item[:3] for item in ITEMS}
    lettered = Counter(re.findall(r"^  - \(([a-d])\)", text, re.MULTILINE))
    assert all(count == 2 for count in lettered.values())  # 3.4 and 3.5, whose letters are the sheet's own
    assert {f"3.{n}{letter}" for n in "45" for letter in lettered} == {i for i in ITEMS if i[:3] in ("3.4", "3.5")}


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_it_is_answered_where_the_page_says(row: list[str], smoke: Path) -> None:
    item, _, title, part, words = row
    found = [(s, text) for s, text in written(smoke / f"problem{item[0]}") if s.title == title]
    assert len(found) == 1, f"no section {title!r}"
    section, text = found[0]
    assert item[:3] in section.questions
    assert part == "–" or part in (*section.figures, *section.tables)
    assert words.strip("`") in re.sub(r"\s+", " ", text)


def test_the_manifests_name_every_question(smoke: Path) -> None:
    from analysis import manifest

    named = {q for n in "1234" for q in manifest.read(smoke / f"problem{n}")["questions"]}
    assert named == {item[:3] for item in ITEMS}


def test_the_index_says_where_each_question_is_answered(smoke: Path) -> None:
    page_text = report.write_index(smoke).html.read_text()
    rows = re.findall(r"<tr><td>(\d\.\d\w?)</td>.*?<a href=\"problem(\d)/", page_text)
    assert [(item, item[0]) for item in ITEMS] == rows
    assert page_text.count("not from CIFAR-10") == 4  # problem 3 has no images
