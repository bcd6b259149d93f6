"""The plan: a pure function from a configuration, the ledger's states and the nodes to trials with states.

Imports neither torch nor Ray, and reads no file.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from farm.checks import counted, on_the_cpu
from farm.config import Config
from farm.errors import UsageError
from farm.ledger.scan import Progress
from farm.settings import Settings
from trials.spec import (
    Scalar,
    Spec,
    holds,
    parameter_defaults,
    parameter_types,
    problem_with,
    resolved,
    revision_of,
    same,
    steps_of,
    work_of,
)

State = Literal["done", "partial", "new", "failed", "unschedulable"]
READABLE_LENGTH = 60
STATES: tuple[State, ...] = ("done", "partial", "new", "failed", "unschedulable")


@dataclass(frozen=True)
class Node:
    """What one node, or one type of node, can hold."""

    cpu: float
    gpu: float
    cuda: bool = True
    """False: a trial that is told device=cuda finds no GPU there, whatever it reserves."""


@dataclass(frozen=True)
class Bundle:
    """What one trial reserves, whole, on one node."""

    cpu: float
    gpu: float
    exclusive: bool = False


@dataclass(frozen=True)
class Trial:
    """A spec with its place in the plan."""

    id: str
    spec: Spec
    label: str
    bundle: Bundle
    state: State
    epoch: int = 0
    status: str = ""
    reason: str = ""
    log: str = ""
    seconds: float | None = None
    """Estimate of what is left of it; None where no completed trial tells."""
    stale: bool = False
    """Whether sources other than today's, under the same REVISION, did it or a part of it."""
    changed: str = ""
    """What is to be said of a default that has changed since it began; its `spec` is then as it began."""

    @property
    def to_run(self) -> bool:
        """Whether a run would start this trial."""
        return self.state in ("new", "partial")

    @property
    def gpu_hours(self) -> float | None:
        """Estimated GPU-hours still to spend; 0 without a GPU, None where nothing tells."""
        if self.bundle.gpu == 0:
            return 0.0
        return None if self.seconds is None else self.seconds * self.bundle.gpu / 3600


@dataclass(frozen=True)
class Plan:
    """All trials of a study's grid, in the grid's order."""

    study: str
    trials: tuple[Trial, ...]
    remark: str = ""
    """What is to be said of the ledger's other trials, in one line; empty as a rule."""

    def count(self, state: State) -> int:
        """Number of trials in a state."""
        return sum(t.state == state for t in self.trials)

    @property
    def to_run(self) -> list[Trial]:
        """What a run starts, larger gangs first: a gang that waits behind small trials waits for ever."""
        return sorted((t for t in self.trials if t.to_run), key=lambda t: (-t.bundle.gpu, -t.bundle.cpu))

    @functools.cached_property
    def lengths(self) -> tuple[dict[str, float], bool]:
        """What each trial to run has left, by id, and whether in seconds.

        The estimates where every trial has one, else the work that the trial module declares. Raises `ModuleError`
        where the module's `work` fails.
        """
        waiting = self.to_run
        known = all(t.seconds is not None for t in waiting)
        return {t.id: (t.seconds or 0.0) if known else work_left(t) for t in waiting}, known

    @property
    def longest_first(self) -> list[Trial]:
        """`to_run` for several at once: of equal gangs the longest first, so that none is left to run alone at the end.

        Equals stay in the grid's order. (Graham 1969, "Bounds on multiprocessing timing anomalies": of trials of one
        size and known length, at most 4/3 of the shortest possible time.) Raises `ModuleError` as `lengths` does.
        """
        length, _ = self.lengths
        return sorted(self.to_run, key=lambda t: (-t.bundle.gpu, -t.bundle.cpu, -length[t.id]))

    def room(self, nodes: Sequence[Node]) -> int:
        """How many of the trials that wait the nodes hold at once, were all of the smallest size that waits."""
        waiting = self.to_run
        return sum(_held(node, waiting[-1].bundle) for node in nodes) if waiting else 0


