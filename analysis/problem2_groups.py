"""Problem 2's groups of set-ups from the rows of an export: which rows compare, which are refused, what is missing.

Nothing here puts two groups together (analysis/problem2_setups.py says what they are).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from analysis.arms import UNTIMED, describe, is_timed, varying
from analysis.load import Data
from analysis.problem2_setups import Cell, Group, Key, Machine
from analysis.words import counted

NAMED = ("mode", "scaling", "gpus", "hardware", "revision")
"""What a key or the machine says already; the revision is the mode's."""
SLACK = 0.95
"""The least part of the CUDA events' time that a synchronised wall clock can show."""


def groups(data: Data) -> list[Group]:
    """All groups of an export, in the plan's order; one without cells where nothing has run."""
    vary = [p for p in varying(data.plan) if p not in NAMED]
    if data.rows.empty:
        missing, nowhere = _missing(data, vary, ""), Machine("not run", "", "nothing measured")
        return [Group(nowhere, "", {}, pd.DataFrame(), missing, profiled=_profiled(data.plan))]
    places: dict[tuple[Machine, str], list[int]] = {}
    rows, links = _with_boots(data, data.rows), _with_boots(data, data.tables.get("links", pd.DataFrame()))
    seen, rows = rows[rows["result"] == "profiled"], rows[rows["result"] != "profiled"]
    for place, row in enumerate(rows.to_dict("records")):
        places.setdefault((_machine(row), _variation(row, vary)), []).append(place)
    found = []
    for (machine, variation), own in places.items():
        part = rows.iloc[own]
        cells = {k: _cell(k, cell, seen) for k, cell in _keyed(part)}
        of_these = links[links["trial_id"].isin(list(part["trial_id"]))] if len(links) else links
        missing = _missing(data, vary, variation)
        timed = all(is_timed(row.get("config_timed")) for row in part.to_dict("records"))
        found.append(Group(machine, variation, cells, of_these, missing, timed=timed, profiled=_profiled(part)))
    return [replace(group, elsewhere=_elsewhere(group, found)) for group in found]


def _profiled(frame: pd.DataFrame) -> bool:
    """Whether some trials were to look with the profiler; 0 iterations: not to."""
    column = "config_profiled_iterations"
    return column not in frame or bool((frame[column] != 0).any())


def _elsewhere(group: Group, found: Sequence[Group]) -> frozenset[Key]:
    others = [g for g in found if g.variation == group.variation and g is not group]
    return frozenset(key for g in others for key in g.cells)


