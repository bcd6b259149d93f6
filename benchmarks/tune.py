"""Find the launch shapes (`trials.fused_resnet.TILES`) that are fastest on this GPU.

    PYTHONPATH=. python benchmarks/tune.py [--samples 64 2048] [--out tiles.json]

Times each kernel on the middle layers of a ResNet's three stages, each candidate in a CUDA graph of its own, and
prints the four best of each. Compiling goes on in one process per CPU first.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import statistics
from collections.abc import Callable
from pathlib import Path

Shape = tuple[int, int, int, bool]
"""Pixels, warps, stages, keep of a `Tile`."""
CONVOLUTIONS = {
    16: [(64, 4), (128, 4), (256, 4), (256, 8), (512, 8), (64, 2)],
    32: [(64, 4), (128, 4), (128, 8), (256, 8)],
    64: [(64, 4), (64, 8), (128, 4), (128, 8)],
}
SHAPES: dict[tuple[str, int], list[Shape]] = {
    (kernel, channels): [(pixels, warps, 1, keep) for pixels, warps in shapes for keep in (False, True)]
    for kernel in ("convolve", "input_gradient")
    for channels, shapes in CONVOLUTIONS.items()
} | {
    ("weight_gradient", channels): [
        (pixels, warps, stages, False) for pixels in (64, 128, 256) for warps in (4, 8) for stages in (1, 2, 3)
    ]
    for channels in (16, 32, 64)
}
KERNELS = ("convolve", "weight_gradient", "input_gradient")
PROGRAMS = (66, 132, 264, 396, 528, 660, 792, 1056)
Case = tuple[str, int, Shape]


def launcher(samples: int) -> Callable[[str, int, Shape, int], Callable[[], object]]:
    """A function that gives the launch of a kernel, at a stage's channels, with a tile."""
    import torch

    from trials import fused_resnet, models

    sizes = {name: dict.fromkeys((16, 32, 64), fused_resnet.Tile(16, 1056, 4, 1)) for name in KERNELS}
    fused_resnet.TILES = {"small": sizes, "large": sizes}
    network = fused_resnet.FusedResNet(models.cifar_resnet(8, "projection", 0).cuda(), samples, "bf16")
    network.cast_weights.normal_(std=0.05)
    network.forward(torch.randn(samples, 32, 32, 16, device="cuda").bfloat16())
    blocks = {16: network.blocks[0], 32: network.blocks[1], 64: network.blocks[2]}
    gradients = {c: torch.randn_like(b.second.result) for c, b in blocks.items()}

    def launch(kernel: str, channels: int, shape: Shape, programs: int) -> Callable[[], object]:
        pixels, warps, stages, keep = shape
        network.tiles[kernel][channels] = fused_resnet.Tile(pixels, programs, warps, stages, keep)
        first, layer, gradient = blocks[channels].first, blocks[channels].second, gradients[channels]
        return {
            "convolve": lambda: network._convolve(layer, layer.source),
            "weight_gradient": lambda: network._weight_gradient(layer, gradient),
            "input_gradient": lambda: network._input_gradient(layer, gradient, first),
        }[kernel]

    return launch


def compile_all(cases: list[Case]) -> None:
    """Put compiled kernels into Triton's cache on disk."""
    with torch_no_grad():
        launch = launcher(8)
        for kernel, channels, shape in cases:
            try:
                launch(kernel, channels, shape, 8)()
            except Exception as error:  # too much shared memory: not a candidate
                print("skipped", kernel, channels, shape, str(error)[:60], flush=True)


def torch_no_grad():  # type: ignore[no-untyped-def]
    """torch.no_grad, without importing torch in the parent before its children start."""
    import torch

    return torch.no_grad()


def microseconds(run: Callable[[], object], repeats: int = 10, rounds: int = 3) -> float:
    """Median time of one launch among `repeats` in a graph."""
    import torch

    run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            run()
    times = []
    for _ in range(rounds):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1000 / repeats)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, nargs="+", default=[64, 2048])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    cases = [(kernel, c, shape) for (kernel, c), shapes in SHAPES.items() for shape in shapes]
    workers = min(14, os.cpu_count() or 1)
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        pool.map(compile_all, [cases[i::workers] for i in range(workers)])
    found = {}
    for samples in arguments.samples:
        with torch_no_grad():
            launch = launcher(samples)
            for (kernel, channels), shapes in SHAPES.items():
                times = {}
                for shape, programs in itertools.product(shapes, PROGRAMS):
                    try:
                        times[(*shape, programs)] = microseconds(launch(kernel, channels, shape, programs))
                    except Exception:  # too much shared memory, as said above
                        continue
                best = sorted(times, key=times.__getitem__)[:4]
                print(samples, kernel, channels, [(t, round(times[t], 1)) for t in best], flush=True)
                found[f"{samples} {kernel} {channels}"] = {
                    str(t): times[t] for t in sorted(times, key=times.__getitem__)
                }
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
