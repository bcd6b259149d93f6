"""Problem 4: batch augmentation with cutout, ResNet-44 on CIFAR-10.

Hoffer et al., "Augment Your Batch: Improving Generalization Through Instance Repetition", CVPR 2020, with the
cutout of DeVries & Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", 2017.

    python farm/run.py problem=4                                            all arms, 100 epochs
    python farm/run.py problem=4 profile=smoke                              a minute on a laptop, drawn data
    python farm/run.py problem=4 sweep.schedule=[budget] sweep.M=[1,8]      another schedule, two arms

It costs, at the 47,347 images a second that one H200 does at batch 64 in bf16 (docs/performance.md): 106 s for
100 epochs of M=1 (5 million images); at the 159,954 of batch 2048, 1,000 s for those of M=32. In fp32, the default,
450 s and 7,600 s.

Ours where the paper and its code differ or are silent: projection shortcuts, zero-initialised last batch norm of
a block, problem 2's normalisation constants, first drop at the 82nd epoch counted from 1. Validation is on
CIFAR-10's test set, as the sheet has it, on original images, once an epoch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from trials.spec import Context, Scalar, Spec, TrialRun, parameter

REVISION = 1

HOFFER_DROPS = (81, 122, 164)
"""Epochs, from 0, at which the learning rate is divided by 10 (convNet.pytorch, models/resnet.py)."""
HOFFER_EPOCHS = 200
"""The length of the regime that these drops belong to (convNet.pytorch's default)."""


@dataclass(frozen=True)
class Parameters:
    """What a trial of problem 4 can be asked to do."""

    depth: int = parameter(44, "layers of the CIFAR ResNet, 6n+2", minimum=8, maximum=1202)
    shortcut: str = parameter(
        "projection",
        "where the width changes: 1x1 convolution, or option A",
        choices=("projection", "identity"),
    )
    augmentation: str = parameter(
        "cutout", "standard is crop and flip, cutout adds the hole", choices=("none", "standard", "cutout")
    )
    cutout_length: int = parameter(16, "side of the hole", unit="pixels", minimum=2, maximum=64)
    M: int = parameter(1, "copies of each sample in a batch, augmented independently", minimum=1, maximum=1024)
    batch_size: int = parameter(
        64,
        "different samples in a batch, which has M times as many",
        unit="samples",
        minimum=1,
        maximum=65536,
    )
    epochs: int = parameter(100, "passes over the training images", unit="epochs", minimum=1, maximum=100_000)
    learning_rate: float = parameter(0.1, "SGD's, before any drop, or one-cycle's peak", minimum=0, maximum=100)
    momentum: float = parameter(0.9, "SGD's, without Nesterov", minimum=0, maximum=1)
    weight_decay: float = parameter(1e-4, "L2, not on batch norm and biases", minimum=0, maximum=1)
    schedule: str = parameter(
        "hoffer",
        "drops at epochs 82, 123, 165 from 1; the same scaled into the epochs given; or one-cycle",
        choices=("hoffer", "budget", "onecycle"),
    )
    precision: str = parameter("fp32", "arithmetic of the network", choices=("fp32", "tf32", "bf16"))
    compile: bool = parameter(False, "torch.compile the step (GPU only; pays when epochs are many)")
    deterministic: bool = parameter(False, "only kernels that give the same bits in every run, on a GPU too")
    train_examples: int = parameter(
        0, "train on the first n images of the canonical order; 0: all", unit="samples", minimum=0
    )
    validation_examples: int = parameter(
        0, "validate on the first n images of the canonical order; 0: all", unit="samples", minimum=0
    )


def check(parameters: Mapping[str, Scalar]) -> str | None:
    """What is wrong with these parameters together, or None. (Each by itself is within its bounds.)"""
    p = Parameters(**parameters)  # type: ignore[arg-type]  # types were checked against the fields
    if p.depth % 6 != 2:
        nearest = 6 * max(1, round((p.depth - 2) / 6)) + 2
        return f"depth={p.depth}: a CIFAR ResNet has depth 6n+2; the nearest is {nearest}"
    if p.train_examples and p.train_examples < p.batch_size:
        return f"train_examples={p.train_examples} do not fill one batch of batch_size={p.batch_size}"
    return None


STEP_MILLISECONDS = {"bf16": (0.98, 0.369), "fp32": (2.85, 2.94)}
"""`(a, b)` of a step of ResNet-44 at batch 64, a + b * M: from the images a second at M=1 and 32 that
benchmarks/engine.py measured on an H200 (benchmarks/measured/engine-h200.json). tf32 was not, and passes for fp32."""


def work(parameters: Mapping[str, Scalar]) -> float:
    """A step on an H200, times epochs and depth: tells M=32 from M=1, and fp32 from bf16, before either has run."""
    M, epochs, depth = (float(parameters[name] or 0) for name in ("M", "epochs", "depth"))
    fixed, each = STEP_MILLISECONDS.get(str(parameters["precision"]), STEP_MILLISECONDS["fp32"])
    return epochs * depth * (fixed + each * M)


def learning_rates(p: Parameters, epoch: int, steps: int) -> list[float]:
    """The learning rate of each of the `steps` steps of epoch `epoch` (from 0).

    hoffer: divided by 10 at HOFFER_DROPS. budget: the drops d moved to floor(d * epochs / 200 + 1/2), so 41, 61
    and 82 of 100. onecycle: from a 25th of the peak up to it in the first 30 % of all steps and down to a
    250,000th, both along half a cosine (the defaults of torch.optim.lr_scheduler.OneCycleLR; momentum stays).
    """
    if p.schedule == "onecycle":
        return [one_cycle(epoch * steps + step, p.epochs * steps, p.learning_rate) for step in range(steps)]
    drops = HOFFER_DROPS if p.schedule == "hoffer" else budget_drops(p.epochs)
    return [p.learning_rate / 10 ** sum(epoch >= drop for drop in drops)] * steps


def budget_drops(epochs: int) -> tuple[int, ...]:
    """HOFFER_DROPS scaled from 200 to `epochs` epochs, halves rounded up."""
    return tuple(math.floor(drop * epochs / HOFFER_EPOCHS + 0.5) for drop in HOFFER_DROPS)


def one_cycle(step: int, steps: int, peak: float) -> float:
    """The rate at `step` of `steps`."""
    low, end = peak / 25, peak / 250_000
    top = 0.3 * steps - 1
    if step <= top:
        return cosine_between(low, peak, step / top)
    return cosine_between(peak, end, (step - top) / (steps - 1 - top))


def cosine_between(start: float, end: float, part: float) -> float:
    """From `start` (part 0) to `end` (part 1) along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * part)) / 2


def run(spec: Spec, context: Context) -> TrialRun:
    """Train one arm; a row an epoch."""
    import torch

    from trials import engine, models, process, splits

    p = Parameters(**spec.parameters)  # type: ignore[arg-type]  # types were checked against the fields
    process.configure(context.device, spec.threads, p.precision, p.deterministic)
    data = context.dataset
    recipe = engine.Recipe(
        batch_size=p.batch_size,
        seed=spec.seed,
        mean=data.mean,
        std=data.std,
        augmentation=p.augmentation,
        copies=p.M,
        cutout_length=p.cutout_length,
        precision=p.precision,
        compile=p.compile,
        deterministic=p.deterministic,
    )
    trainer = engine.Trainer(
        model=models.cifar_resnet(p.depth, p.shortcut, spec.seed),
        make_optimizer=lambda model: torch.optim.SGD(
            engine.decay_groups(model, p.weight_decay), lr=p.learning_rate, momentum=p.momentum, fused=True
        ),
        train=splits.Images(data.train_images, data.train_labels).first(p.train_examples),
        evaluations={"validation": splits.Images(data.test_images, data.test_labels).first(p.validation_examples)},
        recipe=recipe,
        device=context.device,
    )

    def rates(epoch: int) -> list[float]:
        return learning_rates(p, epoch, trainer.steps)

    return (yield from engine.run_epochs(trainer, context, p.epochs, rates))
