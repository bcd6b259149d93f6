"""A seeded campaign of faults against the ledger: what remains must be what an undisturbed run leaves.

    python tests/faults/campaign.py --faults 2000             or --minutes 30; --seed repeats a campaign
    python tests/faults/campaign.py --only 17 --seed 4        one round, with the drivers' output kept

A round is a fresh ledger on which several drivers run the same small training one after another, each with one fault.
Then the same command runs undisturbed and the oracle looks: every (trial, epoch) once, rows and weights equal to the
undisturbed run's in all columns that no clock or host produced, attempts recorded, nothing temporary left behind.
Drivers are forked from this process (torch is imported once) and run the real command line with executor=inline.
Nine rounds of ten have their dataset drawn beforehand and leave out the figure at a run's end, neither of which
touches the ledger: a driver takes 0.6 s instead of 2 s, and a kill at any instant falls into the ledger's work.
"""

from __future__ import annotations

import argparse
import collections
import functools
import gc
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
if str(ROOT) not in sys.path:
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "faults"), str(ROOT / "tests" / "studies")]

import faults  # noqa: E402  # the lines above make it importable
import mounts  # noqa: E402
from oracle import Oracle, Violation, check_ends, check_none_lost  # noqa: E402

FAULTS = faults.FAULTS | mounts.FAULTS
STUDY = (
    "problem=4", "profile=smoke", "executor=inline", "commit_seconds=0", "drain_seconds=0", "back_off_seconds=0",
    "view=plain", "trial.epochs=4", "trial.batch_size=16", "trial.train_examples=16", "trial.validation_examples=8",
    "sweep.M=[1,2]", "extra=[]",
)  # fmt: skip


@dataclass
class Driver:
    """One run of the command in a forked process, and how it ended."""

    pid: int
    status: int | None = None

    def poll(self) -> int | None:
        """Exit code, negative for a signal; None while it runs."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status

    def wait(self, seconds: float) -> int | None:
        """Exit code, or None when it still runs after `seconds`."""
        deadline = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        return self.status

    def signal(self, number: int) -> None:
        """Signal the process group, if it still exists."""
        if self.poll() is None:
            try:
                os.killpg(self.pid, number)
            except ProcessLookupError:  # it has not yet become the leader of its group
                os.kill(self.pid, number)


@dataclass
class Round:
    """One ledger and the faults that it met."""

    results: Path
    chance: random.Random
    words: tuple[str, ...] = STUDY
    entry: Callable[[list[str]], int] | None = None
    """What a driver runs with the words; None: the command line's main."""
    met: list[str] = field(default_factory=list)
    drivers: dict[int, str] = field(default_factory=dict)
    """The fault that each driver met, by its pid; "" for the undisturbed one at the end."""
    figure: bool = True
    longest: float = 1.2
    """Seconds that an undisturbed run takes; kills and signals fall within them."""

    def start(self, prepare: Any = None) -> Driver:
        """Fork a driver; `prepare()` runs in it first and may plant a fault."""
        sys.stdout.flush()
        pid = os.fork()
        if pid:
            self.drivers[pid] = self.met[-1] if self.met else ""
            return Driver(pid)
        code = 70
        try:
            os.setsid()
            log = os.open(self.results.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            from farm import cli

            if not self.figure:
                cli._main_results = lambda config, plan: []
            if prepare is not None:
                prepare()
            words = [*self.words, f"results={self.results}"]
            code = cli.main(["run", *words]) if self.entry is None else self.entry(words)
            sys.stdout.flush()
        except BaseException:
            import traceback

            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)

    def finish(self) -> int:
        """The undisturbed run at the end; its exit code."""
        driver = self.start()
        self.drivers[driver.pid] = ""
        code = driver.wait(120)
        if code is None:
            driver.signal(signal.SIGKILL)
            raise Violation("the last run hangs")
        return code


@dataclass
class Report:
    """What a campaign met and found."""

    faults: collections.Counter[str] = field(default_factory=collections.Counter)
    rounds: int = 0
    violations: list[str] = field(default_factory=list)


