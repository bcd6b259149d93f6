"""What came of each arm: its final error, what the target cost, and why a cell has no number."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis import stats
from analysis.arms import UNTIMED, UNTIMED_NOTE, Arm
from analysis.load import Data
from analysis.options import Options
from analysis.provenance import source
from analysis.stats import NOTHING, Crossing, Estimate, ToTarget
from analysis.table import (
    Shown,
    Table,
    estimate_column,
    estimate_columns,
    estimate_of,
    estimate_text,
    text_column,
)
from analysis.words import counted


@dataclass(frozen=True)
class ArmOutcome:
    """An arm's numbers over its completed trials, and in `remark` what the rest came to, in `lacking` without times.

    `final_error` is a fraction, of the last epoch. Times are wall-clock seconds of training and evaluation, over
    trials that ran on one device; where all were `pieced` together from several devices, over those. Building the steps
    is not in them; of the attempt that finished it took `startup_seconds`, not known in exports without that column.
    The times of an arm that is not timed are no results: its trials may have shared their device.
    `final_errors` and `crossings` are of the completed trials, `times` of those that the time is a mean of.
    """

    arm: Arm
    completed: tuple[str, ...]
    final_error: Estimate
    to_target: ToTarget
    total_seconds: Estimate
    startup_seconds: Estimate
    final_errors: tuple[float, ...]
    crossings: tuple[Crossing, ...]
    times: tuple[float, ...]
    pieced: bool
    remark: str
    lacking: str

    @property
    def n(self) -> int:
        """Completed trials (seeds)."""
        return len(self.completed)


def outcomes(data: Data, arms: Sequence[Arm], error: str, target_error: float, confidence: float) -> list[ArmOutcome]:
    """One outcome an arm, in the arms' order. `error` is the column, `target_error` a fraction."""
    return [_outcome(data, arm, error, target_error, confidence) for arm in arms]


def _outcome(data: Data, arm: Arm, error: str, target_error: float, confidence: float) -> ArmOutcome:
    done = set(data.ended("completed"))
    completed = tuple(i for i in arm.trials if i in done and (data.rows["trial_id"] == i).any())
    runs = {i: data.rows_of([i]).sort_values("epoch") for i in completed}
    mixed = pieced_together(data, completed)
    timed = [i for i in completed if i not in mixed] or list(completed)
    finals = [float(run[error].iloc[-1]) for run in runs.values()]
    crossings = {
        i: stats.first_reached(r["epoch"].tolist(), r[error], r["wall_seconds"], target_error) for i, r in runs.items()
    }
    reached = stats.to_target(list(crossings.values()), confidence)
    seconds = stats.to_target([crossings[i] for i in timed], confidence).seconds
    times = tuple(float(runs[i]["wall_seconds"].iloc[-1]) for i in timed)
    return ArmOutcome(
        arm=arm,
        completed=completed,
        final_error=stats.mean(finals, confidence).within(0.0, 1.0),
        to_target=ToTarget(reached.epoch, seconds, reached.reached, reached.n, reached.epochs),
        total_seconds=stats.mean(times, confidence),
        startup_seconds=stats.mean(_startups(data, timed), confidence).within(0.0),
        final_errors=tuple(finals),
        crossings=tuple(crossings.values()),
        times=times,
        pieced=bool(mixed),
        remark=remark(data, arm, completed, mixed),
        lacking=remark(data, arm, completed, set()),
    )


def _startups(data: Data, trial_ids: Sequence[str]) -> list[float]:
    """Seconds that building the steps took each trial; nothing where one of them does not tell."""
    found = [_trial(data, i).get("startup_seconds") for i in trial_ids]
    return [float(s) for s in found if s is not None] if all(map(_known, found)) else []


def pieced_together(data: Data, trial_ids: Sequence[str]) -> set[str]:
    """Those of the trials whose attempts ran on different devices, so that their times compare with nothing."""
    return {i for i in trial_ids if "," in str(_trial(data, i).get("devices", ""))}


def _trial(data: Data, trial_id: str) -> Mapping[str, Any]:
    found = data.trials[data.trials["trial_id"] == trial_id]
    return {str(k): v for k, v in found.iloc[0].items()} if len(found) else {}


