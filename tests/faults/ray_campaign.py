"""The campaign with Ray: faults among the processes of a real run, then the same command, then the oracle.

    python tests/faults/ray_campaign.py --faults 50 --seed 1

A round is one ledger. Each fault strikes a run of the command between its first attempt and its end: the driver, a
trial's process, the fork server, the raylet or all of Ray. Kills go to processes that this campaign started. A fault
that found nothing to strike, since the run had ended, is not counted.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "faults")]

from oracle import Oracle, Violation, check_ends  # noqa: E402  # the line above makes it importable

from farm.ledger.scan import attempt_records  # noqa: E402

STUDY = (
    "problem=4", "profile=smoke", "commit_seconds=0", "drain_seconds=0", "back_off_seconds=0.1", "cpus=2", "view=plain",
    "trial.epochs=20", "trial.batch_size=16", "trial.train_examples=32", "trial.validation_examples=8",
    "sweep.M=[1,2,4]", "seeds=[0,1]", "extra=[]",
)  # fmt: skip

LINGERING_SECONDS = 120
"""How long Ray's own processes may outlive a killed driver; 12 s were seen on an idle machine."""
LONGEST_SECONDS = 300
"""After which a run hangs; 20 s are usual on an idle machine."""


def start(results: Path) -> subprocess.Popen[bytes]:
    """A run, as the leader of its own process group."""
    with results.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "farm" / "run.py"), *STUDY, f"results={results}"],
            env={k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {"OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def family(run: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The run's descendants, Ray's processes among them, and its fork server with the trials, who is nobody's child."""
    try:
        own = psutil.Process(run.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        own = []
    known = {p.pid for p in own}
    servers = (p for p in psutil.process_iter() if p.pid not in known and f"/{run.pid}-" in line_of(p))
    return own + [p for p in servers if "farm.forkserver" in line_of(p)]


def line_of(process: psutil.Process) -> str:
    """A process's command line; "" for one that is gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def named(run: subprocess.Popen[bytes], *words: str) -> list[psutil.Process]:
    """Processes of the run whose command line has one of the words."""
    return [p for p in family(run) if any(word in line_of(p) for word in words)]


def kill(processes: list[psutil.Process], number: int = signal.SIGKILL) -> bool:
    """Signal processes that may have ended meanwhile; whether one was still there."""
    struck = False
    for process in processes:
        try:
            process.send_signal(number)
            struck = True
        except psutil.NoSuchProcess:
            pass
    return struck


def driver_group(run: subprocess.Popen[bytes], chance: random.Random) -> bool:
    """kill -9 of the driver's process group"""
    os.killpg(run.pid, signal.SIGKILL)
    return True


def driver_alone(run: subprocess.Popen[bytes], chance: random.Random) -> bool:
    """kill -9 of the driver alone: Ray and the trials outlive it for seconds"""
    os.kill(run.pid, signal.SIGKILL)
    return True


def trial_process(run: subprocess.Popen[bytes], chance: random.Random) -> bool:
    """kill -9 of one trial's process"""
    servers = named(run, "farm.forkserver")
    children = [c for c in servers if any(p.pid == c.ppid() for p in servers)]
    return bool(children) and kill([chance.choice(children)])


def fork_server(run: subprocess.Popen[bytes], chance: random.Random) -> bool:
    """kill -9 of the node's fork server, with all its trials"""
    servers = named(run, "farm.forkserver")
    return kill([p for p in servers if all(p.ppid() != q.pid for q in servers)])


def actor(run: subprocess.Popen[bytes], chance: random.Random) -> bool:
    """kill -9 of an actor that holds a trial"""
    actors = named(run, "ray::ResourceTrainable", "ray::TrialActor")
    return bool(actors) and kill([chance.choice(actors)])


def agent(run: subprocess.Popen[bytes], chance: random.Random) -> bool:
    """kill -9 of one of Ray's agents: the raylet ends itself"""
    agents = named(run, "ray::DashboardAgent", "ray::RuntimeEnvAgent")
    return bool(agents) and kill([chance.choice(agents)])


def raylet(run: subprocess.Popen[bytes], chance: random.Random) -> bool:
    """kill -9 of the raylet"""
    return kill(named(run, "raylet/raylet"))


def whole_node(run: subprocess.Popen[bytes], chance: random.Random) -> bool:
    """kill -9 of every process of Ray, head included"""
    return kill(named(run, "ray/core", "ray::", "ray/_private", "ray/dashboard", "ray/autoscaler"))


def terminate(run: subprocess.Popen[bytes], chance: random.Random) -> bool:
    """SIGTERM to the driver"""
    os.kill(run.pid, signal.SIGTERM)
    return True


def interrupt(run: subprocess.Popen[bytes], chance: random.Random) -> bool:
    """SIGINT to the driver's process group, as a terminal sends it"""
    os.killpg(run.pid, signal.SIGINT)
    return True


FAULTS: tuple[Callable[[subprocess.Popen[bytes], random.Random], bool], ...] = (
    driver_group, driver_alone, trial_process, fork_server, actor, agent, raylet, whole_node, terminate, interrupt,
)  # fmt: skip


def ends_after(fault: str) -> frozenset[str]:
    """How attempts of a run that met a fault ("" for none) can end: no drain after a kill, no loss after a signal."""
    if fault in ("terminate", "interrupt"):
        return frozenset({"completed", "drained"})
    kills = {"": set(), "trial_process": {"killed"}}
    return frozenset({"completed"} | kills.get(fault, {"killed", "lost"}))


def strike(results: Path, chance: random.Random, ends: dict[int, frozenset[str]]) -> tuple[str, bool, str]:
    """One run with one fault: the fault's name, whether it found its target, and how the run ended.

    `ends` is told, by the driver's pid, how attempts of this run can have ended.
    """
    before = len(list(attempt_records(results / "problem4")))
    run = start(results)
    while run.poll() is None and len(list(attempt_records(results / "problem4"))) == before:
        time.sleep(0.05)
    time.sleep(chance.uniform(0, 2))
    fault = chance.choice(FAULTS)
    watched = family(run)
    struck = run.poll() is None and fault(run, chance)
    ends[run.pid] = ends_after(fault.__name__ if struck else "")
    try:
        run.wait(LONGEST_SECONDS)
    except subprocess.TimeoutExpired:
        kill(family(run))
        run.kill()
        run.wait()
        raise Violation(f"{fault.__name__}: the run hangs") from None
    finally:
        living = psutil.wait_procs(watched, timeout=LINGERING_SECONDS)[1]
        left = [line_of(p)[:100] for p in living if p.is_running()]
        kill(living)
    if left:
        raise Violation(f"{fault.__name__}: {left} live on after {LINGERING_SECONDS} s")
    return fault.__name__, struck, str(run.returncode)


def main() -> int:
    """Run the campaign; exit 1 when it found anything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="farm-ray-faults-"))
    print(f"seed {options.seed}, in {directory}", flush=True)
    calm = start(directory / "calm")
    if calm.wait(300):
        raise SystemExit((directory / "calm.log").read_text())
    oracle = Oracle(directory / "calm" / "problem4")
    chance, seen, violations, number = random.Random(options.seed), collections.Counter[str](), 0, 0
    while seen.total() < options.faults:
        results = directory / f"round-{number}"
        number += 1
        ends: dict[int, frozenset[str]] = {}
        try:
            for _ in range(chance.randint(1, 4)):
                fault, struck, ending = strike(results, chance, ends)
                seen[fault] += struck
                print(f"round {number}: {fault} {'struck' if struck else 'came late'} -> {ending}", flush=True)
            last = start(results)
            if last.wait(LONGEST_SECONDS):
                raise Violation(f"the last run ended with {last.returncode}")
            oracle.check(results / "problem4")
            check_ends(results / "problem4", ends | {last.pid: ends_after("")})
            shutil.rmtree(results)
        except Violation as violation:
            violations += 1
            print(f"round {number}: {violation}", flush=True)
    for fault in FAULTS:
        print(f"{seen[fault.__name__]:>6}  {fault.__name__}: {fault.__doc__}")
    print(f"{seen.total()} faults in {number} rounds, {violations} violations")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