def _with_boots(data: Data, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with the machine that each comes from, as `boot`: its attempt's host and kernel's start; None: unknown."""
    if not {"host", "boot_id"} <= set(data.attempts) or "attempt" not in rows:
        return rows.assign(boot=None)
    known = data.attempts.dropna(subset=["host", "boot_id"])
    boots = {(a["trial_id"], a["attempt"]): f"{a['host']} {a['boot_id']}" for a in known.to_dict("records")}
    own = [boots.get(k) for k in zip(rows["trial_id"], rows["attempt"], strict=True)]
    return rows.assign(boot=pd.Series(own, index=rows.index, dtype=object))


def _machine(row: Mapping[Any, Any]) -> Machine:
    return Machine(*(str(row.get(name) or "") for name in ("device", "driver", "topology")))


def _variation(row: Mapping[Any, Any], vary: Sequence[str]) -> str:
    return describe({p: row.get(f"config_{p}") for p in vary}, vary)


def _keyed(part: pd.DataFrame) -> list[tuple[Key, pd.DataFrame]]:
    places: dict[Key, list[int]] = {}
    for place, row in enumerate(part.to_dict("records")):
        key = Key(str(row["config_mode"]), str(row["config_scaling"]), int(row["config_gpus"]), int(row["batch"]))
        places.setdefault(key, []).append(place)
    return [(key, part.iloc[own]) for key, own in places.items()]


def _missing(data: Data, vary: Sequence[str], variation: str) -> dict[tuple[str, str, int], str]:
    """Why trials of the plan have no rows, by mode, scaling and GPUs."""
    found: dict[tuple[str, str, int], str] = {}
    for row in data.plan.to_dict("records"):
        if row["state"] != "done" and _variation(row, vary) == (variation or _variation(row, vary)):
            key = (str(row["config_mode"]), str(row["config_scaling"]), int(row["config_gpus"]))
            found[key] = _without_results(row)
    return found


def _without_results(row: Mapping[Any, Any]) -> str:
    """The table's words for a trial of the plan; the reason in full stands at the head of the report."""
    rows = row.get("epoch")
    if row["state"] == "partial" and pd.notna(rows) and rows > 0:
        return "not finished"
    return "failed" if row["state"] == "failed" else "not run"


def _cell(key: Key, rows: pd.DataFrame, seen: pd.DataFrame) -> Cell:
    """A set-up from its rows, and the profiler's of all set-ups, which may have seen it on another machine."""
    trials = tuple(dict.fromkeys(str(t) for t in rows["trial_id"]))
    measured, oom = rows[rows["result"] == "measured"], rows[rows["result"] == "oom"]
    fitting = measured[~measured["trial_id"].isin(oom["trial_id"])]
    lost = _lost(rows[~rows["trial_id"].isin(fitting["trial_id"])], len(trials)) if len(fitting) else {}
    full = lost.get("oom") or _full(oom)
    refused = {str(t): r for t, r in ((r.get("repeat"), refusal(key, r)) for r in measured.to_dict("records")) if r}
    if refused:
        return Cell(key, rows.iloc[:0], f"refused: {next(iter(refused.values()))}", trials, full=full)
    if fitting.empty:
        return Cell(key, fitting, full or f"skipped: {rows['reason'].iloc[0]}", trials, full=full)
    if not all(is_timed(row.get("config_timed")) for row in fitting.to_dict("records")):
        return Cell(key, rows.iloc[:0], "; ".join([*lost.values(), UNTIMED]), trials, full=full)
    profiled = seen[seen["trial_id"].isin(fitting["trial_id"]) & (seen["batch"] == key.batch)]
    profiled = fitting if profiled.empty else profiled
    return Cell(key, fitting, "", trials, profiled, full, "; ".join(lost.values()))


def _lost(rows: pd.DataFrame, seeds: int) -> dict[str, str]:
    """By result, in how many of a set-up's seeds it did not fit, or was skipped because a smaller batch did not."""
    oom = rows[rows["result"] == "oom"]
    skipped = rows[(rows["result"] == "skipped") & ~rows["trial_id"].isin(oom["trial_id"])]
    found = {"oom": (_full(oom), oom), "skipped": ("skipped", skipped)}
    return {k: f"{words} in {n} of {seeds} seeds" for k, (words, r) in found.items() if (n := r["trial_id"].nunique())}


def _full(oom: pd.DataFrame) -> str:
    """The table's words for rows that did not fit into a GPU's memory; empty where there are none."""
    if oom.empty:
        return ""
    return f"OOM (peak {peak / 2**30:.1f} GiB)" if (peak := float(oom["peak_memory_bytes"].max())) > 0 else "OOM"


def refusal(key: Key, row: Mapping[Any, Any]) -> str:
    """Why a row cannot be what it says it is; empty where nothing speaks against it.

    The number of iterations gives away a batch that was split among the GPUs (or not) against the scaling's name; a
    step that took less by the wall clock than by CUDA events was timed without waiting for the device.
    """
    per_gpu = key.batch if key.scaling == "weak" else key.batch / key.gpus
    expected = math.ceil(row["examples"] / (per_gpu * key.gpus))
    if row["iterations"] != expected:
        found, verb = counted(int(row["iterations"]), "iteration"), "is" if expected == 1 else "are"
        return f"{found} where {expected:,} {verb} expected"
    device = row.get("device_seconds")
    if isinstance(device, float) and row["step_seconds"] < SLACK * device:
        return "the clock was read before the GPU had finished"
    return ""
