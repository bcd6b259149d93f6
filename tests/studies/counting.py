"""A trial that counts: exact, resumable, as long as it is told to be, and able to end in every way a trial can."""

from __future__ import annotations

import hashlib
import math
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trials.ranks import Ranks
from trials.spec import Column, Context, Outcome, Scalar, Spec, TrialRun, parameter

REVISION = 1
COLUMNS = (Column("value", "int", help="the running hash, as a number"),)
ENDS = ("completed", "diverged", "failed", "oom", "storage", "killed", "nccl", "host_oom", "rank_host_oom", "crashed")


@dataclass(frozen=True)
class Parameters:
    """How long a trial is, and how it ends."""

    factor: int = parameter(1, "what is added", minimum=0, maximum=1_000_000)
    epochs: int = parameter(3, "epochs", unit="epochs", minimum=1, maximum=1000)
    seconds: float = parameter(0.0, "time of an epoch", unit="s", minimum=0)
    end: str = parameter("completed", "how the trial ends", choices=ENDS)
    end_epoch: int = parameter(2, "epoch in which it ends so", unit="epochs", minimum=1)
    once: bool = parameter(False, "ends so in its first attempt only")
    gpus: float = parameter(0.0, "GPUs, for studies that name this parameter", unit="GPUs", minimum=0)


def check(parameters: Mapping[str, Scalar]) -> str | None:
    """What is wrong with a combination of parameters."""
    return "factor=13 brings bad luck" if parameters["factor"] == 13 else None


def run(spec: Spec, context: Context) -> TrialRun:
    """A chain of hashes over (factor, seed): a lost or repeated epoch would change all that follow."""
    p = Parameters(**spec.parameters)  # type: ignore[arg-type]
    state = context.state or {"epoch": 0, "value": spec.seed}
    value = state["value"]
    first = context.state is None
    for epoch in range(state["epoch"] + 1, p.epochs + 1):
        deadline = time.monotonic() + p.seconds
        while time.monotonic() < deadline:
            context.check_stop()
            time.sleep(0.005)
        if epoch == p.end_epoch and (first or not p.once):
            if p.end == "diverged":
                return Outcome("diverged", {"diverged_epoch": epoch})
            _end(p.end)
        text = f"{value} {p.factor} {epoch}"
        value = int(hashlib.sha256(text.encode()).hexdigest()[:12], 16)
        now = {"epoch": epoch, "value": value}
        yield [{"epoch": epoch, "train_loss": math.exp(-epoch), "value": value}], lambda now=now: now  # type: ignore[misc]
    return Outcome("completed", {"weights_sha256": hashlib.sha256(str(value).encode()).hexdigest()})


def _end(how: str) -> None:
    if how == "failed":
        raise ValueError("a bug in the trial")
    if how == "storage":
        raise OSError(28, "No space left on device")
    if how == "nccl":
        raise RuntimeError(
            "NCCL error in: ProcessGroupNCCL.cpp:2384, remote process exited or there was a network error"
        )
    if how == "host_oom":
        bytearray(2**62)
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "rank_host_oom":
        with Ranks(1, "cpu", 1) as ranks:
            ranks.run(_starve)
    if how == "crashed":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "oom":
        import torch

        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 EiB.")


def _starve() -> None:
    """Take more memory than the group of processes that $FARM_TEST_CGROUP names may have."""
    (Path(os.environ["FARM_TEST_CGROUP"]) / "cgroup.procs").write_text("0")
    bytearray(b"x") * 2**28