def prepare_parent(figure: bool = True) -> None:
    """Import once what every driver would import."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import pyarrow as pa

    names = ("farm.inline", "farm.ledger.export", "farm.study", "trials.preload")
    for name in (*names, "analysis.report") if figure else names:
        importlib.import_module(name)
    pa.array([0])
    _beat_faster()
    gc.freeze()  # else each child's first collection copies all pages of these modules


def _beat_faster() -> None:
    """Three heartbeats pass before a lock with a damaged file is taken over: 15 s of waiting in each such round."""
    from farm import study

    study.LedgerLock = functools.partial(study.LedgerLock, heartbeat_seconds=0.2)  # type: ignore[assignment,misc]


def undisturbed(directory: Path) -> tuple[Oracle, float]:
    """The oracle, an undisturbed run of the same command, and the seconds that one takes in most rounds."""
    calm, again = Round(directory / "calm", random.Random(0)), Round(directory / "again", random.Random(0))
    for one in (calm, again):
        began = time.monotonic()
        if (code := one.finish()) != 0:
            raise SystemExit(f"the undisturbed run ended with {code}: {one.results.with_suffix('.log').read_text()}")
        if one is calm:
            prepared(again, calm.results)
    oracle = Oracle(calm.results / "problem4")
    oracle.check(again.results / "problem4")
    return oracle, time.monotonic() - began


def prepared(round: Round, calm: Path) -> None:
    """Lend a round the dataset that was drawn for the undisturbed run, and spare it the figure."""
    round.results.mkdir(exist_ok=True)
    (round.results / ".cache").symlink_to(calm / ".cache")
    round.figure = False


def run_round(seed: str, directory: Path, oracle: Oracle, longest: float, most: int = 5) -> Round:
    """One round of 1 to `most` faults. Raises `Violation`."""
    chance = random.Random(seed)
    trouble = Round(directory / f"round-{seed.replace('/', '-')}", chance, longest=longest)
    if chance.random() < 0.9:
        prepared(trouble, directory / "calm")
    for _ in range(chance.randint(1, most)):
        name = chance.choice(sorted(FAULTS))
        trouble.met.append(name)
        FAULTS[name](trouble)
    code = trouble.finish()
    if code != 0:
        raise Violation(f"the last run ended with {code}")
    oracle.check(trouble.results / "problem4")
    check_ends(trouble.results / "problem4", {pid: faults.ends_after(name) for pid, name in trouble.drivers.items()})
    if faults.ORDERLY.issuperset(trouble.met):
        check_none_lost(trouble.results / "problem4")
    return trouble


def campaign(seed: int, most_faults: int, seconds: float, directory: Path, only: int | None = None) -> Report:
    """Rounds until so many faults or seconds; violations are collected, their ledgers kept."""
    prepare_parent()
    oracle, longest = undisturbed(directory)
    report, began = Report(), time.monotonic()
    numbers = [only] if only is not None else range(10**9)
    for number in numbers:
        name = f"{seed}/{number}"
        try:
            done = run_round(name, directory, oracle, longest)
            report.faults.update(done.met)
            if only is None:
                shutil.rmtree(done.results)
                done.results.with_suffix(".log").unlink(missing_ok=True)
        except Violation as violation:
            report.violations.append(f"round {name}: {violation}")
            print(report.violations[-1], flush=True)
        report.rounds += 1
        if report.rounds % 50 == 0:
            seconds_so_far = time.monotonic() - began
            print(f"{report.faults.total()} faults in {report.rounds} rounds, {seconds_so_far:.0f} s", flush=True)
        if report.faults.total() >= most_faults or time.monotonic() - began > seconds:
            break
    return report


def main() -> int:
    """Run a campaign and print its table; exit 1 when it found anything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=10**9)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--only", type=int, help="this round alone")
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="farm-faults-"))
    print(f"seed {options.seed}, in {directory}", flush=True)
    report = campaign(options.seed, options.faults, options.minutes * 60, directory, options.only)
    for name, count in sorted(report.faults.items()):
        print(f"{count:>6}  {name}: {FAULTS[name].__doc__}")
    print(f"{report.faults.total()} faults in {report.rounds} rounds, {len(report.violations)} violations")
    if not report.violations and options.only is None:
        shutil.rmtree(directory)
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
