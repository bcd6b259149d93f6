"""The end of an attempt whose process was killed or crashed, recorded by whoever saw it die."""

from __future__ import annotations

import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from farm.attempt import Request
from farm.failures import kernel_says, kind_of_exit
from farm.ledger.durable import read_json
from farm.ledger.scan import progress
from farm.ledger.store import Attempt
from trials.spec import Spec


def record_killed(request: Request, number: int, code: int, by_kernel: bool = False) -> dict[str, Any]:
    """Record the end of attempt `number` (0: it had none yet) with a process's exit code; what `End` would hold of it.

    `by_kernel`: on this node the kernel has killed for want of memory meanwhile.
    """
    kind = kind_of_exit(code, by_kernel)
    if kind == "bug" and not number:  # before the claim nothing of the trial's has run
        kind = "killed"
    how = "failed" if kind == "bug" else "killed"
    text = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    if kind == "host_oom":
        text += (
            " while the node ran out of memory: fewer trials at once (resources.cpu=), or a smaller batch, need less"
        )
    elif code == -signal.SIGKILL and not kernel_says():
        text += "; the kernel, which kills what uses too much memory, does not say here whether it was that"
    end: dict[str, Any] = {
        "epoch": 0,
        "error_class": "Crashed" if kind == "bug" else "Killed",
        "error": f"the trial's process {text}",
        "failure": kind,
    }
    if number:
        attempt = Attempt(Path(request.ledger), Spec(**request.spec), number, request.trial)
        begun = (read_json(attempt.path / "attempt.json") or {}).get("started_at")
        seconds = (datetime.now(UTC) - datetime.fromisoformat(begun)).total_seconds() if begun else None
        end |= {"epoch": progress(attempt.trial).epoch, "log_path": str(attempt.path / "log.txt"), "seconds": seconds}
        try:
            attempt.end(how, end)
        except OSError as error:
            print(f"its end could not be recorded: {error}", file=sys.stderr)
    return end | {"how": how}