def check_work(plan: Plan) -> None:
    """Raise `ModuleError` where the trial module's `work` or `steps` fails for a trial that would run."""
    for trial in plan.to_run:
        work_left(trial)


def check_defaults(plan: Plan) -> None:
    """Raise `UsageError` where a trial was begun, or done, with another default than its parameter has now.

    Its id is the same, and so results of the old value would pass for those of the new one.
    """
    if told := [t.changed for t in plan.trials if t.changed]:
        raise UsageError(told[0] + (f" ({counted(len(told) - 1, 'more trial')} began so)" if len(told) > 1 else ""))


def changed(began: Mapping[str, Scalar] | None, now: Mapping[str, Scalar]) -> dict[str, tuple[Scalar, Scalar]]:
    """Parameters that had another value when a trial began: then and now. One that did not exist then is none."""
    return {k: (began[k], v) for k, v in now.items() if began and k in began and not same(began[k], v)}


def changes_text(identity: str, changes: Mapping[str, tuple[Scalar, Scalar]], axes: Collection[str] = ()) -> str:
    """What `changed` has found of a trial, and the ways out."""
    were = [
        f"{k}: its default was {then!r} when trial {identity} began and is {now!r} now"
        for k, (then, now) in changes.items()
    ]
    words = [f"sweep.{k}=[{_word(v)}]" if k in axes else f"trial.{k}={_word(v)}" for k, (_, v) in changes.items()]
    return f"{'; '.join(were)}; put the default back and use {' '.join(words)}, or raise REVISION"


def _word(value: Scalar) -> str:
    """A value as the command line takes it."""
    return "null" if value is None else str(value)


def specs(config: Config, fingerprint: str, hardware: str | None) -> list[tuple[Spec, Bundle]]:
    """The grid's points, seeds innermost, without duplicates.

    Raises `UsageError` where the trial module's own `check` refuses a point, or where a timed trial would
    share a GPU; `ModuleError` where one of the module's own functions fails.
    """
    module = config.settings.module
    found: dict[str, tuple[Spec, Bundle]] = {}
    for point in _points(config):
        parameters = resolved(module, {**config.parameters, **point})
        if problem := problem_with(module, parameters):
            raise UsageError(f"{_point_text(point)}: {problem}")
        bundle = _bundle(config, parameters)
        for seed in config.settings.seeds:
            spec = _spec(config, parameters, seed, fingerprint, hardware)
            found.setdefault(spec.id, (spec, bundle))
    return list(found.values())


def kin(
    config: Config, fingerprint: str, hardware: str | None, others: Iterable[tuple[str, Spec]]
) -> list[tuple[Spec, Bundle]]:
    """Those of other trials of its module, by id, that differ from the grid only in what is swept, and in seeds."""
    axes, found = _axes(config), []
    for identity, other in others:
        values = {**parameter_defaults(other.module), **other.parameters}
        parameters = resolved(other.module, {**config.parameters, **{k: values[k] for k in axes}})
        spec = _spec(config, parameters, other.seed, fingerprint, hardware)
        if spec.id == identity:
            found.append((spec, _bundle(config, parameters)))
    return found


def _axes(config: Config) -> set[str]:
    """Parameters that the study sets at each point."""
    return {*config.sweep, *(k for group in config.zip for k in group), *(k for point in config.extra for k in point)}


def _spec(config: Config, parameters: Mapping[str, Scalar], seed: int, fingerprint: str, hardware: str | None) -> Spec:
    settings = config.settings
    return Spec(
        module=settings.module,
        parameters=parameters,
        seed=seed,
        threads=settings.threads,
        dataset=settings.data,
        fingerprint=fingerprint,
        revision=revision_of(settings.module, parameters),
        timed=settings.timed,
        hardware=hardware if settings.timed else None,
    )


def chosen(config: Config, ids: Sequence[str]) -> set[str]:
    """Of a grid's ids those that `trial=ID,…` names, each by its beginning; without it all.

    Raises `UsageError` for a word that names no trial, or several.
    """
    found = set()
    for word in config.chosen:
        named = {i for i in ids if i.startswith(word)}
        if len(named) != 1:
            many = "no trial of this grid has that id" if not named else f"{len(named)} trials begin so"
            raise UsageError(f"trial={word}: {many}; `farm plan` lists them")
        found |= named
    return found if config.chosen else set(ids)


