"""Problem 1: five adaptive learning-rate methods on CIFAR-10, with L2 and with L2 + dropout.

The network is 3072-1000-1000-10 with ReLU, minibatch 128, 200 epochs: the set-up of Kingma & Ba, "Adam: A Method
for Stochastic Optimization", ICLR 2015, section 6.2, moved to CIFAR-10. Methods and equations: `trials.methods`.

    python farm/run.py problem=1                                  the ten arms, 200 epochs, three seeds
    python farm/run.py problem=1 profile=smoke                    under a minute on a laptop, drawn data
    python farm/run.py problem=1 sweep.method=[adam] sweep.learning_rate=[0.0001,0.001]
    python farm/run.py study=problem1-learning-rates              where the default learning rates come from

Ours where the sheet is silent: L2 of 1e-4 on all parameters, coupled; normalisation per channel and no
augmentation; all 50,000 training images; the test set and the training set (in eval mode) evaluated after each
epoch, outside the training time. Dropout is 0.2 on the input and 0.5 on each hidden layer, none on the logits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trials.methods import METHODS
from trials.spec import Column, Context, Scalar, Spec, TrialRun, parameter

if TYPE_CHECKING:
    from torch import Tensor

    from trials.engine import Trainer

REVISION = 1
SUMMARY = (
    Column("weight_scaling_difference", "float", help="largest difference of test logits, classical against inverted"),
    Column("weight_scaling_changed", "int", "images", help="test predictions that differ between the two"),
    Column("weight_scaling_train_difference", "float", help="largest difference of logits while training"),
    Column("weight_scaling_largest_logit", "float", help="largest test logit, as a scale for the differences"),
)
"""Of arms with dropout: inverted dropout in eval mode against classical dropout with scaled weights."""


@dataclass(frozen=True)
class Parameters:
    """What a trial of problem 1 can be asked to do."""

    method: str = parameter("adam", "adaptive learning-rate method", choices=tuple(METHODS))
    dropout: bool = parameter(False, "0.2 on the input and 0.5 on each hidden layer, beside L2")
    learning_rate: float = parameter(
        0.0, "constant through the run; 0: the method's default, which the spec then says", minimum=0, maximum=100
    )
    weight_decay: float = parameter(1e-4, "L2, coupled: added to the gradient of every parameter", minimum=0, maximum=1)
    batch_size: int = parameter(128, "images in a minibatch", unit="samples", minimum=1, maximum=65536)
    epochs: int = parameter(200, "passes over the training images", unit="epochs", minimum=1, maximum=100_000)
    precision: str = parameter("fp32", "arithmetic of the network", choices=("fp32", "tf32", "bf16"))
    compile: bool = parameter(False, "torch.compile the step (GPU only)")
    deterministic: bool = parameter(False, "only kernels that give the same bits in every run, on a GPU too")
    train_examples: int = parameter(
        0, "train on the first n images of the canonical order; 0: all", unit="samples", minimum=0
    )
    test_examples: int = parameter(
        0, "test on the first n images of the canonical order; 0: all", unit="samples", minimum=0
    )
    holdout: int = parameter(
        0,
        "validate on the last n training images and do not look at the test set; 0: train on all, and test",
        unit="samples",
        minimum=0,
        maximum=40_000,
    )


def resolve(parameters: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The parameters with the method's own learning rate where none is given."""
    rate = parameters["learning_rate"] or METHODS[str(parameters["method"])].learning_rate
    return {**parameters, "learning_rate": rate}


def check(parameters: Mapping[str, Scalar]) -> str | None:
    """What is wrong with these parameters together, or None. (Each by itself is within its bounds.)"""
    p = Parameters(**parameters)  # type: ignore[arg-type]  # types were checked against the fields
    if p.train_examples and p.train_examples < p.batch_size:
        return f"train_examples={p.train_examples} do not fill one batch of batch_size={p.batch_size}"
    return None


def run(spec: Spec, context: Context) -> TrialRun:
    """Train one arm; a row an epoch."""
    from trials import engine, models, process, splits
    from trials.optimizers import make_optimizer

    p = Parameters(**resolve(spec.parameters))  # type: ignore[arg-type]  # types were checked against the fields
    process.configure(context.device, spec.threads, p.precision, p.deterministic)
    data = context.dataset
    whole = splits.Images(data.train_images, data.train_labels)
    kept = len(whole.labels) - p.holdout
    if kept < p.batch_size:
        raise ValueError(f"holdout={p.holdout} leaves {kept} training images, less than one batch of {p.batch_size}")
    train = splits.Images(whole.images[:kept], whole.labels[:kept]).first(p.train_examples)
    if p.holdout:
        unseen = {"validation": splits.Images(whole.images[kept:], whole.labels[kept:])}
    else:
        unseen = {"test": splits.Images(data.test_images, data.test_labels).first(p.test_examples)}
    trainer = engine.Trainer(
        model=models.multilayer_perceptron(spec.seed, p.dropout),
        make_optimizer=lambda model: make_optimizer(p.method, model.parameters(), p.learning_rate, p.weight_decay),
        train=train,
        evaluations={"train_eval": train, **unseen},
        recipe=engine.Recipe(
            batch_size=p.batch_size,
            seed=spec.seed,
            mean=data.mean,
            std=data.std,
            precision=p.precision,
            compile=p.compile,
            deterministic=p.deterministic,
        ),
        device=context.device,
    )
    rates = [p.learning_rate] * trainer.steps
    outcome = yield from engine.run_epochs(trainer, context, p.epochs, lambda epoch: rates)
    if p.dropout and not p.holdout and outcome.status == "completed":
        from trials import weight_scaling

        measured = weight_scaling.compare(trainer.model, unseen_batches(trainer), spec.seed)
        return dataclasses.replace(outcome, summary=outcome.summary | measured)
    return outcome


def unseen_batches(trainer: Trainer) -> Iterator[Tensor]:
    """The test images, normalised, in fp32 whatever the trial's precision, batch by batch."""
    test = trainer.evaluations["test"]
    test.reset()
    for _ in range(test.steps):
        index, real = test.next_indices()
        yield trainer.images_of(test.images, index[None])[real].float()
