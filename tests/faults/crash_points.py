"""A driver dies before the n-th operation on its ledger, for every n; the same command must set all right.

    python tests/faults/crash_points.py DIRECTORY [SCENE …]

Operations are opening, writing, syncing, linking, renaming, making and removing. Prints how many there were.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
from campaign import ROOT, Round, prepare_parent
from faults import on_operation
from oracle import Violation, check_attempts, check_litter

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


def prune(words: list[str]) -> int:
    """`farm prune` of the same ledger."""
    from farm import cli

    return cli.main(["prune", "--yes", *words])


@dataclass(frozen=True)
class Scene:
    """What came before the driver that dies, and what that driver does. After it the study is run to its end."""

    before: tuple[int, ...]
    """Operations before which earlier drivers died; -1: one that came to its end."""
    entry: Callable[[list[str]], int] = run_study
    spoil: Callable[[Path], None] = lambda ledger: None
    """What happens to the ledger in between."""


def rot(ledger: Path) -> None:
    """The manifest of every finished trial is damaged, and the export is lost."""
    for manifest in ledger.glob("trials/*/done/manifest.json"):
        manifest.write_text("{}")
    shutil.rmtree(ledger / "export", ignore_errors=True)


SCENES = {
    "a first run": Scene(()),
    "a run after two that died": Scene((60, 60)),
    "a run over damaged results": Scene((-1,), spoil=rot),
    "farm prune": Scene((60, -1), prune),
}


def crash_everywhere(scene: Scene, directory: Path) -> int:
    """Die before each operation of a scene in turn; how many there were. Raises `Violation`."""
    expected: list[tuple[int, int]] = []
    ready = Round(directory / "ready", random.Random(0), WORDS, run_study)
    for death in scene.before:
        ready.start(lambda n=death: dying_at(n)).wait(60)
    scene.spoil(ready.results / "counting")
    for n in range(-1, 10_000):  # -1: the undisturbed run
        trouble = Round(directory / str(n), random.Random(n), WORDS, scene.entry)
        if scene.before:
            shutil.copytree(ready.results, trouble.results)
        code = trouble.start(lambda n=n: dying_at(n)).wait(60)
        if n >= 0 and code == 0:
            return n
        if code != (-signal.SIGKILL if n >= 0 else 0):
            raise Violation(f"operation {n}: the driver ended with {code}")
        trouble.entry = run_study
        if (last := trouble.finish()) != 0:
            raise Violation(f"operation {n}: the next run ended with {last}")
        ledger = trouble.results / "counting"
        expected = expected or values(ledger)
        if values(ledger) != expected:
            raise Violation(f"operation {n}: {values(ledger)}")
        check_litter(ledger)
        check_attempts(ledger)
        shutil.rmtree(trouble.results)
    raise Violation("it never ends")


def main(directory: Path, names: list[str]) -> int:
    """Go through all operations of these scenes; their number. Raises `Violation`."""
    prepare_parent(figure=False)
    total = 0
    for name in names:
        place = directory / name.replace(" ", "-")
        place.mkdir(parents=True)
        found = crash_everywhere(SCENES[name], place)
        print(f"{name}: {found} operations", file=sys.stderr, flush=True)
        total += found
    return total


if __name__ == "__main__":
    print(main(Path(sys.argv[1]), sys.argv[2:] or list(SCENES)))