def remark(data: Data, arm: Arm, completed: Sequence[str], mixed: set[str]) -> str:
    """What became of the trials without numbers: "2 of 3 seeds missing (new), 1 out of memory".

    `mixed` are the completed trials whose times come from several devices.
    """
    rest = Counter(fate(data, i) for i in arm.trials if i not in completed)
    planned = len(arm.trials)
    parts = [text if planned == 1 else f"{count} of {planned} seeds {text}" for text, count in rest.items()]
    if mixed:
        parts.append(f"† {len(mixed)} of {counted(len(completed), 'time')} pieced together from several devices")
    return "; ".join(parts)


def fate(data: Data, trial_id: str) -> str:
    """In words, what became of one trial: "completed", "out of memory", "missing (new)", "failed: ..."."""
    row = data.plan[data.plan["trial_id"] == trial_id].iloc[0]
    if row["state"] == "done":
        trial = _trial(data, trial_id)
        status = str(trial.get("status"))
        if status == "oom":
            return "out of memory" + _gib(trial.get("peak_memory_bytes"))
        epoch: Any = trial.get("diverged_epoch")
        return f"diverged at epoch {int(epoch)}" if status == "diverged" and _known(epoch) else status
    reason = str(row["reason"]) if "reason" in data.plan and _known(row["reason"]) and row["reason"] else ""
    if row["state"] == "failed":
        return f"failed: {reason or _last_error(data, trial_id)}"
    if row["state"] == "partial" and "epoch" in data.plan and _known(row["epoch"]):
        at, times = "at epoch" if "config_epochs" in row else "after step", int(row["epoch"])
        return f"missing (stopped {at} {times})"
    return f"{row['state']}: {reason}" if reason else f"missing ({row['state']})"


def _last_error(data: Data, trial_id: str) -> str:
    attempts = data.attempts[data.attempts["trial_id"] == trial_id]
    if attempts.empty or "error_class" not in attempts:
        return "no error recorded"
    return str(attempts.sort_values("attempt")["error_class"].iloc[-1]) or "no error recorded"


def _gib(peak: Any) -> str:
    return f" (peak {peak / 2**30:.1f} GiB)" if _known(peak) and peak > 0 else ""


def _known(value: Any) -> bool:
    return value is not None and value is not pd.NA and not (isinstance(value, float) and math.isnan(value))


def device_of(data: Data, arm: Arm) -> str:
    """The device that an arm's timed trials ran on: the spec's hardware, else the last attempt's device.

    Empty for an arm that has not run, and for untimed trials: their times are no results.
    """
    found = data.trials[data.trials["trial_id"].isin(arm.trials)]
    for column in ("config_hardware", "device"):
        if column in found and (values := [str(v) for v in found[column].dropna() if str(v)]):
            return Counter(values).most_common(1)[0][0] if arm.timed else ""
    planned = arm.values.get("hardware")
    return str(planned) if _known(planned) else ""


def outcome_table(
    data: Data, found: Sequence[ArmOutcome], options: Options, device: str, devices: Sequence[str] = ()
) -> Table:
    """Arms against n, epochs and wall-clock to the target, final error, whole wall-clock, what is missing."""
    target = f"{100 * options.target_accuracy:g} %"
    frame = pd.DataFrame([_record(o, device) for o in found])
    startup = any(o.startup_seconds.n for o in found)
    ids = [i for o in found for i in o.completed]
    return Table(
        title=f"Cost of {target} accuracy, and final error" + (f" ({device})" if device else ""),
        frame=frame,
        columns=(
            text_column("Arm", "arm"),
            Shown("n", lambda row: f"{row['n']}\N{NO-BREAK SPACE}of\N{NO-BREAK SPACE}{row['planned']}"),
            Shown(f"Epochs to {target}", lambda row: _censored(row, "epochs_to_target", ",.1f")),
            Shown(f"Wall-clock to {target} (s)", lambda row: _censored(row, "seconds_to_target", ",.0f")),
            estimate_column("Final error (%)", "final_error", ".2f", 100),
            Shown("Wall-clock, all epochs (s)", lambda row: _seconds(row, "total_seconds")),
            *([Shown("Start-up (s)", lambda row: _seconds(row, "startup_seconds"))] if startup else []),
            Shown("Remarks", lambda row: row["remark"] or "–", numeric=False),
        ),
        notes=tuple(_notes(found, options, device, devices, startup)),
        source=source(data, ids),
    )


