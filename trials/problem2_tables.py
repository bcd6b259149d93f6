"""Columns of problem 2's row tables. No torch here: configuration and export read them."""

from __future__ import annotations

from trials.spec import Column

PARTS = {
    "data": "waiting for the loader, its start and end included, and in DDP for the other ranks' batches",
    "copy": "moving a batch from the host to the device",
    "step": "forward, backward and update, communication included, by the synchronised wall clock",
    "device": "the same by CUDA events",
}
KINDS = {
    "all_reduce": "all-reduces",
    "broadcast": "broadcasts",
    "reduce": "reductions onto one GPU",
    "peer_copy": "copies between GPUs",
    "communication": "all of these, moments of overlap once",
    "exposed": "communication while no other kernel ran",
    "waiting": "DDP: inside collectives, until the last rank came to them; in none of the other columns",
}


def _part(name: str, meaning: str) -> tuple[Column, ...]:
    return (
        Column(f"{name}_seconds", "float", "s", True, "lower", f"{meaning}; sum of an epoch"),
        Column(f"{name}_p50_seconds", "float", "s", True, "lower", f"{meaning}; median of the iterations"),
        Column(f"{name}_p95_seconds", "float", "s", True, "lower", f"{meaning}; 95th percentile of the iterations"),
    )


EPOCHS: tuple[str | Column, ...] = (
    Column("epoch", "int", "epochs", help="number of the row within its trial, from 1"),
    Column("batch", "int", "images", help="rung of the ladder: images a GPU (weak scaling) or in all (strong)"),
    Column("batch_per_gpu", "int", "images", help="images of an iteration on one GPU"),
    Column("total_batch", "int", "images", help="images of an iteration on all GPUs"),
    Column("repeat", "int", help="repetition, from 1"),
    Column("result", "str", measured=True, help="measured, oom, skipped, or profiled"),
    Column("reason", "str", measured=True, help="why there is no measurement"),
    Column("examples", "int", "images", help="training images of an epoch"),
    Column("iterations", "int", "iterations", help="iterations of one epoch"),
    Column("passes", "int", help="epochs that the measurement is the mean of"),
    "samples",
    "train_loss",
    Column("epoch_seconds", "float", "s", True, "lower", "wall clock of an epoch, everything included"),
    *(column for name, meaning in PARTS.items() for column in _part(name, meaning)),
    *(
        Column(f"profiled_{name}_seconds", "float", "s", True, "lower", f"{meaning}; of an epoch, by the profiler")
        for name, meaning in KINDS.items()
    ),
    Column("gradient_bytes", "int", "bytes", help="one gradient in float32"),
    Column("buffer_bytes", "int", "bytes", help="the network's buffers"),
    "peak_memory_bytes",
    Column("launch_seconds", "float", "s", True, "lower", "the host's, to hand over one kernel, right after the epoch"),
    Column("clock_sm_mhz", "int", "MHz", True, help="lowest clock of the trial's GPUs right after the epoch"),
    Column("device", "str", measured=True, help="the GPUs' model, or cpu"),
    Column("driver", "str", measured=True, help="version of the GPUs' driver"),
    Column("cuda_version", "str", measured=True),
    Column("nccl_version", "str", measured=True),
    Column("topology", "str", measured=True, help="how the node's GPUs are joined"),
    Column("cotenants", "int", measured=True, help="other compute processes on the trial's GPUs when it began"),
    Column("load", "float", measured=True, help="the node's load (runnable processes over a minute) when it began"),
)
"""A row for each measured epoch: rung and repetition; one for a rung that did not fit or was skipped; and on several
GPUs one for each repetition under the profiler, without times of its own."""
LINKS: tuple[str | Column, ...] = (
    Column("link", "str", help="all_reduce, or copy from one GPU to another"),
    Column("backend", "str", help="nccl or gloo"),
    Column("bytes", "int", "bytes", help="size of the message"),
    Column("source", "int", help="GPU that is copied from, by its place in the trial"),
    Column("target", "int", help="GPU that is copied to"),
    Column("peer_access", "int", measured=True, help="1 where the target's GPU can read the source's memory itself"),
    Column("seconds", "float", "s", True, "lower", "median time of one"),
    Column("bandwidth", "float", "bytes/s", True, "higher", "of a copy; of an all-reduce 2(N-1)/N of its bytes"),
)
"""What the links can do, measured once a trial."""
GPUS: tuple[str | Column, ...] = (
    Column("gpu", "int", measured=True, help="nvidia-smi's number"),
    Column("uuid", "str", measured=True),
    Column("model", "str", measured=True),
    Column("driver", "str", measured=True),
    Column("clock_sm_mhz", "int", "MHz", True, help="when the trial began"),
    Column("clock_memory_mhz", "int", "MHz", True, help="when the trial began"),
    Column("clock_sm_most_mhz", "int", "MHz", True),
    Column("power_limit_watts", "float", "W", True),
    Column("pcie_generation", "int", measured=True),
    Column("pcie_width", "int", "lanes", measured=True),
    Column("memory_mib", "int", "MiB", measured=True),
)
"""The trial's GPUs."""
TABLES: dict[str, tuple[str | Column, ...]] = {"epochs": EPOCHS, "links": LINKS, "gpus": GPUS}
