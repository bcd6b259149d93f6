"""What a farm costs a trial: slot-seconds beyond the trial's own time, ours beside what people use instead.

    python benchmarks/overhead.py                      64 trivial trials on 2 slots, about two minutes
    python benchmarks/overhead.py --trials 16 --repeats 3 --json overhead.json

Each contestant runs in a process of its own, in turn, `--repeats` times. `per trial` is (seconds from handing over
the first trial to the end of the last) x slots / trials: the trials themselves do nothing, so all of it is overhead.
Ray is up before that clock starts, for ours and for the two of Ray Tune alike; `command` is the whole process, Ray's
start and Python's imports included. Ours writes its ledger durably within that time; the others keep nothing that a
kill would survive.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)
STUDY = """\
study: trivial
problem: trivial
module: trivial
data: none
device: cpu
resources: {cpu: 1, gpu: 0}
"""
MODULE = """\
from dataclasses import dataclass
from trials.spec import Outcome, parameter

REVISION = 1


@dataclass(frozen=True)
class Parameters:
    number: int = parameter(0, "tells the trials apart")


def run(spec, context):
    yield [{"epoch": 1, "train_loss": 0.0}], None
    return Outcome("completed", {})
"""


def ours(trials: int, slots: int) -> float:
    """A study through farm.study.run; the clock covers farm.launch.run."""
    from farm.private import use_own_token

    use_own_token()  # Ray reads its mode as it is imported
    from farm import config, launch, study

    directory = Path.cwd()
    (directory / "trivial.yaml").write_text(STUDY)
    (directory / "trivial.py").write_text(MODULE)
    seconds = []
    run = launch.run

    def timed(*arguments: object, **named: object) -> None:
        began = time.perf_counter()
        run(*arguments, **named)  # type: ignore[arg-type]
        seconds.append(time.perf_counter() - began)

    launch.run = timed  # type: ignore[assignment]
    axis = f"sweep.number=[{','.join(map(str, range(trials)))}]"
    words = [f"study={directory / 'trivial.yaml'}", f"results={directory}", axis, f"cpus={slots}", "view=plain"]
    result = study.run(config.load(words), words)
    assert result.exit_code == 0
    return seconds[0]


def tune(trials: int, slots: int) -> float:
    """Ray Tune with a function, a process for each trial."""
    return _tune(trials, slots, reuse=False)


def tune_reusing_actors(trials: int, slots: int) -> float:
    """Ray Tune with reuse_actors: state of one trial is there in the next."""
    return _tune(trials, slots, reuse=True)


def _tune(trials: int, slots: int, reuse: bool) -> float:
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    import ray
    from ray import tune

    ray.init(address="local", num_cpus=slots, include_dashboard=False, log_to_driver=False)
    tuner = tune.Tuner(
        tune.with_resources(lambda config: {"loss": 0.0}, {"cpu": 1}),
        param_space={"number": tune.grid_search(list(range(trials)))},
        tune_config=tune.TuneConfig(reuse_actors=reuse),
        run_config=tune.RunConfig(storage_path=os.getcwd(), verbose=0),
    )
    began = time.perf_counter()
    results = tuner.fit()
    seconds = time.perf_counter() - began
    assert len(results) == trials
    assert not results.errors
    return seconds


def submitit_local(trials: int, slots: int) -> float:
    """submitit's local executor: a process for each trial, `slots` at a time."""
    import submitit

    executor = submitit.LocalExecutor(folder=os.getcwd())
    executor.update_parameters(timeout_min=10)
    waiting, running = list(range(trials)), []
    began = time.perf_counter()
    while waiting or running:
        while waiting and len(running) < slots:
            running.append(executor.submit(abs, waiting.pop()))
        running = [job for job in running if not job.done()]
        time.sleep(0.01)
    return time.perf_counter() - began


CONTESTANTS: dict[str, Callable[[int, int], float]] = {
    "ours": ours,
    "Ray Tune": tune,
    "Ray Tune, reuse_actors": tune_reusing_actors,
    "submitit, local": submitit_local,
}


def measure(name: str, trials: int, slots: int) -> dict[str, float]:
    """Run one contestant in a fresh process and an empty directory; its two figures."""
    command = [sys.executable, __file__, "--one", name, "--trials", str(trials), "--slots", str(slots)]
    with tempfile.TemporaryDirectory(prefix="overhead-") as directory:
        began = time.perf_counter()
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True)
        seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr}")
    inside = float(done.stdout.splitlines()[-1])
    return {"per_trial_slot_seconds": inside * slots / trials, "command_seconds": seconds}


def main() -> None:
    """Measure all contestants in turn and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", choices=CONTESTANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(CONTESTANTS[options.one](options.trials, options.slots))
        return
    found: dict[str, list[dict[str, float]]] = {name: [] for name in CONTESTANTS}
    for _ in range(options.repeats):
        for name, figures in found.items():
            figures.append(measure(name, options.trials, options.slots))
    load = os.getloadavg()[0]
    print(f"{options.trials} trivial trials on {options.slots} slots, median of {options.repeats}; load {load:.1f}")
    print(f"{'':<24}{'slot-seconds per trial':>24}{'command, s':>14}")
    for name, figures in found.items():
        per_trial, command = (
            statistics.median(f[k] for f in figures) for k in ("per_trial_slot_seconds", "command_seconds")
        )
        print(f"{name:<24}{per_trial:>24.2f}{command:>14.1f}")
    if options.json:
        options.json.write_text(json.dumps({"trials": options.trials, "slots": options.slots, "runs": found}, indent=1))


if __name__ == "__main__":
    main()
