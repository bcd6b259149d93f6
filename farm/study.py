"""One run of a study: preflight, lock, plan, execute, plan again, export. What remains is said, with an exit code."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import secrets
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from farm import budget, data_check, elsewhere, provenance, renamed
from farm import plan as planning
from farm.attempt import Request
from farm.checks import counted
from farm.config import Config
from farm.errors import COMPLETE, FAILED, PreflightError, UsageError
from farm.ledger.declared import check_columns
from farm.ledger.durable import read_json, write_file
from farm.ledger.lock import LedgerLock
from farm.ledger.scan import DONE, STUDY, directories, has_finished, scan, trial_directories, trial_id
from farm.ledger.store import directory_name, drain_file, quarantine, spec_of
from farm.ledger.tidy import sweep_ledger
from farm.plan import Node, Plan, Trial
from farm.signals import Signals
from farm.site import drain_patience
from farm.slurm.cluster import FARM_UP, cluster_at, kinds_that_are_up
from farm.view import View, counts
from trials.spec import Spec

if TYPE_CHECKING:
    from farm.ledger.export import Export

UP = "up"
"""`ray_address=up`: the cluster of `farm up`."""
PATIENCE = {"RAY_gcs_rpc_server_reconnect_timeout_s": "15"}
"""A driver whose head is silent for so long gives up, and farm/slurm/there.py starts another; Ray would take 60 s."""

STARTING = "stopping: no trial begins; the run ends as soon as Ray has started, in a few seconds"
"""What a signal is answered with meanwhile."""


@dataclass(frozen=True)
class Result:
    """A run's end: the exit code, the plan as it stands then, the exported tables, and predicted against actual."""

    exit_code: int
    plan: Plan
    tables: dict[str, Path]
    comparison: str = ""


def make_plan(config: Config, nodes: list[Node] | None = None, estimate: bool = True) -> Plan:
    """The plan of a configuration against its ledger. `nodes` None: this machine's, unless a cluster is named.

    Without `estimate` no finished trial is read for what the others will take. Raises `ModuleError` where the trial
    module declares wrong columns, and what `planning.specs` and `planning.chosen` raise.
    """
    from farm.history import estimated_seconds

    check_columns(config.settings.module)
    grid = planning.specs(config, _fingerprint(config), _hardware(config))
    if config.with_finished:
        grid += finished_outside(config, grid)
    ids = planning.chosen(config, [s.id for s, _ in grid])
    wanted = [s for s, _ in grid if s.id in ids]
    if nodes is None:
        nodes = local_nodes(config)
    states = scan(config.ledger)
    digest = provenance.source_digest(config.settings.module)
    missing = [s for s in wanted if s.id not in states or states[s.id].state != "done"]
    epochs_done = {i: progress.epoch for i, progress in states.items()}
    on_gpu = {s.id: _device(config, bundle) != "cpu" for s, bundle in grid}
    seconds = estimated_seconds(config.ledger, missing, epochs_done, on_gpu) if estimate else {}
    plan = planning.make(config, grid, states, nodes, digest, seconds)
    told = renamed.remark(config.ledger, config.settings.module, {s.revision for s, _ in grid}, states)
    return dataclasses.replace(plan, remark=told)


def finished_outside(
    config: Config, grid: Sequence[tuple[Spec, planning.Bundle]] | None = None
) -> list[tuple[Spec, planning.Bundle]]:
    """What of the study has finished outside the grid, but differs from it only in what is swept, and in seeds."""
    from farm.ledger.schema import fits_columns

    fingerprint, hardware = _fingerprint(config), _hardware(config)
    known = {s.id for s, _ in grid or planning.specs(config, fingerprint, hardware)}
    paths = [p for p in trial_directories(config.ledger) if trial_id(p) not in known and has_finished(p)]
    others = [(trial_id(p), spec) for p in paths if (spec := spec_of(p)) is not None]
    own = [(i, s) for i, s in others if s.module == config.settings.module and fits_columns(s)]
    return planning.kin(config, fingerprint, hardware, own)


def local_nodes(config: Config) -> list[Node]:
    """This machine as one node; nothing when the run joins a cluster, whose nodes only Ray knows.

    `executor=inline` counts no CPUs, and no GPUs where it is to run on the CPU. Where `gpus=` says how many there are,
    they need not be real.
    """
    settings = config.settings
    inline = settings.executor == "inline"
    if inline and settings.device == "cpu":
        return []
    if not inline and cluster_address(config):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if inline and settings.gpus is None and any(v.strip().startswith(("GPU-", "MIG-")) for v in visible):
        return []  # what these names stand for nothing here can tell
    gpus = settings.gpus if settings.gpus is not None else len(provenance.gpu_models())
    cuda = settings.gpus is not None or not provenance.without_gpu()
    return [Node(math.inf if inline else settings.cpus or len(os.sched_getaffinity(0)), gpus, cuda)]


