"""`farm why TRIAL`: why a trial is in its state, and which inputs set it apart from its nearest finished relative."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farm import provenance, study
from farm.checks import nearest, short_path
from farm.config import Config
from farm.errors import UsageError
from farm.ledger.durable import read_json
from farm.ledger.scan import (
    ATTEMPTS,
    TRIALS,
    attempt_records,
    has_finished,
    log_of,
    progress,
    trial_directories,
    trial_id,
)
from farm.plan import Plan, Trial
from farm.recall import ledgers_in
from farm.recorded import named, naming_words
from farm.slurm.submit import site_nodes
from trials.spec import id_of, parameter_defaults, same

ABSENT = "(not there)"
REASONS = {
    "revision": "the trial module's REVISION was raised: results from before do not compare (CHANGELOG.md)",
    "fingerprint": "other content under the same dataset's name",
    "hardware": "a timed trial belongs to one GPU model",
}


@dataclass(frozen=True)
class Difference:
    """One input in which a trial differs from a finished one."""

    name: str
    here: Any
    there: Any

    def __str__(self) -> str:
        reason = f"   {REASONS[self.name]}" if self.name in REASONS else ""
        return f"  {self.name:<24} {self.here!s:<20} there {self.there!s}{reason}".rstrip()


@dataclass(frozen=True)
class Relative:
    """A finished trial and what sets it apart, fewest differences first."""

    id: str
    name: str
    differences: tuple[Difference, ...]
    spec: Mapping[str, Any]
    """As it is recorded."""


def find(plan: Plan, wanted: str) -> Trial:
    """A trial of the plan by its id, the beginning of it, or its label. Raises `UsageError` naming the nearest."""
    exact = [t for t in plan.trials if wanted in (t.id, t.label)]
    found = exact or [t for t in plan.trials if len(wanted) >= 3 and t.id.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"{wanted}: {len(found)} trials of {plan.study} begin so; write more of the id")
    names = [n for t in plan.trials for n in (t.id, t.label)]
    raise UsageError(f"{wanted}: no such trial in {plan.study}{nearest(wanted, names, prefix='; nearest is ')}")


def explain(config: Config, plan: Plan, trial: Trial) -> Iterator[str]:
    """The lines of the answer."""
    yield f"{trial.label} ({trial.id}) of {plan.study} is {_state(trial)}"
    yield from _history(config.ledger, trial.id)
    if trial.changed:
        yield f"  {trial.changed}"
    if trial.stale:
        today = provenance.source_digest(trial.spec.module)
        made = "its sources were" if trial.state == "done" else "sources of what it goes on from were"
        yield f"  {made} not today's ({today}) alone, and REVISION is the same; raise it if results change"
    if trial.state == "done":
        return
    found = relatives(config.ledger, trial)
    if not found:
        yield f"nothing has finished in {short_path(config.ledger)} yet, so it has no relative"
        return
    first = found[0]
    alike = sum(len(r.differences) == len(first.differences) for r in found) - 1
    others = f", and {alike} more as near" if alike else ""
    nearest_one = f"nearest finished relative: {first.name} ({first.id}{others}), which differs in"
    if first.differences:
        yield nearest_one
        yield from map(str, first.differences)
    else:
        yield f"{nearest_one} {otherwise_formed(first.spec, first.id)}"


def relatives(ledger: Path, trial: Trial) -> list[Relative]:
    """All other finished trials of a ledger, those with the fewest differing inputs first."""
    here = inputs(trial.spec.as_dict(), trial.spec.module)
    found = []
    for path in trial_directories(ledger):
        content = read_json(path / "spec.json") or {}
        finished = trial_id(path) != trial.id and has_finished(path)
        if finished and isinstance(content.get("parameters"), dict):
            there = inputs(content, trial.spec.module)
            found.append(Relative(trial_id(path), path.name.rpartition("-")[0], differences(here, there), content))
    return sorted(found, key=lambda r: (len(r.differences), r.name))


def inputs(spec: Mapping[str, Any], module: str) -> dict[str, Any]:
    """Everything that a trial's id is made of, by name; a parameter that an old spec lacks is at its default."""
    own = {k: v for k, v in spec.items() if k not in ("id", "parameters")}
    defaults = parameter_defaults(module) if spec.get("module") == module else {}
    return own | defaults | dict(spec.get("parameters", {}))


def differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> tuple[Difference, ...]:
    """Inputs with other values; the fingerprint only where the dataset is the same."""
    names = [n for n in dict.fromkeys([*here, *there]) if here.get(n, ABSENT) != there.get(n, ABSENT)]
    if "dataset" in names and "fingerprint" in names:
        names.remove("fingerprint")
    return tuple(Difference(n, here.get(n, ABSENT), there.get(n, ABSENT)) for n in names)


def otherwise_formed(spec: Mapping[str, Any], identity: str) -> str:
    """What to say of a recorded spec whose inputs are another's, and whose id is not: defaults decide what is in an id.

    Which default it was, the id tells: with that parameter in its content, or without it, it comes out as recorded.
    """
    content = {k: v for k, v in spec.items() if k != "id"}
    values: Mapping[str, Any] = spec["parameters"]
    defaults = parameter_defaults(spec["module"])
    now = {k for k, v in values.items() if k not in defaults or not same(defaults[k], v)}
    changes = (change for number in (1, 2) for change in itertools.combinations(defaults.keys() & values, number))
    for change in changes:
        then = now ^ {*change}
        if id_of(content | {"parameters": {k: v for k, v in values.items() if k in then}}) == identity:
            told = [
                f"the default of `{k}` was {'another' if k in then else repr(values[k])} when it began and is "
                f"{defaults[k]!r} now"
                for k in sorted(change)
            ]
            break
    else:
        told = ["the default of a parameter, or its type, has been changed since"]
    return f"nothing but how the id was formed: {'; '.join(told)}"


