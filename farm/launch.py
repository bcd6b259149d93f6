"""Ray Tune runs what the plan left: each trial with its own bundle, each attempt in a fresh child process.

The only module that imports `ray.tune`. Tune decides where and when; whether a trial is done, only the ledger
says. Tune's own files are scratch.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # else thousands of small files
os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # signals are the driver's own
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"

import ray
from ray import tune
from ray.job_config import JobConfig
from ray.tune import Callback, CheckpointConfig, FailureConfig, RunConfig, Stopper, Trainable, TuneConfig
from ray.tune.experiment import Trial as TuneTrial

from farm import failures
from farm.attempt import Request
from farm.config import ROOT
from farm.forkclient import STUDY_DIRECTORY, ForkClient, see_study_modules
from farm.killed import record_killed
from farm.ledger.store import drain_file
from farm.plan import Bundle, Node
from farm.private import scratch_directory
from farm.reservation import first_gpus, reservation
from farm.signals import Signals
from farm.view import View

STEP_SECONDS = 1.0
CONNECT_SECONDS = 10.0
PENDING_TRIALS = "100"
LOOK_SECONDS = 5.0
NOT_BEGUN = "not begun"
"""What became of a trial that Tune handed out during a drain: no attempt at it was begun."""


class Interrupted(Exception):
    """An attempt fell to an infrastructure failure; Tune starts the trial again."""


class Preempted(Interrupted):
    """The node is taken away from the trial; Tune starts it again, and it counts as no failure."""


class RayDied(Exception):
    """The one node of a Ray of our own has died: nothing could ever run again, and Tune would wait for ever."""


@dataclass(frozen=True)
class Job:
    """One trial to run, as Tune hands it to an actor."""

    label: str
    bundle: Bundle
    request: Request


class TrialActor(Trainable):
    """Tune's actor: holds the trial's CPUs and GPUs, forks the attempt and passes its progress on.

    It is reused from trial to trial and never touches CUDA itself.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Called once for an actor, with its first trial."""
        see_study_modules()
        self._client: ForkClient | None = None
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Called when the actor is given another trial."""
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        self._config = config
        self._request = Request(**config["request"])
        self._trial = self._request.trial
        self._drain = drain_file(Path(self._request.ledger), config["run"])
        self._stopping = False
        self._claimed = 0
        self._ended: dict[str, Any] | None = None
        self._end: dict[str, Any] | None = None
        self._progress: dict[str, Any] = {}
        self._started = False

    def _start(self) -> None:
        """Fork the attempt. Not before the first step: Tune makes an actor with one trial's configuration and may
        give it another trial, since the first has found an actor meanwhile; it would run twice."""
        config, self._started = self._config, True
        if self._draining():
            self._end = {"how": NOT_BEGUN}
            return
        driver = self._request.info.get("driver")
        until = time.monotonic() + failures.back_off(self._trial, driver, self._request.back_off_seconds)
        while time.monotonic() < until:
            time.sleep(0.2)
            if self._draining():
                self._end = {"how": "drained"}
                return
        if self._client is None:
            self._client = ForkClient(config["run"], (self._request.spec["module"],))
        gpus = ",".join(map(str, ray.get_gpu_ids()))
        visible = first_gpus(os.environ.get("CUDA_VISIBLE_DEVICES", ""), config["gpu"])
        info = {"gpu_ids": gpus, "visible_devices": visible, "node_id": ray.get_runtime_context().get_node_id()}
        request = Request(**(config["request"] | {"info": self._request.info | info}))
        self._kernel_kills = failures.kernel_kills()
        self._client.start(request, {"CUDA_VISIBLE_DEVICES": visible})

    def step(self) -> dict[str, Any]:
        """Wait at most a second for the attempt; raises `Interrupted` or `Preempted` when the trial is to go on."""
        if not self._started:
            self._start()
        deadline = time.monotonic() + STEP_SECONDS
        while self._end is None and (left := deadline - time.monotonic()) > 0:
            assert self._client is not None
            for message in self._client.messages(left):
                self._take(message)
            if self._draining() and not self._stopping:
                self._stopping = True
                self._client.stop()
        if self._end is not None and self._goes_on(self._end):
            error = Preempted if self._end["how"] == "drained" else Interrupted
            raise error(self._end.get("error", "").rpartition("\n")[2] or self._end["how"])
        return {"done": self._end is not None, "progress": self._progress, "end": self._end or {}}

    def _goes_on(self, end: dict[str, Any]) -> bool:
        """Whether Tune is to start the trial again, here or on another node."""
        if end["how"] == "drained":
            return end.get("failure") == "preempted" and not self._draining()
        driver = self._request.info.get("driver")
        spent = len(failures.recent(self._trial, driver)) > self._config["retries"]
        return end["how"] in ("interrupted", "killed") and not spent and not failures.is_hopeless(self._trial, driver)

    def _take(self, message: dict[str, Any]) -> None:
        if "progress" in message:
            self._progress = message["progress"]
        elif "ended" in message:
            self._ended = message["ended"]
        elif "claimed" in message:
            self._claimed = message["claimed"]
        elif "exit" in message:  # the child is gone for certain, and with it what it held of the GPU
            self._end = self._ended or record_killed(
                self._request, self._claimed, message["exit"], failures.kernel_kills() > self._kernel_kills
            )

    def _draining(self) -> bool:
        return self._drain.exists()

    def cleanup(self) -> None:
        """Tune ends the actor: so does a child that still runs."""
        if self._client is not None:
            self._client.close()