def cluster_address(config: Config) -> str | None:
    """Address of the Ray cluster to join, or None for a Ray of our own."""
    address = config.settings.ray_address or os.environ.get("RAY_ADDRESS")
    if address in (None, "", "local"):
        return None
    if address == UP:
        return UP
    if address.startswith("http"):
        raise UsageError(
            f"ray_address={address} is a dashboard, for `ray job submit`; a run joins the head's HOST:PORT"
        )
    if address != "auto" and not address.rpartition(":")[2].isdigit():
        raise UsageError(f"ray_address={address}: HOST:PORT, ray://HOST:PORT, auto or local is expected")
    return address


def run(config: Config, arguments: list[str], signals: Signals | None = None) -> Result:
    """Run what the ledger lacks. Raises `PreflightError` (exit 3) before anything is started.

    `signals` are handled by the caller, for as long as it has something to do after the run; without them, here.
    """
    if signals is None:
        signals = Signals()
        with signals.handled():
            return run(config, arguments, signals)
    run_id = f"{os.getpid()}-{secrets.token_hex(3)}"
    elsewhere.check_trials(config)
    _check_results(config)
    with LedgerLock(config.ledger, on_lost=lambda: os.kill(os.getpid(), signal.SIGTERM), say=_say, run=run_id) as lock:
        sweep_ledger(config.ledger)
        planned = plan = make_plan(config)
        planning.check_defaults(plan)
        planning.check_work(plan)
        budget.check(plan, config.settings.max_gpu_hours)
        drain = drain_file(config.ledger, run_id)
        signals.call(touch := drain.touch)
        print(f"{config.study}: {counts(plan, planning.STATES)}", flush=True)
        if plan.remark:
            _say(f"{config.study}: {plan.remark}")
        if config.settings.keep == "weights" and (without := _finished_without_weights(config.ledger, plan)):
            _say(f"keep=weights: {without} finished before, and hold no weights; the run that finishes one keeps them")
        if begun := sum(t.stale for t in plan.to_run):
            _say(
                f"{counted(begun, 'trial')} will go on from epochs that other sources made under the same REVISION "
                "(farm plan lists them); raise it if results change"
            )
        exported: dict[str, Path] = {}
        record = config.ledger / STUDY
        last = record.read_bytes() if record.exists() else None
        for current in (config, settled(config)):  # a second time where results turn out to be damaged
            data_check.prepare(current, plan)
            if current is config:  # what is refused before this leaves no trace
                _record_study(config, arguments)
            if plan.to_run and not signals.stopping():
                plan = _execute(current, plan, run_id, signals)
            if lock.lost:
                _say(f"{config.ledger}: another driver has taken this ledger over; this one leaves it alone")
                break
            if plan.trials and plan.count("unschedulable") == len(plan.trials):  # nor does what can run nowhere
                _put_back(record, last)
                break
            exported, damaged = _export(config, _whole_plan(config) if config.chosen else plan)
            if not damaged:
                break
            plan = make_plan(settled(config))
        signals.on_first.remove(touch)  # a signal that comes later finds nothing to drain
        drain.unlink(missing_ok=True)
    comparison = budget.comparison(planned, config.ledger, run_id)
    return Result(_exit_code(plan, signals), plan, exported, comparison)


def _finished_without_weights(ledger: Path, plan: Plan) -> str:
    """ "3 trials", or nothing."""
    done = {t.id for t in plan.trials if t.state == "done" and t.status == "completed"}
    paths = (path / DONE for path in trial_directories(ledger) if trial_id(path) in done)
    number = sum(not (path / "state.pt").exists() for path in paths)
    return counted(number, "trial") if number else ""


def settled(config: Config) -> Config:
    """The configuration once its run has tried all: what `retry=failed` tried and has failed again, has failed."""
    return dataclasses.replace(config, settings=dataclasses.replace(config.settings, retry="none"))


def _whole_plan(config: Config) -> Plan:
    """The plan to export: the grid without `trial=ID`, and no machine's size held against a trial."""
    return make_plan(dataclasses.replace(settled(config), chosen=()), [], estimate=False)


