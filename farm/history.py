"""Estimates from the ledger's own history: what a trial will take, by its nearest finished relatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from trials.spec import Spec

IGNORED = ("config_seed",)


def estimated_gpu_hours(ledger: Path, specs: Sequence[Spec], gpus: Mapping[str, float]) -> dict[str, float]:
    """GPU-hours of each spec by id, from the finished trials that differ in the fewest parameters.

    The median of their seconds, scaled by epochs where the two have that parameter. Specs without any finished
    relative (same trial module and hardware) are left out.
    """
    path = ledger / "export" / "trials.parquet"
    if not specs or not path.exists():
        return {}
    import pyarrow.parquet as pq

    from farm.ledger.schema import config_columns

    done = pq.read_table(path).to_pydict()
    columns = [c for c in done if c.startswith("config_") and c not in (*IGNORED, "config_epochs")]
    seconds = np.array(done.get("seconds", []), dtype=float)
    if not len(seconds):
        return {}
    table = np.array([[repr(v) for v in done[c]] for c in columns], dtype=object).T
    epochs = np.array([e or 1 for e in done.get("config_epochs", [1] * len(seconds))], dtype=float)
    fixed = [columns.index(c) for c in ("config_module", "config_hardware") if c in columns]
    hours: dict[str, float] = {}
    cache: dict[tuple[str, ...], float | None] = {}
    for spec in specs:
        values = config_columns(spec)
        key = tuple(repr(values.get(c)) for c in columns)
        if key not in cache:
            cache[key] = _nearest_rate(np.array(key, dtype=object), table, fixed, seconds / epochs)
        rate = cache[key]
        if rate is not None:
            hours[spec.id] = rate * float(values.get("config_epochs") or 1) * gpus.get(spec.id, 0.0) / 3600
    return hours


def _nearest_rate(key: np.ndarray, table: np.ndarray, fixed: list[int], rates: np.ndarray) -> float | None:
    differs = table != key
    distance = differs.sum(axis=1).astype(float)
    distance[differs[:, fixed].any(axis=1)] = np.inf
    best = distance.min()
    return float(np.median(rates[distance == best])) if np.isfinite(best) else None
