"""`farm reproduce`: the four studies of the sheet, one after another, and what is missing afterwards.

Each study is a run of its own (`farm/run.py` in a child process), so all that holds for a run holds here: what is
done is not repeated, a signal drains, and the same command goes on. A child dies with this process.
"""

from __future__ import annotations

import dataclasses
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from farm import config as configuration
from farm import study
from farm.checks import counted, short_path
from farm.config import ROOT, Config
from farm.errors import COMPLETE, FAILED, INTERRUPTED, RESUMABLE, PreflightError, UsageError
from farm.history import estimated_seconds
from farm.plan import Plan, Trial
from farm.signals import Signals, passed_to
from farm.view import counts
from trials.parent import end_with_parent

STUDIES = ("problem=3", "problem=1", "problem=2", "problem=4")
"""The one that needs no GPU first, the longest last."""
REFERENCE = ROOT / "analysis" / "reference"
"""Exports measured on real GPUs, where they are there: what a missing trial took elsewhere."""


@dataclass(frozen=True)
class Part:
    """One study of the whole: its command's words, how its run ended, and its plan as it stands then."""

    words: tuple[str, ...]
    config: Config
    exit_code: int
    plan: Plan


def reproduce(
    overrides: Sequence[str], report: Callable[[Config], None], studies: Sequence[str] = STUDIES
) -> tuple[int, list[Part]]:
    """Run each study and `report` it; the exit code, as of a run, and the parts. A drain ends it at once.

    Where a run was refused (exit 3) and another had failed trials (1), it is 3: that is to be mended first.
    """
    if wrong := [o for o in overrides if o.partition("=")[0] in ("problem", "study", "trial")]:
        raise UsageError(f"{wrong[0]}: farm reproduce runs every study; farm run {wrong[0]} runs one")
    configs = [configuration.load([s, *overrides]) for s in studies]  # a misspelt word ends it before anything runs
    parts: list[Part] = []
    received: list[int] = []
    stopped = None
    for selector, config in zip(studies, configs, strict=True):
        words = (selector, *overrides)
        if stopped is None:
            print(f"== {config.settings.title or config.study} ({selector}) ==", flush=True)
        code = _run(words, received) if stopped is None else stopped
        parts.append(Part(words, config, code, study.make_plan(study.settled(config))))
        if code in (RESUMABLE, INTERRUPTED):
            stopped = code  # the rest is not begun, and missing
        elif (config.ledger / "export").is_dir():
            report(config)
        stopped = stopped or Signals(received).exit_code  # one came when the child was done with all but its figures
    if all(part.exit_code == COMPLETE for part in parts):
        return COMPLETE, parts
    return stopped or max(part.exit_code if part.exit_code >= 0 else FAILED for part in parts), parts  # killed: below 0


def _run(arguments: Sequence[str], received: list[int]) -> int:
    """`farm/run.py` as a child that gets this process's signals and does not outlive it; `received` gets them too."""
    command = [sys.executable, str(ROOT / "farm" / "run.py"), *arguments]
    child = subprocess.Popen(command, preexec_fn=end_with_parent)

    def pass_on(number: int) -> None:
        received.append(number)
        if number != signal.SIGINT:  # a terminal sends that one to both
            child.send_signal(number)

    with passed_to(pass_on):
        return child.wait()


def lacking(parts: Sequence[Part], reference: Path = REFERENCE) -> Iterator[str]:
    """What is missing, study by study, and what it would take; one line where nothing is."""
    if all(part.exit_code == COMPLETE for part in parts):
        yield "nothing is missing: every trial of every study is done"
        return
    for part in parts:
        missing = [t for t in part.plan.trials if t.state != "done"]
        if not missing:
            yield f"{part.plan.study}: complete ({len(part.plan.trials)} trials)"
            continue
        share = f"{len(missing)} of {len(part.plan.trials)} trials are missing"
        yield f"{part.plan.study}: {share} ({counts(part.plan, _OPEN)})"
        for reason in dict.fromkeys(t.reason.strip().splitlines()[-1] for t in missing if t.reason.strip()):
            yield f"  {reason}"
        if part.exit_code == PreflightError.exit_code:
            yield "  its run was refused; the message is above"
        yield f"  {_needs(part, missing, reference)}"


_OPEN = ("partial", "new", "failed", "unschedulable")


def _needs(part: Part, missing: Sequence[Trial], reference: Path) -> str:
    """ "it takes 4 GPUs on one node at most and about 3.10 GPU-hours (…): farm submit problem=4 site=…"."""
    gpus = max(t.bundle.gpu for t in missing)
    hardware = f"{counted(gpus, 'GPU')} on one node" if gpus else f"{missing[0].bundle.cpu:g} CPU"
    words = shlex.join(part.words)
    site = "" if any(w.startswith("site=") for w in part.words) else " site=NAME"
    hint = f"python farm/run.py {words}" + (f", or farm submit {words}{site}" if gpus else "")
    if any(t.state == "failed" for t in missing):
        words = shlex.join(w for w in part.words if not w.startswith("retry="))
        hint = f"python farm/run.py {words} retry=failed"
    return f"it takes {hardware} and {_time(part, missing, reference)}: {hint}"


def _time(part: Part, missing: Sequence[Trial], reference: Path) -> str:
    """GPU-hours by this ledger's history, else by the reference measurements, else that nobody knows."""
    seconds: dict[str, float] = {t.id: t.seconds for t in missing if t.seconds is not None}
    source = f"by what has finished in {short_path(part.config.ledger)}"
    if len(seconds) < len(missing):
        seconds, model = _reference_seconds(missing, reference / part.plan.study)
        source = f"as measured on {model}"
    if len(seconds) < len(missing):
        return "a time that nothing here tells (no relative has completed)"
    hours = sum(seconds[t.id] * (t.bundle.gpu or 1) / 3600 for t in missing)
    return f"about {hours:.2f} {'GPU' if any(t.bundle.gpu for t in missing) else 'CPU'}-hours ({source})"


def _reference_seconds(missing: Sequence[Trial], ledger: Path) -> tuple[dict[str, float], str]:
    """Estimates by id from the reference's trials, as if these were asked for on its GPU model; and that model."""
    export = ledger / "export" / "trials.parquet"
    if not export.exists():
        return {}, ""
    import pandas as pd

    models = pd.read_parquet(export, columns=["config_hardware"])["config_hardware"].dropna()
    model = str(models.mode().iloc[0]) if len(models) else None
    there = {t.id: dataclasses.replace(t.spec, hardware=model if t.spec.timed else None) for t in missing}
    epochs = {there[t.id].id: t.epoch for t in missing}
    found = estimated_seconds(ledger, list(there.values()), epochs)
    return {i: found[s.id] for i, s in there.items() if s.id in found}, model or "the reference machine"
