"""A made-up export of problem 2 whose numbers are known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

H200 = {"device": "NVIDIA H200", "driver": "580.1", "topology": "4 GPUs, NV18 between all"}
CPU = {"device": "cpu", "driver": "", "topology": "cpu"}
S = 44_695_848
COMPUTE, COPY, WAIT = 10.0, 0.4, 2.0
"""Seconds of an epoch on one GPU at batch 32."""
TALK = {2: 0.6, 4: 0.8}
"""Communication of an epoch at batch 32, by the number of GPUs."""
CONFIG = {"dataset": "cifar10", "fingerprint": "f", "revision": 1, "timed": True, "module": "trials.problem2"}
CONFIG |= {"precision": "tf32", "repeats": 3, "workers": 2, "pinned": False, "cudnn_benchmark": False, "width": 64}
CONFIG |= {"seed": 0, "threads": 1, "train_examples": 0, "least_iterations": 10}
CONFIG |= {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 5e-4}


class Made:
    """Collects trials of a made-up study."""

    def __init__(self) -> None:
        self.plan: list[dict[str, Any]] = []
        self.trials: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = []
        self.links: list[dict[str, Any]] = []
        self.attempts: list[dict[str, Any]] = [{"trial_id": "none", "attempt": 1}]

    def trial(
        self, gpus: int, mode: str = "dataparallel", scaling: str = "weak", state: str = "done", reason: str = "",
        machine: dict[str, str] = H200, epoch: int | None = None, **config: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """A trial of the plan; its identity and configuration for its rows."""
        values = CONFIG | {"mode": mode, "scaling": scaling, "gpus": gpus, "hardware": machine["device"]} | config
        number = f"{len(self.plan):012x}"
        known = {"trial_id": number, "name": f"{mode}-{scaling}-{gpus}"} | {f"config_{k}": v for k, v in values.items()}
        self.plan.append(
            known | {"state": state, "status": "completed" if state == "done" else "", "reason": reason, "epoch": epoch}
        )
        if state == "done":
            self.trials.append(
                known | {"status": "completed", "device": machine["device"], "devices": machine["device"]}
            )
        return known | machine

    def epochs(self, known: dict[str, Any], batch: int, **changes: Any) -> None:
        """Three repetitions of a rung, a hundredth apart, with the times that the constants give."""
        gpus = known["config_gpus"]
        per_gpu = batch if known["config_scaling"] == "weak" else batch // gpus
        iterations = math.ceil(50_000 / (per_gpu * gpus))
        share = iterations / 1563
        for repeat in (1, 2, 3):
            jitter = 1 + (repeat - 2) / 100
            step = (COMPUTE * share + TALK.get(gpus, 0.0) * 32 / per_gpu) * jitter
            row = {"batch": batch, "batch_per_gpu": per_gpu, "repeat": repeat, "result": "measured", "reason": None}
            row |= {"examples": 50_000, "iterations": iterations, "passes": max(1, math.ceil(10 / iterations))}
            row |= {"data_seconds": WAIT * share, "copy_seconds": COPY * share * jitter, "step_seconds": step}
            row |= {"epoch_seconds": WAIT * share + COPY * share * jitter + step, "device_seconds": 0.99 * step}
            row |= {"step_p50_seconds": step / iterations, "step_p95_seconds": 2 * step / iterations}
            row |= {"device_p50_seconds": step / iterations, "gradient_bytes": S, "peak_memory_bytes": 2.0**30}
            row |= {"clock_sm_mhz": 1980, "cotenants": 0}
            row |= {"profiled_communication_seconds": 0.5 if gpus > 1 else None}
            row |= {"profiled_broadcast_seconds": 0.375 if gpus > 1 else None}
            row |= {"profiled_exposed_seconds": 0.25 if gpus > 1 else None}
            self.rows.append(known | row | {"epoch": len(self.rows) + 1} | changes)

    def profiled(self, known: dict[str, Any], batch: int, **seconds: float) -> None:
        """Three rows of the profiler; `epochs` has its columns in the measured rows, as older revisions do."""
        for repeat in (1, 2, 3):
            row = {"batch": batch, "repeat": repeat, "result": "profiled", "examples": 50_000, "iterations": 1}
            self.rows.append(known | row | {"epoch": len(self.rows) + 1} | seconds)

    def other(self, known: dict[str, Any], batch: int, result: str, reason: str, peak: float | None = None) -> None:
        """A rung without a measurement."""
        row = {"batch": batch, "repeat": 1, "result": result, "reason": reason, "peak_memory_bytes": peak}
        row |= {"examples": 50_000, "gradient_bytes": S, "epoch": len(self.rows) + 1}
        self.rows.append(known | row)

    def link(self, known: dict[str, Any], link: str, size: int, bandwidth_: float) -> None:
        """What a link was measured to do."""
        self.links.append(known | {"link": link, "bytes": size, "bandwidth": bandwidth_, "seconds": 1.0})

    def write(self, results: Path) -> Path:
        """The export; returns the study's directory."""
        export = results / "problem2" / "export"
        export.mkdir(parents=True)
        tables = {"plan": self.plan, "trials": self.trials, "epochs": self.rows, "links": self.links}
        tables |= {"attempts": self.attempts, "gpus": [{"trial_id": "none"}]}
        empty = pd.DataFrame({name: pd.Series(dtype=str) for name in ("trial_id", "name", "status")})
        for name, rows in tables.items():
            (pd.DataFrame(rows) if rows else empty).to_parquet(export / f"{name}.parquet", index=False)
        return results / "problem2"
