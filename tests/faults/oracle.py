"""What must be true of a ledger after its last run, whatever came before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from farm.ledger import schema
from farm.ledger.scan import attempt_records

MODULE = "trials.problem4"


class Violation(Exception):
    """Something was lost, repeated, changed or left behind."""


class Oracle:
    """Compares a ledger with that of an undisturbed run."""

    def __init__(self, calm: Path) -> None:
        self.rows, self.trials = exact(calm, "epochs"), exact(calm, "trials")

    def check(self, ledger: Path) -> None:
        """Raise `Violation` where `ledger` differs in anything that no clock or host produced."""
        keys = [(r["trial_id"], r["epoch"]) for r in exact(ledger, "epochs")]
        if len(keys) != len(set(keys)):
            raise Violation("an epoch is there twice")
        if keys != [(r["trial_id"], r["epoch"]) for r in self.rows]:
            raise Violation(f"epochs {keys}")
        for name, expected in (("epochs", self.rows), ("trials", self.trials)):
            for found, wanted in zip(exact(ledger, name), expected, strict=True):
                if different := [k for k in wanted if found.get(k) != wanted[k]]:
                    raise Violation(f"{name}: {different} of {wanted['trial_id']} differ")
        self._check_attempts(ledger)
        check_litter(ledger)

    def _check_attempts(self, ledger: Path) -> None:
        records = list(attempt_records(ledger))
        for trial in {r["trial_id"] for r in records}:
            numbers = [r["attempt"] for r in records if r["trial_id"] == trial]
            if numbers != list(range(1, len(numbers) + 1)):
                raise Violation(f"attempts {numbers} of {trial}")
        exported = pq.read_table(ledger / "export" / "attempts.parquet").num_rows
        if exported != len(records):
            raise Violation(f"{exported} attempts exported of {len(records)}")


def exact(ledger: Path, table: str) -> list[dict[str, Any]]:
    """Rows of an exported table without measured columns, sorted."""
    rows = pq.read_table(ledger / "export" / f"{table}.parquet").to_pylist()
    names = [n for n in rows[0] if n.startswith("config_") or not schema.column(n, MODULE).measured] if rows else []
    return sorted(({n: r[n] for n in names} for r in rows), key=lambda r: (r["trial_id"], r.get("epoch") or 0))


def check_litter(ledger: Path) -> None:
    """Nothing temporary is left, no commit of a done trial, and one lock file."""
    names = [p for p in ledger.rglob("*") if p.name.startswith((".tmp-", "draft-", "commit-"))]
    names += list(ledger.glob("drain"))
    if names:
        raise Violation(f"left behind: {[str(p.relative_to(ledger)) for p in names]}")
    locks = list((ledger / "lock").iterdir())
    if len(locks) != 1:
        raise Violation(f"locks {[p.name for p in locks]}")
