"""bf16 against fp32: ResNet-44 on CIFAR-10, three seeds each, a short one-cycle schedule.

    PYTHONPATH=. python benchmarks/precision.py --data DIR --out precision.json      two minutes on an H200
    PYTHONPATH=. python benchmarks/precision.py --figure docs/figures/precision.svg --out precision.json

DIR holds CIFAR-10 as `trials.data` reads it. The second command draws what the first wrote.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from trials import data, engine, models, process
from trials.problem4 import one_cycle
from trials.splits import Images

BATCH, PEAK = 256, 0.2


def train(dataset: data.Dataset, precision: str, seed: int, epochs: int, device: str) -> list[dict[str, Any]]:
    """Rows of one run: crop, flip and cutout, validated on the test set after each epoch."""
    process.configure(device, torch.get_num_threads(), precision, False)
    recipe = engine.Recipe(BATCH, seed, dataset.mean, dataset.std, augmentation="cutout", precision=precision)
    trainer = engine.Trainer(
        models.cifar_resnet(44, "projection", seed),
        lambda m: torch.optim.SGD(engine.decay_groups(m, 1e-4), lr=0.1, momentum=0.9, fused=True),
        Images(dataset.train_images, dataset.train_labels),
        {"validation": Images(dataset.test_images, dataset.test_labels)},
        recipe,
        device,
    )
    trainer.prepare()
    rows = []
    steps = trainer.steps
    for epoch in range(epochs):
        rates = [one_cycle(epoch * steps + step, epochs * steps, PEAK) for step in range(steps)]
        row = trainer.train_epoch(epoch, rates, lambda: None) | trainer.evaluate(lambda: None)
        rows.append({"precision": precision, "seed": seed, **row})
    last = rows[-1]
    print(precision, seed, f"{last['validation_error']:.4f}", f"{last['train_seconds']:.2f} s an epoch", flush=True)
    return rows


def figure(rows: list[dict[str, Any]], path: Path) -> None:
    """Validation error over epochs, a line for each seed."""
    from matplotlib import pyplot

    pyplot.rcParams.update({"svg.hashsalt": "precision", "font.size": 9})
    drawing, axes = pyplot.subplots(figsize=(5.2, 3.2), layout="constrained")
    for precision, colour, style in (("fp32", "#1b6ca8", "-"), ("bf16", "#d1495b", "--")):
        for seed in sorted({row["seed"] for row in rows}):
            mine = [r for r in rows if r["precision"] == precision and r["seed"] == seed]
            epochs, errors = [r["epoch"] for r in mine], [100 * r["validation_error"] for r in mine]
            axes.plot(epochs, errors, style, color=colour, linewidth=1.2, label=None if seed else precision)
    axes.set_ylim(0, 80)
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation error, %")
    axes.grid(alpha=0.3, which="both", linewidth=0.4)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing.savefig(path, metadata={"Date": None})


def main() -> None:
    """Train and write the rows, or draw them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10")
    parser.add_argument("--out", type=Path, required=True, help="the rows, as JSON")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    if arguments.figure:
        figure(json.loads(arguments.out.read_text()), arguments.figure)
        return
    started = time.perf_counter()
    dataset = data.load("cifar10", str(arguments.data), str(arguments.out.parent / "cache"))
    print(f"data: {time.perf_counter() - started:.1f} s", flush=True)
    rows: list[dict[str, Any]] = []
    for seed in range(arguments.seeds):
        for precision in ("bf16", "fp32"):
            rows += train(dataset, precision, seed, arguments.epochs, arguments.device)
            arguments.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
