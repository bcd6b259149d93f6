"""How long a step of problem 2 takes with nothing around it, and what a launch costs: is a slow small batch the host's?

    PYTHONPATH=. python benchmarks/step_time.py [--json steps.json]        half a minute on one or two GPUs
    PYTHONPATH=. python benchmarks/step_time.py --batches 32 --profiler    what torch.profiler leaves behind, on a GPU
    PYTHONPATH=. python benchmarks/step_time.py --smoke                    seconds, on a CPU

ResNet-18 with the sheet's SGD, one batch that stays on the device, no loader. At each batch size: steps handed over one
after the other and waited for at the end ("piped"), and each waited for before the next, as problem 2's clock does
("synchronised"). Where a step takes as long at 32 images as at 128, the host's launches are what it takes, and a
machine with dearer launches is slower there by that factor and no slower at 2,048.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from trials import data_parallel, plain_loop
from trials.communication import profiled
from trials.timing import DeviceClock, launch_seconds

LAUNCHES = 20_000
WARM_UP, STEPS = 10, 30


def clock_of(device: torch.device) -> DeviceClock:
    """Problem 2's clock, which waits for every GPU before it is read."""
    count = torch.cuda.device_count() if device.type == "cuda" else 0
    return DeviceClock([torch.device("cuda", index) for index in range(count)])


def step_milliseconds(device: torch.device, gpus: int, batch: int, width: int) -> dict[str, float]:
    """Median step in ms, piped and synchronised. `gpus` 0 is the network itself, otherwise it is in DataParallel."""
    model: nn.Module = data_parallel.resnet18(width, seed=0).to(device)
    if gpus:
        model = nn.DataParallel(model, device_ids=list(range(gpus)) if device.type == "cuda" else None)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=5e-4)
    total = batch * max(gpus, 1)
    images, labels = torch.randn(total, 3, 32, 32, device=device), torch.randint(10, (total,), device=device)

    def step() -> None:
        plain_loop.train_step(model, optimizer, images, labels)

    clock = clock_of(device)
    for _ in range(WARM_UP):
        step()
    began = clock.now()
    for _ in range(STEPS):
        step()
    piped = (clock.now() - began) / STEPS
    single = []
    for _ in range(STEPS):
        began = clock.now()
        step()
        single.append(clock.now() - began)
    return {"piped_ms": 1000 * piped, "synchronised_ms": 1000 * statistics.median(single)}


def table(device: torch.device, counts: Sequence[int], batches: Sequence[int], width: int) -> dict[str, object]:
    """Measure and print a launch, and a step for each number of GPUs and batch."""
    launch = launch_seconds([device], LAUNCHES)
    print(f"{1e6 * launch:.2f} µs a launch" if launch else "no launches on a CPU")
    steps = []
    for gpus in counts:
        for batch in batches:
            steps.append({"gpus": gpus, "batch_per_gpu": batch} | step_milliseconds(device, gpus, batch, width))
            wrapper = f"DataParallel on {gpus}" if gpus else "the network itself"
            piped, single = steps[-1]["piped_ms"], steps[-1]["synchronised_ms"]
            print(
                f"{wrapper:20} {batch:5} images a GPU  {piped:8.2f} ms piped  {single:8.2f} ms synchronised", flush=True
            )
            data_parallel.release_memory()
    return {"launch_us": launch and 1e6 * launch, "steps": steps}


def main() -> None:
    """Print the table; with --json write it too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a narrow network and small batches, on the CPU")
    parser.add_argument("--batches", type=int, nargs="+", metavar="N", help="images a GPU")
    parser.add_argument(
        "--profiler", action="store_true", help="once more after torch.profiler has run, which slows a process down"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    device = torch.device("cpu" if options.smoke else "cuda")
    width, batches = (4, [8, 32]) if options.smoke else (64, [32, 128, 512, 2048, 8192])
    data_parallel.configure(device.type, 1, "tf32", cudnn_benchmark=False)
    counts = [0, 1] if options.smoke else [0, *range(1, torch.cuda.device_count() + 1)]
    name = "CPU" if options.smoke else torch.cuda.get_device_name()
    print(name)
    found = {"device": name} | table(device, counts, options.batches or batches, width)
    if options.profiler:
        profiled(lambda: step_milliseconds(device, 0, 32, width), on_gpu=device.type == "cuda")
        print("after torch.profiler has run:")
        found["after_profiler"] = table(device, counts, options.batches or batches, width)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
