"""What must be true of a ledger after its last run, whatever came before."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from farm.ledger import schema
from farm.ledger.scan import attempt_records

MODULE = "trials.problem4"
ENDS = ("completed", "interrupted", "drained", "killed", "lost")
"""How an attempt at these trials can end, whatever happens to the machine."""
MOST_FILES = 10
"""Of a done trial, set-aside damaged results not counted."""


class Violation(Exception):
    """Something was lost, repeated, changed or left behind."""


class Oracle:
    """Compares a ledger with that of an undisturbed run."""

    def __init__(self, calm: Path) -> None:
        self.rows, self.trials, self.plan = (exact(calm, name) for name in ("epochs", "trials", "plan"))

    def check(self, ledger: Path) -> None:
        """Raise `Violation` where `ledger` differs in anything that no clock or host produced."""
        keys = [(r["trial_id"], r["epoch"]) for r in exact(ledger, "epochs")]
        if len(keys) != len(set(keys)):
            raise Violation("an epoch is there twice")
        if keys != [(r["trial_id"], r["epoch"]) for r in self.rows]:
            raise Violation(f"epochs {keys}")
        for name, expected in (("epochs", self.rows), ("trials", self.trials), ("plan", self.plan)):
            for found, wanted in zip(exact(ledger, name), expected, strict=True):
                if different := [k for k in wanted if found.get(k) != wanted[k]]:
                    raise Violation(f"{name}: {different} of {wanted['trial_id']} differ")
        check_attempts(ledger)
        check_litter(ledger)


def check_attempts(ledger: Path) -> None:
    """Attempts are numbered without a gap, ended in a way there is, are all exported, and wrote the rows in order."""
    records = list(attempt_records(ledger))
    rows = pq.read_table(ledger / "export" / "epochs.parquet", columns=["trial_id", "epoch", "attempt"]).to_pylist()
    for trial in {r["trial_id"] for r in records}:
        own = [r for r in records if r["trial_id"] == trial]
        numbers = [r["attempt"] for r in own]
        if numbers != list(range(1, len(own) + 1)):
            raise Violation(f"attempts {numbers} of {trial}")
        if wrong := [r["how"] for r in own if r["how"] not in ENDS]:
            raise Violation(f"attempts at {trial} ended {wrong}")
        authors = [r["attempt"] for r in sorted(rows, key=lambda r: r["epoch"]) if r["trial_id"] == trial]
        if authors != sorted(authors) or not set(authors) <= set(numbers):
            raise Violation(f"the rows of {trial} are by attempts {authors} of {len(own)}")
    exported = pq.read_table(ledger / "export" / "attempts.parquet").num_rows
    if exported != len(records):
        raise Violation(f"{exported} attempts exported of {len(records)}")


def check_ends(ledger: Path, allowed: Mapping[int, Collection[str]]) -> None:
    """Each attempt ended in a way in which the fault that its driver met can end one; `allowed` is by the driver's pid.

    Attempts whose records were damaged have no driver, and are left out.
    """
    for record in attempt_records(ledger):
        pid = int(str(record.get("driver") or "0").partition("-")[0])
        if pid in allowed and record["how"] not in allowed[pid]:
            told = f"{record['how']!r}, where its driver's fault allows {sorted(allowed[pid])}"
            raise Violation(f"attempt {record['attempt']} at {record['trial_id']} is recorded as {told}")


def check_none_lost(ledger: Path) -> None:
    """Where nothing was killed and everything could be written, each attempt has an end of its own."""
    if lost := [(r["trial_id"], r["attempt"]) for r in attempt_records(ledger) if r["how"] == "lost"]:
        raise Violation(f"attempts {lost} have no end, and nothing kept them from recording it")


def exact(ledger: Path, table: str) -> list[dict[str, Any]]:
    """Rows of an exported table without measured columns, sorted."""
    rows = pq.read_table(ledger / "export" / f"{table}.parquet").to_pylist()
    names = [n for n in rows[0] if n.startswith("config_") or not schema.column(n, MODULE).measured] if rows else []
    return sorted(({n: r[n] for n in names} for r in rows), key=lambda r: (r["trial_id"], r.get("epoch") or 0))


def check_litter(ledger: Path) -> None:
    """Nothing temporary is left, no commit of a done trial, and one lock file."""
    names = [p for p in ledger.rglob("*") if p.name.startswith((".tmp-", "draft-", "commit-"))]
    names += list(ledger.glob("drain-*"))
    if names:
        raise Violation(f"left behind: {[str(p.relative_to(ledger)) for p in names]}")
    for trial in (ledger / "trials").iterdir():
        files = [p for p in trial.rglob("*") if p.is_file() and "damaged-" not in str(p)]
        if len(files) > MOST_FILES:
            raise Violation(f"{len(files)} files of {trial.name}: {[str(p.relative_to(trial)) for p in files]}")
    locks = list((ledger / "lock").iterdir())
    if len(locks) != 1:
        raise Violation(f"locks {[p.name for p in locks]}")
