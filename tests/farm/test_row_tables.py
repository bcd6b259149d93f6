"""A trial module with several row tables: each row lands in its own, with that table's columns only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from farm.attempt import End, Request, StopFlag, run_attempt
from farm.ledger import schema
from farm.ledger.export import export
from trials.spec import Spec


def attempt(ledger: Path, rows: str) -> End:
    spec = Spec("two_tables", {"rows": rows}, 0, 1, "none", "none", 1, False, None)
    request = Request(str(ledger), spec.as_dict(), "cpu", None, str(ledger / ".cache"), commit_seconds=0.0)
    return run_attempt(request, StopFlag(), lambda message: None, lambda claimed: "")


def exported(ledger: Path) -> dict[str, list[dict[str, Any]]]:
    tables = export(ledger, None, "two_tables").tables
    return {name: pq.read_table(path).to_pylist() for name, path in tables.items() if name != "plan"}


def test_rows_go_to_the_table_they_name_and_else_to_the_first(tmp_path: Path) -> None:
    attempt(tmp_path, "both")
    tables = exported(tmp_path)
    assert [r["train_loss"] for r in tables["rows"]] == [0.5]
    assert [(r["left"], r["note"]) for r in tables["boxes"]] == [(3.0, "first")]
    assert {p.stem for p in (tmp_path / "export").glob("*.parquet")} == {"steps", "boxes", "trials", "attempts"}


def test_a_table_has_its_own_columns_only(tmp_path: Path) -> None:
    attempt(tmp_path, "both")
    tables = exported(tmp_path)
    assert [k for k in tables["rows"][0] if not k.startswith("config_")] == [
        "trial_id", "name", "attempt", "epoch", "train_loss",
    ]  # fmt: skip
    assert "train_loss" not in tables["boxes"][0]


def test_a_trial_without_rows_of_a_table_leaves_it_empty(tmp_path: Path) -> None:
    attempt(tmp_path, "steps")
    assert exported(tmp_path)["boxes"] == []
    attempt(tmp_path, "boxes")
    assert [len(exported(tmp_path)[name]) for name in ("rows", "boxes", "trials")] == [1, 1, 2]


def test_a_vanished_table_is_exported_again(tmp_path: Path) -> None:
    attempt(tmp_path, "both")
    exported(tmp_path)
    (tmp_path / "export" / "boxes.parquet").unlink()
    tables = exported(tmp_path)
    assert (len(tables["rows"]), len(tables["boxes"])) == (1, 1)


@pytest.mark.parametrize(
    ("rows", "message"), [("unknown", "no row table 'circles'"), ("misplaced", "'train_loss' is not one of table")]
)
def test_a_row_that_fits_no_table_fails_the_trial(tmp_path: Path, rows: str, message: str) -> None:
    end = attempt(tmp_path, rows)
    assert end.how == "failed"
    assert message in end.error


def test_the_main_table_is_the_first() -> None:
    assert schema.row_table("two_tables") == "steps"
    assert schema.row_table("counting") == "epochs"
