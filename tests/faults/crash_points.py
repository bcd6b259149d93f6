"""A driver dies before the n-th operation on its ledger, for every n; the same command must set all right.

    python tests/faults/crash_points.py DIRECTORY

Operations are opening, writing, syncing, renaming, making and removing. Prints how many there were.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
from pathlib import Path

import pyarrow.parquet as pq
from campaign import ROOT, Round, prepare_parent
from faults import on_operation
from oracle import Violation, check_litter

WORDS = (
    f"study={ROOT / 'tests' / 'studies' / 'counting.yaml'}", "executor=inline", "sweep.factor=[1]", "trial.epochs=3",
    "commit_seconds=0", "back_off_seconds=0", "view=plain",
)  # fmt: skip


def run_study(words: list[str]) -> int:
    """A run without the figure at its end, which has no part in the ledger."""
    from farm import config, study

    return study.run(config.load(words), words).exit_code


def dying_at(n: int) -> None:
    """Have this process die before its n-th operation."""
    on_operation(lambda i: os.kill(os.getpid(), signal.SIGKILL) if i == n else None)


def values(ledger: Path) -> list[tuple[int, int]]:
    """(epoch, value) of every row."""
    table = pq.read_table(ledger / "export" / "epochs.parquet")
    return list(zip(table["epoch"].to_pylist(), table["value"].to_pylist(), strict=True))


def main(directory: Path) -> int:
    """Go through all operations; their number. Raises `Violation`."""
    prepare_parent()
    directory.mkdir(parents=True, exist_ok=True)
    expected: list[tuple[int, int]] = []
    for n in range(-1, 10_000):  # -1: the undisturbed run
        trouble = Round(directory / str(n), random.Random(n), WORDS, run_study)
        code = trouble.start(lambda n=n: dying_at(n)).wait(60)
        if n >= 0 and code == 0:
            return n
        if n >= 0 and code != -signal.SIGKILL:
            raise Violation(f"operation {n}: the driver ended with {code}")
        if (last := trouble.finish()) != 0:
            raise Violation(f"operation {n}: the next run ended with {last}")
        ledger = trouble.results / "counting"
        expected = expected or values(ledger)
        if values(ledger) != expected:
            raise Violation(f"operation {n}: {values(ledger)}")
        check_litter(ledger)
        shutil.rmtree(trouble.results)
    raise Violation("it never ends")


if __name__ == "__main__":
    print(main(Path(sys.argv[1])))