def make(
    config: Config,
    grid: Sequence[tuple[Spec, Bundle]],
    ledger: Mapping[str, Progress],
    nodes: Sequence[Node],
    source_digest: str = "",
    seconds: Mapping[str, float] | None = None,
) -> Plan:
    """Give every point of the grid its state, or those that `trial=ID,…` names; labels are those of the whole grid.

    `nodes` empty means: not known, hold nothing against them.
    """
    varying, wanted = _varying([spec for spec, _ in grid]), chosen(config, [spec.id for spec, _ in grid])
    trials = []
    for spec, bundle in grid:
        identity = spec.id
        if identity not in wanted:
            continue
        progress = ledger.get(identity, Progress("new"))
        state, reason = _state(progress, bundle, nodes, config.settings)
        stale = bool(source_digest) and progress.source_digest not in ("", source_digest)
        changes = changed(progress.parameters, spec.parameters)
        spec = _as_it_began(spec, changes)
        trials.append(
            Trial(
                id=identity,
                spec=spec,
                label=label(spec, varying),
                bundle=bundle,
                state=state,
                epoch=progress.epoch,
                status=progress.status,
                reason=reason,
                log=progress.log,
                seconds=(seconds or {}).get(identity),
                stale=stale,
                changed=changes_text(identity, changes, _axes(config)) if changes else "",
            )
        )
    return Plan(config.study, tuple(trials))


def _as_it_began(spec: Spec, changes: Mapping[str, tuple[Scalar, Scalar]]) -> Spec:
    """A spec with the values that its trial began with; None for one that its parameter's type can no longer hold."""
    kinds = parameter_types(spec.module) if changes else {}
    began = {k: then if holds(kinds[k], then) else None for k, (then, _) in changes.items() if k in kinds}
    return dataclasses.replace(spec, parameters={**spec.parameters, **began}) if began else spec


def readable(spec: Spec) -> str:
    """A directory-safe name made from the spec alone: parameters away from their introduced default, and seed."""
    text = ""
    for key, value in spec.canonical()["parameters"].items():
        part = "".join(c if c.isalnum() or c in "_." else "_" for c in f"{key}{value}")
        text += f"{part}-" if len(text) + len(part) < READABLE_LENGTH else ""
    return f"{text}seed{spec.seed}"


def label(spec: Spec, varying: Iterable[str]) -> str:
    """A short name within one grid: the parameters that vary there."""
    values = {**spec.parameters, "seed": spec.seed}
    return " ".join(str(values[k]) if isinstance(values[k], str) else f"{k}={values[k]}" for k in varying) or spec.id


def _points(config: Config) -> Iterator[dict[str, Scalar]]:
    """The product of all axes and zipped groups, then the extra points."""
    axes: list[list[dict[str, Scalar]]] = [[{k: v} for v in values] for k, values in config.sweep.items()]
    for group in config.zip:
        axes.append([dict(zip(group, row, strict=True)) for row in zip(*group.values(), strict=True)])
    for combination in itertools.product(*axes):
        yield {k: v for part in combination for k, v in part.items()}
    yield from config.extra


def _point_text(point: Mapping[str, Scalar]) -> str:
    return ", ".join(f"{k}={v}" for k, v in point.items()) or "trial"


def _bundle(config: Config, parameters: Mapping[str, Scalar]) -> Bundle:
    resources = config.settings.resources
    cpu = _amount("resources.cpu", resources.cpu, parameters)
    gpu = _amount("resources.gpu", resources.gpu, parameters)
    if gpu > 1 and gpu != int(gpu):
        raise UsageError(f"resources.gpu={gpu}: a fraction of one GPU, or whole GPUs")
    if config.settings.timed and gpu != int(gpu):
        raise UsageError(f"resources.gpu={gpu}: a timed trial has its GPUs to itself; use timed=false to share one")
    bundle = Bundle(cpu, gpu, resources.exclusive == "node")
    if bundle == Bundle(0, 0) and config.settings.executor != "inline":
        raise UsageError(
            "resources.cpu=0: Ray starts no trial that reserves nothing; resources.cpu=0.1 reserves little, "
            "executor=inline runs without Ray"
        )
    return bundle


