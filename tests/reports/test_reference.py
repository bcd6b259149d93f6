"""docs/reference-report.md is what the rows in analysis/reference/ give, and all that it links to is there."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from commands import ROOT

from analysis.joined import join, main
from analysis.load import AnalysisError

REPORT = ROOT / "docs" / "reference-report.md"
LINK = re.compile(r"\]\(([^)#:]+)\)")


def test_it_is_what_the_rows_give(tmp_path: Path) -> None:
    target = tmp_path / REPORT.name
    shutil.copytree(ROOT / "analysis" / "reference", tmp_path / "reference", ignore=shutil.ignore_patterns("report"))
    shutil.copyfile(REPORT, target)
    join(tmp_path / "reference", target)
    assert target.read_text() == REPORT.read_text()  # `make reference` brings it up to date
    new, old = (
        sorted(p.relative_to(f) for p in f.rglob("*")) for f in (target.with_suffix(""), REPORT.with_suffix(""))
    )
    assert new == old
    for path in (p for p in new if p.suffix == ".csv"):
        assert (target.with_suffix("") / path).read_bytes() == (REPORT.with_suffix("") / path).read_bytes()


def test_every_link_leads_somewhere() -> None:
    links = LINK.findall(REPORT.read_text())
    assert len(links) > 10
    assert not [link for link in links if not (REPORT.parent / link).is_file()]


def test_every_line_of_a_list_item_is_indented() -> None:
    item, lines = re.compile(r"\s*([-*]|\d+\.) "), REPORT.read_text().splitlines()
    inside, out = False, []
    for line in lines:
        inside = bool(item.match(line)) or (inside and line.strip() != "")
        if inside and not item.match(line) and not line.startswith("  "):
            out.append(line)
    assert out == []


def test_what_stands_before_the_reports_stays_and_problems_without_rows_are_named(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "analysis" / "reference" / "problem4", tmp_path / "reference" / "problem4")
    target = tmp_path / "all.md"
    target.write_text("# Ours\n\nBy hand.\n\nNot run: problem 4.\n\n## Problem 1\n")
    join(tmp_path / "reference", target)
    text = target.read_text()
    assert text.startswith(
        "# Ours\n\nBy hand.\n\nNot run: problem 1.\n\nNot run: problem 2.\n\nNot run: problem 3.\n\n## Problem 4"
    )
    assert re.findall("^# ", text, re.MULTILINE) == ["# "]
    assert "two drawn pictures, for CIFAR-10's images are not published here; farm report problem=4 with" in text


def test_a_directory_without_rows_is_refused_and_the_file_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "all.md"
    target.write_text("# Ours\n")
    with pytest.raises(AnalysisError, match="none of problem1, problem2"):
        join(tmp_path, target)
    assert target.read_text() == "# Ours\n"


def test_what_lies_beside_the_file_and_is_not_its_own_stays(tmp_path: Path) -> None:
    results = tmp_path / "all"  # the directory that the linked files of all.md go to
    shutil.copytree(ROOT / "analysis" / "reference" / "problem4", results / "problem4")
    before = sorted(p for p in results.rglob("*") if p.is_file())
    old = results / "problem4" / "figures" / "old.svg"
    old.parent.mkdir()
    old.touch()
    (tmp_path / "all.md").write_text("# Ours\n\n## Then\n\n![](all/problem4/figures/old.svg)\n")
    main([str(results), str(tmp_path / "all.md")])
    assert all(p.is_file() for p in before)
    assert not old.exists()
    assert (results / "problem4" / "figures" / "validation-error.svg").is_file()


def test_the_command_says_what_is_wrong_without_a_traceback(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"not written: .*none of problem1"):
        main([str(tmp_path), str(tmp_path / "all.md")])
