"""After a run in an allocation: is the job over, or does it go back into the queue?

python -m farm.slurm.requeue LEDGER                      the ledger's progress, as one number
python -m farm.slurm.requeue LEDGER --code 75 --before N  "requeue 75" or "end CODE"; --trial ID: of a run of that one
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from farm.errors import COMPLETE, FAILED, INTERRUPTED, PREFLIGHT, RESUMABLE, USAGE
from farm.ledger.export import planned_states
from farm.ledger.scan import scan

FINAL = (COMPLETE, USAGE, INTERRUPTED)
FINAL_WITH_A_HEAD = (FAILED, PREFLIGHT)
"""What a driver also ends with when Ray's head dies under it, or as it connects."""


def progress(ledger: Path) -> int:
    """A number that grows with every commit and every finished trial, and never shrinks."""
    return sum(p.epoch + (p.state == "done") for p in scan(ledger).values())


def trials_left(ledger: Path, chosen: Sequence[str] = ()) -> bool:
    """Whether a run would start any trial of the grid that was exported last, which each run does as it ends.

    Of those alone that are `chosen` by the beginnings of their ids, where any are: the grid is exported whole.
    """
    states = planned_states(ledger)
    return any(s in ("new", "partial") for i, s in states.items() if not chosen or i.startswith(tuple(chosen)))


def verdict(
    code: int, restarts: int, before: int, after: int, head_lost: bool = False, left: bool = False
) -> tuple[str, int]:
    """("end" or "requeue", exit code of the job).

    A run goes on in the queue when it was drained, when Ray's head died under it, or when it was killed; also when
    it has trials `left`, whose retries a broken GPU or node used up, and has added to the ledger. A run that had been
    requeued already and has added nothing to the ledger would go round for ever: it ends with 1.
    """
    if code == FAILED and left and after > before:
        return "requeue", RESUMABLE
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
    parser.add_argument("--trial", action="append", default=[])
    options = parser.parse_args(arguments)
    after = progress(options.ledger)
    if options.code is None:
        print(after)
    else:
        left = trials_left(options.ledger, options.trial)
        print(*verdict(options.code, options.restarts, options.before, after, options.head_lost, left))


if __name__ == "__main__":
    main()
