"""GPU-hours: what a plan will take, the gate before a run, and predicted against actual after it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from farm.checks import counted
from farm.errors import PreflightError
from farm.ledger.scan import attempt_records
from farm.plan import Plan, Trial
from trials.spec import STATUSES


def forecast(plan: Plan) -> list[str]:
    """What the plan's open trials will take, in words; nothing where no GPU is asked for."""
    wanted = [t for t in plan.to_run if t.bundle.gpu]
    known, unknown = _estimate(wanted)
    texts = [f"about {known:.2f} GPU-hours to go"] if len(unknown) < len(wanted) else []
    return texts + ([f"{len(unknown)} without an estimate"] if unknown else [])


def check(plan: Plan, max_gpu_hours: float | None) -> None:
    """Raise `PreflightError` where the plan may take more than is allowed; None allows anything.

    A trial without an estimate (no completed relative in this ledger) might take anything, so it is refused too.
    Trials without a GPU take no GPU-hours.
    """
    if max_gpu_hours is None:
        return
    known, unknown = _estimate(plan.to_run)
    if known > max_gpu_hours:
        raise PreflightError(
            f"max_gpu_hours={max_gpu_hours:g}: {counted(len(plan.to_run), 'trial')} will take about {known:.2f} "
            f"GPU-hours or more; nothing was started (farm plan lists them)"
        )
    if unknown:
        raise PreflightError(
            f"max_gpu_hours={max_gpu_hours:g}: {counted(len(unknown), 'trial')} of {plan.study} without an estimate, "
            f"since no relative has completed yet; nothing was started. One run without the limit gives an estimate "
            f"to the others: trial={unknown[0].id} is {unknown[0].label}"
        )


def comparison(planned: Plan, ledger: Path, run_id: str) -> str:
    """Predicted against actual over the trials that one run finished and that had an estimate; "" for none.

    In GPU-hours, or in the trials' own time where they had no GPU. The actual time is that of this run's attempts,
    start-up included.
    """
    spent = _spent(ledger, run_id)
    known = [t for t in planned.to_run if t.seconds is not None and t.id in spent]
    if not known:
        return ""
    seconds = [t.seconds or 0.0 for t in known], [spent[t.id] for t in known]
    if any(t.bundle.gpu for t in known):
        predicted, actual = (
            sum(one * t.bundle.gpu / 3600 for t, one in zip(known, times, strict=True)) for times in seconds
        )
        texts = f"{predicted:.3g} GPU-hours", f"{actual:.3g}"
    else:
        predicted, actual = map(sum, seconds)
        texts = f"{predicted:.0f} s of trials' time", f"{actual:.0f} s"
    tells = sum(seconds[0]) >= 1  # of less than a second a percentage says nothing
    more = f" ({actual / predicted - 1:+.0%})" if tells else ""
    return f"predicted {texts[0]} for {counted(len(known), 'trial')}, actual {texts[1]}{more}"


def _estimate(trials: Sequence[Trial]) -> tuple[float, list[Trial]]:
    """GPU-hours of the trials that have an estimate, and those that have none."""
    unknown = [t for t in trials if t.gpu_hours is None]
    return sum(t.gpu_hours or 0.0 for t in trials), unknown


def _spent(ledger: Path, run_id: str) -> dict[str, float]:
    """Seconds of one run's attempts, by trial; only trials that this run brought to an end."""
    seconds: dict[str, float] = {}
    ended = set()
    for record in attempt_records(ledger):
        if record.get("driver") == run_id:
            seconds[record["trial_id"]] = seconds.get(record["trial_id"], 0.0) + float(record.get("seconds") or 0)
            if record["how"] in STATUSES:
                ended.add(record["trial_id"])
    return {i: s for i, s in seconds.items() if i in ended}
