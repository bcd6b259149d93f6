"""The sentence under a figure or table."""

import dataclasses
from pathlib import Path

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
