"""The farm on Slurm: one allocation (`farm submit`), elastic workers (`farm up`), and what runs inside their jobs."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """`farm.slurm.SlurmNodeProvider`, as cluster.yaml names it; imported only there, since it imports Ray."""
    if name == "SlurmNodeProvider":
        from farm.slurm.provider import SlurmNodeProvider

        return SlurmNodeProvider
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
