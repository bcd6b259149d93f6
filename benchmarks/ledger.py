"""What a large ledger costs to export: seconds and peak memory, from nothing and with a few new trials.

    python benchmarks/ledger.py                           10,000 trials of 100 epochs of problem 4, on 2 cores
    python benchmarks/ledger.py --trials 1000 --keep DIR --json ledger.json

The ledger is written by farm.ledger.store as attempts write it, but for fsync, which is left out while it is made.
Then `farm export` runs on it as a user runs it, each time in a process of its own, whose memory the kernel reports:
cold (no export yet; the files are in the page cache), incremental (so many new trials), again (nothing new), and beside
so many trials that have no end but a commit. Every export is checked: each (trial, epoch) once.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import pyarrow.parquet as pq  # noqa: E402  # the lines above make the farm importable

from farm.ledger import durable  # noqa: E402
from farm.ledger.store import Attempt  # noqa: E402
from trials.spec import Row, Spec, parameter_defaults  # noqa: E402

MODULE = "trials.problem4"
BUDGET = {"cold": 30.0, "incremental": 10.0}
"""Seconds that an export of 1,000,000 rows may take on two cores."""
BUDGET_BYTES = 2**30


@dataclasses.dataclass(frozen=True)
class Measured:
    """One export: wall-clock, CPU time of all its threads, peak resident memory, rows in epochs.parquet."""

    what: str
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    rows: int


def make(ledger: Path, seeds: Sequence[int], epochs: int, ended: bool = True) -> None:
    """Make a trial for each seed, with rows as problem 4 has them: finished, or committed by an attempt now lost."""
    os.fsync, kept = lambda descriptor: None, os.fsync
    try:
        for seed in seeds:
            attempt = _claim(ledger, seed, epochs)
            rows = [_row(seed, e) for e in range(1, epochs + 1)]
            if ended:
                _finish(attempt, seed, rows)
            else:
                attempt.commit(epochs, b"state", rows)
    finally:
        os.fsync = kept


def _claim(ledger: Path, seed: int, epochs: int) -> Attempt:
    parameters = parameter_defaults(MODULE) | {"epochs": epochs}
    spec = Spec(MODULE, parameters, seed, 1, "synthetic", "f" * 64, 1, False, None)
    return Attempt.claim(ledger, spec, {"host": "node-1", "device": "cpu", "driver": "1-abc"})


def _finish(attempt: Attempt, seed: int, rows: Sequence[Row]) -> None:
    row = {"attempts": 1, "seconds": 60.0, "device": "cpu", "devices": "cpu", "host": "node-1"}
    row |= {"weights_sha256": hashlib.sha256(str(seed).encode()).hexdigest(), "farm_commit": "0" * 40}
    attempt.finish("completed", len(rows), rows, row, None)
    attempt.end("completed", {"from_epoch": 0, "epoch": len(rows)})


def _row(seed: int, epoch: int) -> Row:
    """Numbers without a pattern that compression could use."""
    noise = math.sin(seed * 12.9898 + epoch * 78.233) * 43758.5453 % 1.0
    losses = ("train_loss", "train_error", "validation_loss", "validation_error")
    row: Row = {name: (noise + i) / (epoch + i + 1) for i, name in enumerate(losses)}
    clocks: Row = {"train_seconds": 1 + noise, "evaluation_seconds": noise / 7, "wall_seconds": epoch * (1 + noise)}
    return row | clocks | {"epoch": epoch, "attempt": 1, "learning_rate": 0.1 / epoch, "steps": 781, "samples": 49984}


def export(results: Path, what: str, cores: Sequence[int]) -> Measured:
    """Run `farm export` on some cores; its time and its own peak memory. Raises where rows lack or repeat."""
    code = "import sys; from farm.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "export", "problem=4", "data=synthetic", f"results={results}"]
    began = time.perf_counter()
    pid = os.posix_spawn(sys.executable, command, os.environ | {"PYTHONPATH": str(ROOT)})
    os.sched_setaffinity(pid, cores)
    _, status, usage = os.wait4(pid, 0)
    seconds = time.perf_counter() - began
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"farm export ended with {os.waitstatus_to_exitcode(status)}")
    return Measured(
        what, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, _checked_rows(results / "problem4")
    )


def _checked_rows(ledger: Path) -> int:
    """Rows of the export; raises where an epoch of a finished trial is there twice or not at all."""
    table = pq.read_table(ledger / "export" / "epochs.parquet", columns=["trial_id", "epoch"])
    once = table.group_by(["trial_id", "epoch"]).aggregate([]).num_rows
    trials = pq.read_table(ledger / "export" / "trials.parquet", columns=["rows"])
    expected = sum(trials["rows"].to_pylist())
    done = sum((t / "done" / durable.MANIFEST).exists() for t in (ledger / "trials").iterdir())
    if not table.num_rows == once == expected or trials.num_rows != done:
        raise SystemExit(f"{table.num_rows} rows, {once} different, {expected} expected; {trials.num_rows} of {done}")
    return int(table.num_rows)


def measure(results: Path, trials: int, new: int, unfinished: int, epochs: int, cores: Sequence[int]) -> list[Measured]:
    """Make a ledger and export it, as the module's docstring says."""
    ledger = results / "problem4"
    make(ledger, range(trials - new), epochs)
    found = [export(results, "cold, all but the new", cores)]
    make(ledger, range(trials - new, trials), epochs)
    found += [export(results, f"incremental, {new} new", cores), export(results, "again, nothing new", cores)]
    if unfinished:
        make(ledger, range(trials, trials + unfinished), epochs, ended=False)
        found.append(export(results, f"beside {unfinished} unfinished", cores))
    shutil.rmtree(ledger / "export")
    return [*found, export(results, "cold", cores)]


def main() -> int:
    """Measure, print, and end with 1 where a figure is over its budget (at 1,000,000 rows only)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--new", type=int, default=100)
    parser.add_argument("--unfinished", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="make the ledger there and leave it")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    directory = options.keep or Path(tempfile.mkdtemp(prefix="farm-ledger-"))
    cores = sorted(os.sched_getaffinity(0))[: options.cores]
    began = time.perf_counter()
    found = measure(directory, options.trials, options.new, options.unfinished, options.epochs, cores)
    print(f"{options.trials} trials of {options.epochs} epochs, {len(cores)} cores, load {os.getloadavg()[0]:.1f}")
    for one in found:
        times = f"{one.seconds:8.1f} s{one.cpu_seconds:8.1f} s of CPU"
        print(f"{one.what:<24}{times}{one.peak_bytes / 2**20:8.0f} MiB{one.rows:>10} rows", flush=True)
    print(f"all of it, the making of the ledger included: {time.perf_counter() - began:.0f} s")
    if options.json:
        options.json.write_text(json.dumps([dataclasses.asdict(one) for one in found], indent=1))
    if options.keep is None:
        shutil.rmtree(directory)
    over = [
        m.what for m in found if m.seconds > BUDGET.get(m.what.split(",")[0], math.inf) or m.peak_bytes > BUDGET_BYTES
    ]
    return 1 if over and options.trials * options.epochs >= 1_000_000 else 0


if __name__ == "__main__":
    sys.exit(main())
