"""`executor=inline`: trials one after another in this process, for a debugger or a machine without Ray."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator, Sequence

from farm import failures
from farm.attempt import Request, StopFlag, run_attempt
from farm.signals import Signals
from farm.view import View


def run_inline(jobs: Sequence[tuple[str, Request]], view: View, signals: Signals, retries: int) -> None:
    """Run requests in turn until all have ended or a drain is asked for; `retries` as under Ray."""
    with _without_gpus(all(request.device == "cpu" for _, request in jobs)):
        _run(jobs, view, signals, retries)


@contextlib.contextmanager
def _without_gpus(hidden: bool) -> Iterator[None]:
    """Hide the GPUs from runs that use none; afterwards, what else this process starts sees them again."""
    hidden = hidden and "CUDA_VISIBLE_DEVICES" not in os.environ
    if hidden:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        yield
    finally:
        if hidden:
            del os.environ["CUDA_VISIBLE_DEVICES"]


def _run(jobs: Sequence[tuple[str, Request]], view: View, signals: Signals, retries: int) -> None:
    stop = StopFlag()
    signals.call(stop.set)
    for label, request in jobs:
        if signals.stopping():
            return
        view.started(label)
        trial, driver = request.trial, request.info.get("driver")
        how = "drained"
        for left in reversed(range(retries + 1)):
            stop.wait(failures.back_off(trial, driver, request.back_off_seconds))
            if stop.is_set():
                break
            failures.attempt_begins(request.ledger)
            if left < retries:
                view.waits_again(label)
                view.started(label)
            end = run_attempt(request, stop, functools.partial(view.progress, label), lambda attempt: "")
            how = end.how
            if how != "interrupted" or not left or signals.stopping() or failures.is_hopeless(trial, driver):
                break
        view.ended(label, how)