def _amount(key: str, value: Any, parameters: Mapping[str, Scalar]) -> float:
    amount = parameters.get(value) if isinstance(value, str) else value
    if isinstance(amount, bool) or not isinstance(amount, (int, float)) or not 0 <= amount < 2**20:
        raise UsageError(f"{key}={value}: a number of at least 0, or the name of a numeric parameter, is expected")
    return float(amount)


def _varying(grid: Sequence[Spec]) -> list[str]:
    if len(grid) < 2:
        return ["seed"] if grid else []
    names = [k for k in grid[0].parameters if len({s.parameters.get(k) for s in grid}) > 1]
    names.sort(key=lambda k: not isinstance(grid[0].parameters[k], str))
    return names + (["seed"] if len({s.seed for s in grid}) > 1 or not names else [])


def _state(progress: Progress, bundle: Bundle, nodes: Sequence[Node], settings: Settings) -> tuple[State, str]:
    if progress.state == "done":
        return "done", ""
    if nodes and not any(n.cpu >= bundle.cpu and n.gpu >= bundle.gpu for n in nodes):
        return "unschedulable", _too_large(bundle, nodes, progress.epoch, settings)
    if nodes and settings.device == "cuda" and not any(n.cuda for n in nodes):
        begun = f"it goes on after epoch {progress.epoch} where there is one"
        hint = begun if progress.epoch else "device=cpu runs without"
        return "unschedulable", f"device=cuda, and this machine has no GPU; {hint}"
    if settings.device == "cuda" and not bundle.gpu and settings.executor != "inline":  # it is shown no GPU
        return "unschedulable", "device=cuda, and the trial reserves no GPU; resources.gpu=1 reserves one"
    if progress.state == "failed" and _is_retried(progress, settings.retry):
        return ("partial" if progress.epoch else "new"), ""
    return progress.state, progress.error


def _is_retried(progress: Progress, retry: str) -> bool:
    """Whether `retry=` is of a trial that has failed; of one whose record has no time it always is."""
    if retry in ("none", "failed"):
        return retry == "failed"
    return progress.ended_at < datetime.fromisoformat(retry).astimezone(UTC).isoformat(timespec="milliseconds")


def work_left(trial: Trial) -> float:
    """What a trial has left of the work that its module declares. Raises `ModuleError` where the module's fails."""
    module, parameters = trial.spec.module, trial.spec.parameters
    steps = steps_of(module, parameters)
    return work_of(module, parameters) * (max(1 - trial.epoch / steps, 0.0) if steps else 1.0)


def _held(node: Node, bundle: Bundle) -> int:
    pairs = ((node.cpu, bundle.cpu), (node.gpu, bundle.gpu))
    held = int(min((have // need for have, need in pairs if need), default=1))
    return min(held, 1) if bundle.exclusive else held


def _too_large(bundle: Bundle, nodes: Sequence[Node], epoch: int, settings: Settings) -> str:
    need = counted(bundle.cpu, "CPU") + (f" and {counted(bundle.gpu, 'GPU')}" if bundle.gpu else "")
    best = max(nodes, key=lambda n: (n.gpu, n.cpu))
    hint = f"; {on_the_cpu(settings)} runs without a GPU" if bundle.gpu and not best.gpu else ""
    if math.isinf(best.cpu):  # executor=inline, which counts no CPUs
        return f"needs {counted(bundle.gpu, 'GPU')}; there are {best.gpu:g}{hint}"
    if epoch:  # a result of another device would not go on from it
        hint = f"; it goes on after epoch {epoch} where a node holds it"
    largest = f"{counted(best.cpu, 'CPU')} and {counted(best.gpu, 'GPU')}"
    return f"needs {need} on one node; the largest node has {largest}{hint}"
