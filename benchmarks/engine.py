"""Images a second of the usual loop and of the engine, in one run, against the memory bound.

    PYTHONPATH=. python benchmarks/engine.py [--compile] [--profile] [--out engine.json]        a few minutes on a GPU
    PYTHONPATH=. python benchmarks/engine.py --smoke                                         half a minute on a CPU

Measured for ResNet-44 (problem 4: SGD, crop, flip and cutout) at M*B = 64, 128, 512 and 2048, and for problem 1's
perceptron (batch 128, Adam): the usual loop (DataLoader with 2 and with 8 workers, torchvision's transforms, eager
fp32 as torch's defaults have it), and the engine. Images are drawn at random: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bound import copy_bytes_per_second, synchronize, traffic
from torch import nn

from trials import engine, models, plain_loop, process
from trials.splits import Images

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


@dataclass
class Result:
    """One line of the table."""

    network: str
    batch: int
    path: str
    images_per_second: float
    steps_per_second: float
    startup_seconds: float | None = None
    peak_memory_bytes: int | None = None
    bound_share: float | None = None
    fused_bound_share: float | None = None
    ratio: float | None = None


@dataclass(frozen=True)
class Workload:
    """A network with what it is trained by. `optimizer_values` is what the optimizer keeps for each weight."""

    name: str
    model: Callable[[], nn.Module]
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    augmentation: str
    optimizer_values: int


def workloads(device: str, smoke: bool) -> tuple[Workload, Workload]:
    """Problem 4's and problem 1's."""
    depth, sizes = (8, (3072, 100, 100, 10)) if smoke else (44, (3072, 1000, 1000, 10))

    def sgd(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(engine.decay_groups(model, 1e-4), lr=0.1, momentum=0.9, fused=True)

    def adam(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-4, fused=True)

    def resnet() -> nn.Module:
        return models.cifar_resnet(depth, "projection", 0)

    def perceptron() -> nn.Module:
        return models.multilayer_perceptron(0, sizes=sizes)

    return (
        Workload(f"ResNet-{depth}", resnet, sgd, "cutout", 1),
        Workload("perceptron", perceptron, adam, "none", 2),
    )


def usual_loop(work: Workload, data: Images, batch: int, workers: int, device: str, seconds: float) -> Result:
    """The plain loop, after four batches that are not counted."""
    process.configure(device, torch.get_num_threads(), "fp32", False)
    torch.backends.cudnn.conv.fp32_precision = "tf32"  # torch's default, which the usual loop has
    torch.backends.cudnn.benchmark = False
    model = work.model().to(device)
    optimizer = work.optimizer(model)
    pipeline = plain_loop.transform(work.augmentation, MEAN, STD)
    dataset = plain_loop.ImageDataset(data.images, data.labels, pipeline)

    def batches() -> Iterator[plain_loop.Batch]:
        while True:
            yield from plain_loop.loader(dataset, batch, train=True, workers=workers)

    model.train()
    steps, started = 0, 0.0
    for number, (images, labels) in enumerate(batches()):
        if number == 4:
            synchronize(device)
            started = time.perf_counter()
        loss, errors = plain_loop.train_step(model, optimizer, images.to(device), labels.to(device))
        loss.item(), errors.item()  # as the loop's sums do
        steps += number >= 4
        if started and time.perf_counter() - started > seconds:
            break
    elapsed = time.perf_counter() - started
    path = f"usual loop, {workers} workers"
    return Result(work.name, batch, path, steps * batch / elapsed, steps / elapsed)


def engine_run(
    work: Workload, data: Images, batch: int, device: str, seconds: float, profile: bool, **recipe: Any
) -> Result:
    """The engine's own step over epochs whose table is drawn beforehand; the median epoch."""
    precision = recipe["precision"]
    process.configure(device, torch.get_num_threads(), precision, False)
    if device == "cuda":
        gc.collect()  # the last trainer and its graph
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    trainer = engine.Trainer(
        work.model(), work.optimizer, data, {},
        engine.Recipe(batch, 0, MEAN, STD, augmentation=work.augmentation, **recipe), device,
    )  # fmt: skip
    trainer.prepare()
    trainer.table.copy_(engine.epoch_table(0, 0, len(data.labels), batch, 1, work.augmentation))
    trainer.rates.fill_(1e-3)
    trainer.model.train()
    times: list[float] = []
    while len(times) < 2 or sum(times[1:]) < seconds:
        trainer.position.zero_()
        synchronize(device)
        started = time.perf_counter()
        for _ in range(trainer.steps):
            trainer.step()
        synchronize(device)
        times.append(time.perf_counter() - started)
    rate = trainer.steps / statistics.median(times[1:])  # the first epoch warms up
    kernels = recipe.get("kernels", "auto")
    path = "engine, " + precision + ("" if kernels == "auto" else f", {kernels} kernels")
    path += ", compiled" if recipe.get("compile") else ""
    if profile:
        print_profile(trainer, f"{work.name}, batch {batch}, {path}")
    peak = process.peak_memory_bytes(device)
    return Result(work.name, batch, path, rate * batch, rate, trainer.startup_seconds, peak)


