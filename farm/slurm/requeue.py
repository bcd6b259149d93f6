"""After a run in an allocation: is the job over, or does it go back into the queue?

python -m farm.slurm.requeue LEDGER                      the ledger's progress, as one number
python -m farm.slurm.requeue LEDGER --code 75 --before N  "requeue 75" or "end CODE"
"""

from __future__ import annotations

import argparse
from pathlib import Path

from farm.errors import COMPLETE, FAILED, INTERRUPTED, PREFLIGHT, RESUMABLE, USAGE
from farm.ledger.scan import scan

FINAL = (COMPLETE, USAGE, INTERRUPTED)
FINAL_WITH_A_HEAD = (FAILED, PREFLIGHT)
"""What a driver also ends with when Ray's head dies under it, or as it connects."""


def progress(ledger: Path) -> int:
    """A number that grows with every commit and every finished trial, and never shrinks."""
    return sum(p.epoch + (p.state == "done") for p in scan(ledger).values())


def verdict(code: int, restarts: int, before: int, after: int, head_lost: bool = False) -> tuple[str, int]:
    """("end" or "requeue", exit code of the job).

    A run goes on in the queue when it was drained, when Ray's head died under it, or when it was killed. A run
    that had been requeued already and has added nothing to the ledger would go round for ever: it ends with 1.
    """
    if code in FINAL or (code in FINAL_WITH_A_HEAD and not head_lost):
        return "end", code
    if restarts > 0 and after <= before:
        return "end", FAILED
    return "requeue", RESUMABLE


def main(arguments: list[str] | None = None) -> None:
    """Print the progress, or the verdict on a run's exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ledger", type=Path)
    parser.add_argument("--code", type=int)
    parser.add_argument("--before", type=int, default=0)
    parser.add_argument("--restarts", type=int, default=0)
    parser.add_argument("--head-lost", action="store_true")
    options = parser.parse_args(arguments)
    after = progress(options.ledger)
    if options.code is None:
        print(after)
    else:
        print(*verdict(options.code, options.restarts, options.before, after, options.head_lost))


if __name__ == "__main__":
    main()