def export(config: Config, place: Path | None = None) -> Export:
    """Bring a ledger's export, in it or in another place, up to date with what has finished, without a run."""
    from farm.ledger.export import export

    return export(config.ledger, _whole_plan(config), config.settings.module, place)


def _execute(config: Config, plan: Plan, run_id: str, signals: Signals) -> Plan:
    """Run the plan's open trials by the chosen executor; the plan as the ledger has it afterwards."""
    if config.settings.executor == "inline":
        from farm.inline import run_inline

        begun = directories(config.ledger)
        jobs = [(t.label, request(config, t, run_id, begun)) for t in plan.to_run]
        with View(plan, config.settings.view) as view:
            run_inline(jobs, view, signals, config.settings.retries)
        return make_plan(settled(config))
    with signals.kept():
        nodes = _execute_with_ray(config, plan, run_id, signals)
    return make_plan(settled(config), nodes)


def _execute_with_ray(config: Config, plan: Plan, run_id: str, signals: Signals) -> list[Node]:
    from farm.forkclient import ForkClient, remove_files, start_server
    from farm.private import use_own_token

    signals.call(answer := functools.partial(_say, STARTING))
    address = cluster_address(config)
    if address is None:  # its imports and Ray's start go side by side
        start_server(run_id, (config.settings.module,), config.study_file.parent)
        use_own_token()  # Ray reads its mode as it is imported
    elastic = address == UP
    if elastic:
        address = _head_address()
    from farm import launch

    settings = config.settings
    keeper = None
    try:
        launch.connect(address, settings.cpus, settings.gpus, config.study_file.parent)
        signals.renew()
        kinds = kinds_that_are_up(Path(os.environ[FARM_UP])) if elastic else None
        nodes = launch.nodes() if kinds is None else list(kinds.values())
        if address is not None:
            plan = make_plan(config, nodes)
        if address is None:
            keeper = ForkClient(run_id)
        signals.on_first.remove(answer)  # from here on the view says what a drain does
        with View(plan, settings.view, 0.0 if elastic else sum(n.gpu for n in nodes)) as view:
            if elastic:
                for trial in plan.trials:
                    if trial.state == "unschedulable":
                        view.say(f"unschedulable {trial.label}: {trial.reason}")
            waiting = plan.longest_first if elastic or plan.room(nodes) > 1 else plan.to_run
            begun = directories(config.ledger)
            jobs = [launch.Job(t.label, t.bundle, request(config, t, run_id, begun)) for t in waiting]
            if jobs and not signals.stopping():
                patience = drain_patience(settings.drain_seconds, settings.slurm.signal_seconds)
                launch.run(jobs, run_id, view, signals, settings.retries, patience, kinds, own=address is None)
    except ConnectionError as error:
        raise PreflightError(f"Ray: {error}") from None
    except launch.RayDied as error:
        _say(str(error))
    finally:
        if keeper is not None:
            keeper.close()
        launch.disconnect()
        remove_files(run_id)
    return nodes


def _head_address() -> str:
    """HOST:PORT of the head beside which this driver runs."""
    os.environ.update(PATIENCE)
    try:
        return (Path(os.environ[FARM_UP]) / "address").read_text()
    except (KeyError, OSError):
        raise PreflightError("ray_address=up: the head of `farm up` is gone") from None


def request(config: Config, trial: Trial, run_id: str, begun: Mapping[str, Path] | None = None) -> Request:
    """What an attempt at a planned trial is told. `begun` has the directories that there are, by id."""
    settings, found = config.settings, (begun or {}).get(trial.spec.id)
    return Request(
        ledger=str(config.ledger),
        spec=trial.spec.as_dict(),
        device=_device(config, trial.bundle),
        data_root=str(config.data_root),
        cache=str(config.cache),
        commit_seconds=settings.commit_seconds,
        drain_seconds=settings.drain_seconds,
        back_off_seconds=settings.back_off_seconds,
        keep=settings.keep,
        info={"driver": run_id},
        directory="" if begun is None else found.name if found else directory_name(trial.spec),
    )


def _device(config: Config, bundle: planning.Bundle) -> str:
    """ "cpu" or "cuda"."""
    device = config.settings.device
    return device if device != "auto" else "cuda" if bundle.gpu else "cpu"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _fingerprint(config: Config) -> str:
    from trials import data

    return data.fingerprint_of(config.settings.data)


