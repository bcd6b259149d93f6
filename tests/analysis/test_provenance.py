"""The sentence under a figure or table."""

import dataclasses
from pathlib import Path

import pytest

from analysis import provenance
from analysis.load import load
from tests.analysis.conftest import MadeUpExport


def test_commits_are_those_of_every_attempt_that_measured_rows(empty: type[MadeUpExport], tmp_path: Path) -> None:
    export = empty()
    trial = export.add("cutout", 1, 0, 0.05)
    (first,) = export.tables["attempts"]
    export.tables["attempts"] = [first | {"attempt": n, "farm_commit": f"{n}" * 12} for n in (1, 2, 3)]
    for row in export.tables["epochs"]:
        row["attempt"] = 1 if row["epoch"] <= 50 else 3  # the second committed nothing
    data = load(export.write(tmp_path))
    said = provenance.sentence(data, provenance.source(data, [trial]))
    assert "farm commit 111111111111, 333333333333, 0123456789ab;" in said


def test_commits_of_attempts_that_measured_other_tables_are_named_too(
    empty: type[MadeUpExport], tmp_path: Path
) -> None:
    export = empty()
    trial = export.add("cutout", 1, 0, 0.05)
    (first,) = export.tables["attempts"]
    export.tables["attempts"] = [first | {"attempt": n, "farm_commit": f"{n}" * 12} for n in (1, 2)]
    for row in export.tables["epochs"]:
        row["attempt"] = 2
    data = load(export.write(tmp_path))
    links = data.rows.iloc[:1].assign(attempt=1)
    with_links = dataclasses.replace(data, tables={**data.tables, "links": links})
    said = [provenance.sentence(d, provenance.source(d, [trial])) for d in (data, with_links)]
    assert ["111111111111" in text for text in said] == [False, True]


@pytest.mark.parametrize(
    ("recorded", "last", "said"),
    [
        ((None, None, None), True, "farm commit 0123456789ab, and of 2 attempts that recorded none;"),
        ((None, "2" * 12, None), True, "farm commit 222222222222, 0123456789ab, and of an attempt that recorded none;"),
        (("1" * 12, "2" * 12, None), True, "farm commit 111111111111, 222222222222, 0123456789ab;"),
        (("1" * 12, "", "3" * 12), False, "farm commit 111111111111, 333333333333, and of an attempt that recorded"),
        ((None, None, None), False, "device NVIDIA H200; torch"),
    ],
)
def test_attempts_that_recorded_no_commit_are_counted(
    empty: type[MadeUpExport], tmp_path: Path, recorded: tuple[str | None, ...], last: bool, said: str
) -> None:
    """The trial knows the commit of its last attempt; that of earlier ones stands in attempts.parquet alone."""
    export = empty()
    trial = export.add("cutout", 1, 0, 0.05)
    (first,) = export.tables["attempts"]
    export.tables["attempts"] = [first | {"attempt": n, "farm_commit": c} for n, c in enumerate(recorded, 1)]
    for row in export.tables["epochs"]:
        row["attempt"] = min(1 + row["epoch"] // 30, 3)
    if not last:
        export.tables["trials"][0]["farm_commit"] = None
    data = load(export.write(tmp_path))
    assert said in provenance.sentence(data, provenance.source(data, [trial]))


def test_an_export_older_than_the_attempts_commits_says_what_it_does_not_know(
    empty: type[MadeUpExport], tmp_path: Path
) -> None:
    export = empty()
    trial = export.add("cutout", 1, 0, 0.05)
    export.tables["attempts"].append(export.tables["attempts"][0] | {"attempt": 2})
    for row in export.tables["epochs"][50:]:
        row["attempt"] = 2
    data = load(export.write(tmp_path))
    said = provenance.sentence(data, provenance.source(data, [trial]))
    assert "farm commit 0123456789ab, and of an attempt that recorded none;" in said