def _record(o: ArmOutcome, device: str) -> dict[str, Any]:
    error = o.final_error
    accuracy = Estimate(1 - error.value, 1 - error.high, 1 - error.low, error.n)
    return {
        "arm": o.arm.label,
        "planned": len(o.arm.trials),
        "n": o.n,
        "epochs": o.to_target.epochs,
        "reached": o.to_target.reached,
        **estimate_columns("epochs_to_target", o.to_target.epoch),
        **estimate_columns("seconds_to_target", o.to_target.seconds if o.arm.timed else NOTHING),
        **estimate_columns("final_accuracy", accuracy),
        **estimate_columns("final_error", error),
        **estimate_columns("total_seconds", o.total_seconds if o.arm.timed else NOTHING),
        **estimate_columns("startup_seconds", o.startup_seconds if o.arm.timed else NOTHING),
        "pieced_together": o.pieced,
        "timed": o.arm.timed,
        "device": device,
        "remark": o.remark,
    }


def _censored(row: Mapping[str, Any], name: str, form: str) -> str:
    """The mean over trials that reached the target; how many did not; or that none did."""
    if row["n"] == 0:
        return "–"
    if "seconds" in name and not row["timed"]:
        return UNTIMED
    if row["reached"] == 0:
        if "seconds" in name:
            return f"not reached in {row['total_seconds']:,.0f} s"
        accuracy = f"{100 * row['final_accuracy']:.2f}\N{NO-BREAK SPACE}%"
        return f"not reached in {counted(row['epochs'], 'epoch')} ({accuracy})"
    estimate = estimate_of(row, name)
    whole = float(estimate.value).is_integer() and not estimate.has_interval
    text = estimate_text(estimate, ",.0f" if whole else form)
    text += " †" if "seconds" in name and row["pieced_together"] else ""
    return text if row["reached"] == row["n"] else f"{text}, {row['reached']} of {row['n']} seeds"


def _seconds(row: Mapping[str, Any], name: str) -> str:
    if row["n"] and not row["timed"]:
        return UNTIMED
    mark = " †" if row["pieced_together"] and row[f"{name}_n"] else ""
    return estimate_text(estimate_of(row, name), ",.0f" if not row[name] < 100 else ",.1f") + mark


def _notes(
    found: Sequence[ArmOutcome], options: Options, device: str, devices: Sequence[str], startup: bool
) -> list[str]:
    notes = [
        f"Mean over n seeds, in brackets its {100 * options.confidence:g} % t interval (none for n = 1). "
        "The final error is that of the last epoch, not of the best one; its interval is cut at 0 and 100 %. "
        "Not reached: the accuracy and time of the whole run are given.",
        "Wall-clock is that of training and evaluating all epochs. Not in it: building the steps"
        f"{' (start-up)' if startup else ''}, what else a start or a resume takes, and epochs that were given up.",
    ]
    if startup:
        notes.append(
            "Start-up is that of the attempt that finished, its interval cut at zero. On a GPU a machine's first trial "
            "compiles kernels and takes longer."
        )
    if any(0 < o.to_target.reached < o.n for o in found):
        notes.append("Where only some seeds reached the target, the mean is over those, so it is too small.")
    if any(o.pieced for o in found):
        notes.append(
            "† Wall-clock pieced together from attempts on different devices: it compares with nothing, and "
            "is left out of the mean where other seeds ran on one device."
        )
    if any(o.n and not o.arm.timed for o in found):
        notes.append(UNTIMED_NOTE)
    if len(devices) > 1:
        notes.append(
            f"Arms ran on {', '.join(devices)}; this table holds those of {device}, and each device has one of "
            "its own: their times do not compare."
        )
    return notes
