"""`executor=inline`: trials one after another in this process, for a debugger or a machine without Ray."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path

from farm import failures
from farm.attempt import Request, StopFlag, run_attempt
from farm.ledger.store import trial_path
from farm.signals import Signals
from farm.view import View
from trials.spec import Spec


def run_inline(jobs: Sequence[tuple[str, Request]], view: View, signals: Signals, retries: int) -> None:
    """Run requests in turn until all have ended or a drain is asked for; `retries` as under Ray."""
    stop = StopFlag()
    signals.call(stop.set)
    if os.environ.get("CUDA_VISIBLE_DEVICES") is None and all(r.device == "cpu" for _, r in jobs):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    for label, request in jobs:
        if signals.stopping():
            return
        view.started(label)
        trial, driver = trial_path(Path(request.ledger), Spec(**request.spec)), request.info.get("driver")
        for left in reversed(range(retries + 1)):
            stop.event.wait(failures.back_off(trial, driver, request.back_off_seconds))
            end = run_attempt(request, stop, functools.partial(view.progress, label), lambda attempt: "")
            if end.how != "interrupted" or not left or signals.stopping() or failures.is_hopeless(trial, driver):
                break
        view.ended(label, end.how)
