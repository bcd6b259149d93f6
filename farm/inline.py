"""`executor=inline`: trials one after another in this process, for a debugger or a machine without Ray."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import Any

from farm.attempt import Request, StopFlag, run_attempt
from farm.view import View


def run_inline(jobs: Sequence[tuple[str, Request]], view: View, signals: Any) -> None:
    """Run requests in turn until all have ended or a drain is asked for."""
    stop = StopFlag()
    first = signals.on_first

    def drain() -> None:
        first()
        stop.set()

    signals.on_first = drain
    if os.environ.get("CUDA_VISIBLE_DEVICES") is None and all(r.device == "cpu" for _, r in jobs):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    for label, request in jobs:
        if signals.stopping():
            return
        view.started(label)
        end = run_attempt(request, stop, lambda row, label=label: view.progress(label, row), lambda attempt: "")  # type: ignore[misc]
        view.ended(label, end.how)
    signal.signal(signal.SIGINT, signal.default_int_handler)