def print_profile(trainer: engine.Trainer, title: str, steps: int = 4) -> None:
    """Where a step's time goes, kernel by kernel."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    trainer.position.zero_()
    with profiler(activities=[ProfilerActivity.CUDA]) as trace:
        for _ in range(steps):
            trainer.step()
        torch.cuda.synchronize()
    events = [e for e in trace.key_averages() if e.self_device_time_total > 0]
    total = sum(e.self_device_time_total for e in events) / steps
    count = sum(e.count for e in events) / steps
    print(f"\n{title}: {count:.0f} kernels a step, {total:.0f} us in them")
    for event in sorted(events, key=lambda e: -e.self_device_time_total)[:12]:
        print(f"{event.self_device_time_total / steps:9.1f} us {event.count / steps:6.1f} x  {event.key[:80]}")


def cases(device: str, smoke: bool, compiled: bool) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Workload (0 or 1), batch and recipe of each engine run; a recipe with `workers` is the usual loop's."""
    for batch in (16,) if smoke else (64, 2048):
        yield 0, batch, {"workers": 2}
    if not smoke:
        yield 0, 64, {"workers": 8}
    yield 1, 128, {"workers": 2}
    if device == "cpu":
        yield from ((0, 16 if smoke else 64, {"precision": "fp32"}), (1, 128, {"precision": "fp32"}))
        return
    for batch in (64, 128, 512, 2048):
        yield 0, batch, {"precision": "bf16"}
    for batch in (64, 2048):
        yield 0, batch, {"precision": "bf16", "kernels": "torch"}
        yield 0, batch, {"precision": "fp32"}
    if compiled:
        yield 0, 64, {"precision": "bf16", "compile": True}
    for precision in ("tf32", "bf16"):
        yield 1, 128, {"precision": precision}
    if compiled:
        yield 1, 128, {"precision": "tf32", "compile": True}


def run(device: str, smoke: bool, compiled: bool, profile: bool, only: str | None) -> Iterator[Result]:
    """All results, each with its ratio to the usual loop at its batch and its share of the bound."""
    random = np.random.default_rng(0)
    size = 640 if smoke else 50_000
    data = Images(random.integers(0, 256, (size, 32, 32, 3), dtype=np.uint8), random.integers(0, 10, size))
    bandwidth = copy_bytes_per_second(device, 2**26 if device == "cpu" else 2**32)
    print(f"copy: {bandwidth / 1e12:.3f} TB/s, read and write counted")
    usual: dict[tuple[int, int], float] = {}
    seconds = 1.0 if smoke else 6.0
    networks = workloads(device, smoke)
    for which, batch, recipe in cases(device, smoke, compiled):
        work = networks[which]
        if only and only not in recipe:
            continue
        if "workers" in recipe:
            result = usual_loop(work, data, batch, recipe["workers"], device, seconds)
            usual.setdefault((which, batch), result.images_per_second)
        else:
            profiled = profile and device == "cuda" and recipe["precision"] != "fp32"
            result = engine_run(work, data, batch, device, seconds / 4, profiled, **recipe)
        element = 2 if recipe.get("precision") == "bf16" else 4
        for separate in (True, False):
            counted = traffic(work.model(), element, work.optimizer_values, separate)
            share = result.images_per_second / counted.images_per_second(batch, bandwidth)
            setattr(result, "bound_share" if separate else "fused_bound_share", share)
        if (which, batch) in usual:
            result.ratio = result.images_per_second / usual[which, batch]
        yield result


def machine(device: str) -> dict[str, str]:
    """What the numbers belong to."""
    facts = {"date": time.strftime("%Y-%m-%d"), "torch": torch.__version__, "python": platform.python_version()}
    if device == "cpu":
        return facts | {"device": platform.processor() or "cpu", "threads": str(torch.get_num_threads())}
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    name, driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0].split(", ")
    import triton

    return facts | {"device": name, "driver": driver, "cuda": str(torch.version.cuda), "triton": triton.__version__}


def line(result: Result) -> str:
    """A row of the table, in Markdown."""
    startup = "" if result.startup_seconds is None else f"{result.startup_seconds:.1f}"
    ratio = "" if result.ratio is None else f"{result.ratio:.1f}"
    return (
        f"| {result.network} | {result.batch} | {result.path} | {result.images_per_second:,.0f} | "
        f"{result.steps_per_second:,.0f} | {ratio} | {100 * (result.bound_share or 0):.1f} % | {startup} |"
    )


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="small networks and few images")
    parser.add_argument("--compile", action="store_true", help="torch.compile's paths too")
    parser.add_argument("--only", help="only runs with this in their recipe: workers, precision, kernels, compile")
    parser.add_argument("--profile", action="store_true", help="kernel tables of the engine's steps")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    facts = machine(arguments.device)
    print(facts)
    results = []
    print("| network | batch | path | images/s | steps/s | x usual loop | of the bound | start-up, s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for result in run(arguments.device, arguments.smoke, arguments.compile, arguments.profile, arguments.only):
        results.append(asdict(result))
        print(line(result), flush=True)
        if arguments.out:
            arguments.out.write_text(json.dumps({"machine": facts, "results": results}, indent=1))


if __name__ == "__main__":
    main()
