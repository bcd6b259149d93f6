"""`executor=inline`: trials one after another in this process, for a debugger or a machine without Ray."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence

from farm.attempt import Request, StopFlag, back_off, run_attempt
from farm.signals import Signals
from farm.view import View


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
        for left in reversed(range(retries + 1)):
            stop.event.wait(back_off(request))
            end = run_attempt(request, stop, functools.partial(view.progress, label), lambda attempt: "")
            if end.how != "interrupted" or not left or signals.stopping():
                break
        view.ended(label, end.how)
