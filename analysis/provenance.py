"""Where a figure's or a table's numbers come from, in one sentence under it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.load import Data
from analysis.words import counted


@dataclass(frozen=True)
class Source:
    """What a figure or table was made from: trial ids, their number of rows, and anything else in words."""

    trials: tuple[str, ...] = ()
    rows: int = 0
    note: str = ""


def source(data: Data, trial_ids: Sequence[str], note: str = "") -> Source:
    """The source made of some trials' rows."""
    return Source(tuple(trial_ids), len(data.rows_of(list(trial_ids))), note)


def sentence(data: Data, made_from: Source) -> str:
    """Rows, trials, seeds, dataset, device, commit, image and dates behind a figure or table."""
    if not made_from.trials:
        return made_from.note or "No rows: nothing was measured for it."
    trials = data.trials[data.trials["trial_id"].isin(made_from.trials)]
    parts = [f"{counted(made_from.rows, 'row')} of {counted(len(made_from.trials), 'trial')}"]
    for column, word in (("config_seed", "seeds"), ("config_dataset", "data"), ("devices", "device")):
        if values := distinct(trials, column):
            parts.append(f"{word} {values}")
    behind = _attempts_behind(data, trials)
    if commits := distinct(pd.concat([trials, behind]), "farm_commit"):
        without = int(behind["farm_commit"].isna().sum())
        which = "an attempt that" if without == 1 else f"{without:,} attempts that"
        parts.append(f"farm commit {commits}" + (f", and of {which} recorded none" if without else ""))
    for column, word in (("torch_version", "torch"), ("image", "image")):
        if values := distinct(trials, column):
            parts.append(f"{word} {values}")
    if dates := _dates(trials):
        parts.append(f"finished {dates}")
    return "; ".join(parts + ([made_from.note] if made_from.note else [])) + "."


def _attempts_behind(data: Data, trials: pd.DataFrame) -> pd.DataFrame:
    """The attempts that measured rows of the trials, with `farm_commit`: an earlier one may have been of another.

    Of a trial's last attempt the trial knows it too: rows of attempts.parquet that are older than the column do not.
    """
    identity = ["trial_id", "attempt"]
    known = data.attempts.reindex(columns=[*identity, "farm_commit"])
    found = [t[identity] for t in (data.rows, *data.tables.values()) if {*identity} <= {*t.columns}]
    behind = pd.concat([known.iloc[:0][identity], *found]).drop_duplicates()
    behind = behind[behind["trial_id"].isin(trials["trial_id"])].merge(known, how="left", on=identity)
    last = pd.concat([known[identity], behind[identity]]).groupby("trial_id")["attempt"].max()
    own = trials.set_index("trial_id").reindex(columns=["farm_commit"])["farm_commit"]
    ends = behind["attempt"] == behind["trial_id"].map(last)
    commits = behind["farm_commit"].replace("", None)
    return behind.assign(farm_commit=commits.where(commits.notna() | ~ends, behind["trial_id"].map(own)))


def distinct(frame: pd.DataFrame, column: str, at_most: int = 5) -> str:
    """The different values of a column, joined by commas; empty where there is no such column or value."""
    if column not in frame:
        return ""
    texts = {part for v in frame[column].dropna() for part in (str(v).split(", ") if column == "devices" else [str(v)])}
    values = sorted(texts - {""}, key=lambda v: (len(v), v))
    shown = [v[:12] if len(v) >= 40 and " " not in v else v for v in values[:at_most]]
    return ", ".join(shown) + (f" and {len(values) - at_most} more" if len(values) > at_most else "")


def span(rows: pd.DataFrame, column: str) -> tuple[float, float]:
    """Least and largest value of a column; NaN where no row has one."""
    values = rows[column].dropna() if column in rows else rows.iloc[:0, 0]
    return (float(values.min()), float(values.max())) if len(values) else (math.nan, math.nan)


def _dates(trials: pd.DataFrame) -> str:
    if "finished_at" not in trials:
        return ""
    days = sorted({str(v)[:10] for v in trials["finished_at"].dropna()} - {""})
    return " to ".join(dict.fromkeys([days[0], days[-1]])) if days else ""