class _Unsaved:
    """Tune pickles what it is given, into files that are never read: there is nothing to save."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Events(_Unsaved, Callback):
    """Passes Tune's events on to the view. Tune ends the whole run when a callback raises, so it must not."""

    def __init__(self, view: View) -> None:
        self._view = view

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._view.started(trial.config["label"])

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        if result.get("progress"):
            self._view.progress(trial.config["label"], result["progress"])
        if result.get("end"):
            how = result["end"]["how"]
            end = self._view.given_back if how == NOT_BEGUN else functools.partial(self._view.ended, how=how)
            end(trial.config["label"])

    def on_trial_recover(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        if f"{__name__}.{Preempted.__name__}: " in _last_error(trial):
            trial.run_metadata.num_failures -= 1
        self._view.waits_again(trial.config["label"])

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        label = trial.config["label"]
        self._view.ended(label, "interrupted")
        if last := _last_error(trial):
            self._view.say(f"            {label}: {last.rpartition('Interrupted: ')[2]}")


def _last_error(trial: TuneTrial) -> str:
    """The last line that Tune has written of a trial's failures."""
    text = Path(trial.error_file).read_text().strip() if trial.error_file else ""
    return text.rpartition("\n")[2]


class _DrainStopper(_Unsaved, Stopper):
    """Stops the experiment when a drain was asked for and every trial that ran then has ended, or for so long has not.

    With a Ray of our `own` it looks after its node too, and raises `RayDied`.
    """

    def __init__(self, view: View, stopping: Callable[[], bool], own: bool, patience: float) -> None:
        self._view, self._stopping, self._own = view, stopping, own
        self._patience = patience
        self._since: float | None = None
        self._looked = time.monotonic()

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        if self._own and time.monotonic() - self._looked > LOOK_SECONDS:
            self._looked = time.monotonic()
            if not nodes():
                raise RayDied("the Ray of this run has died; what was committed stays, and the same command goes on")
        self._view.tick()
        if not self._stopping():
            return False
        if self._since is None:
            self._since = time.monotonic()
            self._view.freeze()
        return not self._view.frozen_running or time.monotonic() - self._since > self._patience


def nodes() -> list[Node]:
    """What each living node of the connected cluster can hold."""
    alive = [n["Resources"] for n in ray.nodes() if n["Alive"]]  # type: ignore[no-untyped-call]
    return [Node(r.get("CPU", 0.0), r.get("GPU", 0.0)) for r in alive]


class _OwnPaths(JobConfig):
    """Without what Ray adds for workers: the driver's current directory, ahead of all else on their path.

    That is often a study's, where an analysis.py or a random.py would hide the farm's or the library's.
    """

    def _serialize(self) -> Any:
        self._py_driver_sys_path.clear()
        return super()._serialize()


def connect(address: str | None, cpus: int | None, gpus: int | None, modules: Path) -> None:
    """Join the cluster at `address`, or start a Ray of our own, apart from any other on the machine.

    `modules` is the directory of the study's own trial module, which actors import too.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    variables = {"PYTHONPATH": path, STUDY_DIRECTORY: str(modules)}
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address and address != "local":
        _check_answers(address)
        if not address.startswith("ray://"):  # a client adds nothing, and the server could not unpickle it
            quiet["job_config"] = _OwnPaths()
        ray.init(address=address, runtime_env={"env_vars": variables}, **quiet)
        return
    os.environ |= variables | failures.NO_MEMORY_MONITOR
    os.environ.pop("RAY_ADDRESS", None)
    with _process_groups_of_their_own():
        try:
            ray.init(
                address="local",
                num_cpus=cpus,
                num_gpus=gpus,
                include_dashboard=False,
                job_config=_OwnPaths(),
                **quiet,
            )
        except ValueError as error:  # gpus=2 where CUDA_VISIBLE_DEVICES shows fewer
            raise ConnectionError(str(error)) from None
        except FileNotFoundError as error:
            raise ConnectionError(f"{error.filename} cannot be made; ${_place()} says where its files go") from None
        except OSError as error:
            if "AF_UNIX" not in str(error):
                raise
            raise ConnectionError(f"{error}; {_place()}=/tmp is short enough") from None


def _place() -> str:
    """The variable that says where a Ray of our own has its files."""
    return "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"


@contextlib.contextmanager
def _process_groups_of_their_own() -> Iterator[None]:
    """Processes started meanwhile do not get the signals of the driver's group.

    `timeout`, a shell's `kill -- -PGID` and Slurm's scancel signal the whole group: Ray would die first, and the driver
    could no longer drain. Ray starts its processes through `subprocess` and offers no such option of its own.
    """
    start = subprocess.Popen.__init__
    subprocess.Popen.__init__ = functools.partialmethod(start, process_group=0)  # type: ignore[assignment]
    try:
        yield
    finally:
        subprocess.Popen.__init__ = start  # type: ignore[method-assign]


def _check_answers(address: str) -> None:
    """Raise ConnectionError where nobody listens: Ray itself goes on trying for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():  # "auto": Ray looks the address up
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise ConnectionError(f"nothing answers at {address}: {error.strerror or error}") from None


def disconnect() -> None:
    """Leave the cluster; a Ray of our own ends."""
    ray.shutdown()


def run(
    jobs: Sequence[Job],
    run_id: str,
    view: View,
    signals: Signals,
    retries: int,
    patience: float,
    kinds: Mapping[str, Node] | None = None,
    own: bool = False,
) -> None:
    """Run all jobs on the connected cluster; returns when each has ended, or after a drain.

    A drain waits `patience` seconds for the trials that run; then they are ended.
    `kinds` are the workers that Ray's autoscaler can make, where it does: a trial then runs on the smallest kind that
    holds it, and on no other. Raises `RayDied` where the node of a Ray of our `own` has died.
    """
    cluster = nodes() if kinds is None else list(kinds.values())
    if kinds is not None:
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = PENDING_TRIALS  # so many can wait for workers at once
    configs = [
        {
            "request": job.request.as_dict(),
            "label": job.label,
            "run": run_id,
            "gpu": job.bundle.gpu,
            "retries": retries,
            "reserved": reservation(job.bundle, cluster, kinds),
        }
        for job in jobs
    ]
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the ledger has each failure, with its log
    with scratch_directory() as scratch:
        tuner = tune.Tuner(
            tune.with_resources(TrialActor, _placement),
            param_space=tune.grid_search(configs),
            tune_config=TuneConfig(reuse_actors=True, max_concurrent_trials=None),
            run_config=RunConfig(
                name="tune",
                storage_path=str(scratch),
                verbose=0,
                stop=_DrainStopper(view, signals.stopping, own, patience),
                callbacks=[_Events(view)],
                # The ledger counts (`TrialActor._goes_on`). Tune's own bound is for actors that end without a
                # record, and one above, or `retries=0` would not let a preempted trial go on.
                failure_config=FailureConfig(max_failures=retries + 1),
                checkpoint_config=CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            ),
        )
        tuner.fit()


def _placement(config: dict[str, Any]) -> tune.PlacementGroupFactory:
    """One bundle: one node holds the whole trial."""
    return tune.PlacementGroupFactory([config["reserved"]])