def _state(trial: Trial) -> str:
    texts = {
        "done": f"done ({trial.status})",
        "new": "new: no finished trial has exactly its inputs, and no attempt at it has committed anything",
        "partial": f"partial: it goes on after epoch {trial.epoch}",
        "failed": "failed; retry=failed runs it again",
        "unschedulable": f"unschedulable: {trial.reason}",
    }
    return texts[trial.state]


def _history(ledger: Path, identity: str) -> Iterator[str]:
    """A line for each attempt at it."""
    folders = [p for p in trial_directories(ledger) if trial_id(p) == identity]
    records: Sequence[dict[str, Any]] = list(attempt_records(ledger, *folders)) if folders else []
    for record in records:
        error = str(record.get("error") or record.get("error_class") or "").strip().splitlines()
        path = log_of(ledger / TRIALS / record["name"] / ATTEMPTS / str(record["attempt"]), record)
        log = f" (log: {short_path(Path(path))})" if path else ""
        said = f": {error[-1]}" if error else ""
        where = f"on {record.get('host')}, {record.get('started_at')}"
        yield f"  attempt {record['attempt']} {where}: {record['how']}{said}{log}"


def answer(configs: Iterable[Config], wanted: str) -> list[str]:
    """The lines of the answer, by the first of several grids, of one study or more, whose plan has the trial.

    Else by the ledgers, which hold trials of other grids too, also where a grid was refused. Raises `UsageError` if
    none has it, with what could not be looked at.
    """
    missing: dict[str, UsageError] = {}
    refused: dict[str, UsageError] = {}
    looked: dict[Path, Plan | None] = {}
    for config in configs:
        try:
            plan = study.make_plan(config, site_nodes(config))
        except UsageError as error:  # as where its results are of several GPU models; another grid may have the trial
            refused[config.study] = error
            looked.setdefault(config.ledger, None)
            continue
        try:
            return list(explain(config, plan, find(plan, wanted)))
        except UsageError as error:
            missing[config.study] = error
            looked[config.ledger] = looked.get(config.ledger) or plan
    outside = [(ledger, path) for ledger, plan in looked.items() for path in _find_outside(ledger, plan, wanted)]
    if len(outside) == 1:
        (ledger, path) = outside[0]
        return list(explain_outside(ledger, looked[ledger], refused.get(ledger.name), path))
    if outside:
        raise UsageError(f"{wanted}: {len(outside)} trials outside the grid begin so; write more of the id")
    if hint := _of_another(looked, wanted):
        raise UsageError(f"{wanted}: no such trial in {', '.join(missing | refused)}{hint}")
    errors = missing | refused
    if len(errors) == 1 and not (missing and refused):
        raise errors.popitem()[1]
    unseen = "".join(f"; {name} was not looked at whole: {error}" for name, error in refused.items())
    hint = unseen or "; farm why TRIAL problem=4 looks in that study"
    raise UsageError(f"{wanted}: no such trial in {', '.join(errors)}{hint}")


def _find_outside(ledger: Path, plan: Plan | None, wanted: str) -> list[Path]:
    """Directories of trials that the plan, if any, does not hold, by their ids or the beginning of these."""
    known = {t.id for t in plan.trials} if plan else set()
    others = [p for p in trial_directories(ledger) if trial_id(p) not in known and trial_id(p).startswith(wanted)]
    return others if len(wanted) >= 3 else []


def _of_another(looked: Collection[Path], wanted: str) -> str:
    """The studies beside those looked at whose results have such a trial, as a part of a message; "" without any."""
    others = [p for results in {ledger.parent for ledger in looked} for p in ledgers_in(results)]
    found = [p for p in others if p not in looked and _find_outside(p, None, wanted)]
    return "".join(f"; it is of {p.name}: add {named(naming_words(p))}" for p in found)


def explain_outside(ledger: Path, grid: Plan | None, refusal: UsageError | None, path: Path) -> Iterator[str]:
    """The lines of the answer for a trial that the ledger has and the grid, if any, has not.

    `refusal` says why there is no grid, or not every one.
    """
    found = progress(path)
    state = f"{found.state} ({found.status})" if found.status else found.state
    outside = ", and outside the grid" if grid and not refusal else ""
    yield f"{path.name.rpartition('-')[0]} ({trial_id(path)}) of {ledger.name} is {state}{outside}"
    yield from _history(ledger, trial_id(path))
    if refusal:
        where = "it is not of the grid that was planned, and another" if grid else "whether it is of the grid"
        yield f"{where} was not looked at: {refusal}"
    content = read_json(path / "spec.json") or {}
    if not grid or not grid.trials or not isinstance(content.get("parameters"), dict):
        return
    there = [(t, inputs(t.spec.as_dict(), t.spec.module)) for t in grid.trials]
    apart = [(t, differences(inputs(content, t.spec.module), other)) for t, other in there]
    nearest_trial, differing = min(apart, key=lambda pair: len(pair[1]))
    nearest_one = f"nearest trial of the grid: {nearest_trial.label} ({nearest_trial.id}), from which it differs in"
    if differing:
        yield nearest_one
        yield from map(str, differing)
    else:
        yield f"{nearest_one} {otherwise_formed(content, trial_id(path))}"