def _hardware(config: Config) -> str | None:
    """GPU model of timed trials: as configured, else this machine's, the site's, the ledger's, or a reason to ask."""
    settings = config.settings
    if not settings.timed:
        return None
    on_cpu = settings.device == "cpu" or settings.resources.gpu in (0, 0.0)
    if on_cpu and settings.hardware not in (None, "cpu"):
        raise UsageError(f"hardware={settings.hardware}: these trials run on the CPU (device, resources.gpu)")
    if on_cpu:
        return "cpu"
    elastic = cluster_address(config) == UP
    kind = _gpu_type(config, elastic)
    if settings.hardware:
        return settings.hardware
    measured = _ledger_models(config) if config.looking else []
    if len(measured) == 1:
        return measured[0]  # what has been measured is looked at, and not on this machine
    models = [] if elastic else sorted(set(provenance.gpu_models()))  # the head of `farm up` runs no trials
    if len(models) > 1:
        raise UsageError(f"hardware: this machine has {', '.join(models)}; name the one that is timed: hardware=…")
    model = models[0] if models else settings.slurm.gpu_models.get(kind) or _ledger_hardware(config)
    if measured and model not in measured:
        raise UsageError(
            f"hardware: the results of {config.study} are of {', '.join(measured)}; name the one that is looked at, "
            f"as hardware={measured[-1]!r}"
        )
    if model == "none" and cluster_address(config):
        raise UsageError(
            "hardware: timed trials name the GPU model that they run on, and neither this machine, the site "
            "(slurm.gpu_models) nor a trial in the results tells it; add it as nvidia-smi names it: "
            "hardware='NVIDIA H200'"
        )
    return model


def _gpu_type(config: Config, elastic: bool) -> str:
    """The site's word for the GPUs of a job. Raises `UsageError` where timed trials would run on any of several."""
    kind = (elastic and cluster_at(config.results, config.site).gpu_type) or config.settings.slurm.gpu_type
    if "|" in kind and not config.looking:
        remedy = "farm down, then farm up with" if elastic else "name"
        raise UsageError(
            f"slurm.gpu_type={kind}: a timed trial belongs to one GPU model and cannot go on on another; "
            f"{remedy} one kind, e.g. slurm.gpu_type={kind.partition('|')[0]}"
        )
    return kind


def _ledger_hardware(config: Config) -> str:
    """On a machine without a GPU (a login node, a laptop with results from elsewhere): the ledger's one GPU model."""
    models = _ledger_models(config)
    return models[0] if len(models) == 1 else "none"


def _ledger_models(config: Config) -> list[str]:
    """Every GPU model that timed trials of the ledger are of."""
    specs = (read_json(path / "spec.json") or {} for path in trial_directories(config.ledger))
    return sorted({str(s.get("hardware")) for s in specs} - {"None", "none", "cpu"})


def _check_results(config: Config) -> None:
    inside_job = "runtime_resources/working_dir_files" in str(config.results)
    if inside_job:
        raise PreflightError(
            f"results: {config.results} is the job's temporary copy of the code and would be lost; "
            "use results=/shared/path or FARM_RESULTS"
        )
    probe = config.ledger / f".tmp-probe-{os.getpid()}"
    try:
        config.ledger.mkdir(parents=True, exist_ok=True)
        write_file(probe, b"writable")
        probe.unlink()
    except OSError as error:
        raise PreflightError(f"results: {config.ledger} cannot be written: {error.strerror}") from None


def _record_study(config: Config, arguments: list[str]) -> None:
    command = shlex.join(["farm", "run", *arguments])
    write_file(config.ledger / STUDY, f"# {command}\n{config.yaml()}".encode())


def _put_back(record: Path, content: bytes | None) -> None:
    """The study's last command is the one before, or none."""
    if content is None:
        record.unlink(missing_ok=True)
    else:
        write_file(record, content)


def _export(config: Config, plan: Plan) -> tuple[dict[str, Path], bool]:
    """Paths of the exported tables, and whether results were damaged, which are then set aside to run again."""
    from farm.ledger.export import export

    result = export(config.ledger, plan, config.settings.module)
    for trial in result.damaged:
        aside = quarantine(trial)
        _say(f"{trial.name}: its results are damaged and were set aside as {aside.name}")
    return result.tables, bool(result.damaged)


def _exit_code(plan: Plan, signals: Signals) -> int:
    if all(t.state == "done" for t in plan.trials):
        return COMPLETE
    return signals.exit_code if signals.exit_code is not None else FAILED
