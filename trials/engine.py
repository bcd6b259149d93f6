"""The training engine of problems 1 and 4.

The data lives on the device as uint8 and every step is made of device operations only, so that a step can run
eagerly, captured in a CUDA graph, or compiled, and does the same in each.

The seam between those: a *step* is a function without arguments, built by a `StepMaker` from the trainer. It
reads its place in the epoch from `trainer.position`, takes that row of `trainer.table` (draws) and of
`trainer.rates` (learning rates), updates weights, optimizer state, `trainer.loss_sum` and `trainer.wrong`,
and adds one to `trainer.position`. An *evaluation step* does the same for one batch of an `Evaluation`.
`eager_step` and `eager_evaluation` are the definitions, and what runs on a CPU; on a GPU `fastest_steps`
takes `captured_step` and `captured_evaluation` from `trials.cuda_step`. All tensors named here keep their
memory for the trainer's life (they are filled in place), as a CUDA graph needs. A maker may run steps to
warm up, but leaves weights, buffers, optimizer state (zeros where there was none), counters and position as
it found them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trials.augment import ROWS, augment, epoch_table, pad_images
from trials.models import count_parameters, weights_sha256
from trials.process import peak_memory_bytes
from trials.seeding import derived_seed
from trials.spec import Context, Outcome, Row, State, TrialRun
from trials.splits import Evaluation, Images, Step

StepMaker = Callable[["Trainer"], Step]
EvaluationMaker = Callable[["Trainer", Evaluation], Step]
CheckStop = Callable[[], None]
Loss = Callable[[Tensor, Tensor], Tensor]

STOP_EVERY = {"cpu": 1, "cuda": 50}
"""Steps between two looks at whether the trial should end: 0.1 s apart on a CPU, 50 ms on a GPU."""


@dataclass(frozen=True)
class Recipe:
    """What the engine needs to know beside model, optimizer and data. `copies` is Hoffer et al.'s M."""

    batch_size: int
    seed: int
    mean: Sequence[float]
    std: Sequence[float]
    augmentation: str = "none"
    copies: int = 1
    cutout_length: int = 16
    precision: str = "fp32"
    compile: bool = False
    deterministic: bool = False
    kernels: str = "auto"
    """On a GPU: "torch", torch's own; "fused", those of `trials.fused_resnet`; "auto", the faster."""


def eager_step(trainer: Trainer, loss_function: Loss = nn.functional.cross_entropy) -> Step:
    """The training step, operation by operation: the definition that faster ones are held against.

    `loss_function` takes logits (samples, classes) in fp32 and labels; with another one, this is a study's own step.
    """

    def step() -> None:
        images, labels = trainer.next_batch()
        trainer.optimizer.zero_grad(set_to_none=True)
        logits = trainer.forward(images)
        loss = loss_function(logits.float(), labels)
        loss.backward()
        trainer.optimizer.step()
        trainer.count(loss.detach(), logits.detach(), labels)

    return step


def eager_evaluation(trainer: Trainer, evaluation: Evaluation) -> Step:
    """One batch of an evaluation: sums of loss and errors over its real samples."""

    @torch.no_grad()
    def step() -> None:
        index, real = evaluation.next_indices()
        images = trainer.images_of(evaluation.images, index[None])
        labels = evaluation.labels.index_select(0, index)
        logits = trainer.forward(images).float()
        losses = nn.functional.cross_entropy(logits, labels, reduction="none")
        evaluation.loss_sum += (losses * real).sum()
        evaluation.wrong += ((logits.argmax(1) != labels) & real).sum()

    return step


def fastest_steps(device: str) -> tuple[StepMaker, EvaluationMaker]:
    """The makers for a device: captured in CUDA graphs on a GPU, eager elsewhere."""
    if device == "cpu":
        return eager_step, eager_evaluation
    from trials import cuda_step

    return cuda_step.captured_step, cuda_step.captured_evaluation


class Trainer:
    """Model, optimizer, data on the device, and the counters of the epoch under way.

    `make_optimizer` gets the model on its device; the learning rate of its groups is replaced by the tensor
    `learning_rate` (0-dim, float32, on the device). `evaluations` maps the prefix of the columns to be
    reported ("validation" gives validation_loss and validation_error) to the images.
    `make_steps` is the seam.
    """

    def __init__(
        self,
        model: nn.Module,
        make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
        train: Images,
        evaluations: Mapping[str, Images],
        recipe: Recipe,
        device: str,
        make_steps: tuple[StepMaker, EvaluationMaker] | None = None,
    ) -> None:
        self.recipe = recipe
        self.device = torch.device(device)
        if recipe.compile and self.device.type == "cpu":
            raise ValueError("compile=true needs a GPU")
        self.model = model.to(self.device, memory_format=torch.channels_last)  # matters to 4-d weights only
        self.optimizer = make_optimizer(self.model)
        self.steps = len(train.images) // recipe.batch_size
        self.samples = recipe.batch_size * recipe.copies
        self.images = self._resident(train.images)
        if recipe.augmentation != "none":
            self.images = pad_images(self.images)
        self.labels = self._resident(train.labels)
        self.mean, self.std = (torch.tensor(v, device=self.device) for v in (recipe.mean, recipe.std))
        table_shape = (self.steps, ROWS[recipe.augmentation], self.samples)
        self.table = torch.zeros(table_shape, dtype=torch.int32, device=self.device)
        self.rates = torch.zeros(self.steps, device=self.device)
        self.learning_rate = torch.zeros((), device=self.device)
        self.position = torch.zeros(1, dtype=torch.int64, device=self.device)
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self.wrong = torch.zeros((), dtype=torch.int64, device=self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
            if self.device.type == "cuda" and "capturable" in group:
                group["capturable"] = True  # keeps the optimizer's step counts on the device
        size = 1000 if self.device.type == "cuda" else 250
        self.evaluations = {
            name: Evaluation(self._resident(split.images), self._resident(split.labels), size)
            for name, split in evaluations.items()
        }
        self.make_step, self.make_evaluation = make_steps or fastest_steps(device)
        self.epochs_done = 0
        self.wall_seconds = 0.0
        self.startup_seconds = 0.0

    def _resident(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(array)).to(self.device)  # a copy: memory maps are read-only

    # What a step is made of. Nothing here waits for the device.

    def next_batch(self) -> tuple[Tensor, Tensor]:
        """This step's images (samples, 3, 32, 32) and labels; sets its learning rate and moves on."""
        rows = self.table.index_select(0, self.position)[0]
        self.learning_rate.copy_(self.rates.index_select(0, self.position)[0])
        self.position += 1
        return self.images_of(self.images, rows), self.labels.index_select(0, rows[0])

    def batch_arguments(self) -> tuple[Any, ...]:
        """What `trials.fused_batch.load_batch` makes the next batch of."""
        tensors = (self.images, self.labels, self.table, self.rates, self.position, self.learning_rate)
        return (*tensors, self.mean, self.std, self.recipe.cutout_length, self.dtype)

    def images_of(self, images: Tensor, rows: Tensor) -> Tensor:
        """The normalised batch that one step of the table names."""
        return augment(images, rows, self.mean, self.std, self.recipe.cutout_length, self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """What the model's input is made in."""
        return torch.bfloat16 if self.recipe.precision == "bf16" else torch.float32

    def forward(self, images: Tensor) -> Tensor:
        """The model's logits; bf16 by autocast, with weights and batch-norm statistics kept in fp32."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16"):
            logits: Tensor = self.model(images)
        return logits

    def count(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a step's mean loss and number of errors to the epoch's sums."""
        self.loss_sum += loss
        self.wrong += (logits.argmax(1) != labels).sum()

    # An epoch.

    def prepare(self) -> None:
        """Build the steps (on a GPU this warms up, compiles and captures); seconds go to startup_seconds."""
        started = time.perf_counter()
        self.model.train()
        self.step = self.make_step(self)
        self.model.eval()
        for evaluation in self.evaluations.values():
            evaluation.step = self.make_evaluation(self, evaluation)
        self.synchronize()
        self.startup_seconds = time.perf_counter() - started

    def train_epoch(self, epoch: int, rates: Sequence[float], check_stop: CheckStop) -> Row:
        """Train epoch `epoch` (from 0) with one learning rate a step; its columns.

        Loss and error are running means over the epoch, with the weights as they were at each step. The
        seconds include drawing the epoch's table and exclude evaluation.
        """
        self.synchronize()
        started = time.perf_counter()
        recipe = self.recipe
        table = epoch_table(recipe.seed, epoch, len(self.labels), recipe.batch_size, recipe.copies, recipe.augmentation)
        self.table.copy_(table)
        self.rates.copy_(torch.tensor(rates))
        for counter in (self.position, self.loss_sum, self.wrong):
            counter.zero_()
        torch.manual_seed(derived_seed(recipe.seed, "model", epoch))  # dropout draws from the default generator
        self.model.train()
        self._repeat(self.step, self.steps, check_stop)
        self.synchronize()
        seconds = time.perf_counter() - started
        self.epochs_done = epoch + 1
        self.wall_seconds += seconds
        return {
            "epoch": epoch + 1,
            "learning_rate": rates[0],
            "train_loss": self.loss_sum.item() / self.steps,
            "train_error": self.wrong.item() / (self.steps * self.samples),
            "steps": self.steps,
            "samples": self.steps * self.samples,
            "train_seconds": seconds,
        }

    def evaluate(self, check_stop: CheckStop) -> Row:
        """Loss and error in eval mode on each of the evaluations' original images; their columns."""
        started = time.perf_counter()
        self.model.eval()
        row: Row = {}
        for name, evaluation in self.evaluations.items():
            evaluation.reset()
            self._repeat(evaluation.step, evaluation.steps, check_stop)
            row[f"{name}_loss"] = evaluation.loss_sum.item() / evaluation.examples
            row[f"{name}_error"] = evaluation.wrong.item() / evaluation.examples
        seconds = time.perf_counter() - started
        self.wall_seconds += seconds
        return row | {
            "evaluation_seconds": seconds,
            "wall_seconds": self.wall_seconds,
            "peak_memory_bytes": peak_memory_bytes(self.device.type),
        }

    def _repeat(self, step: Step, times: int, check_stop: CheckStop) -> None:
        every = STOP_EVERY[self.device.type]
        for i in range(times):
            if i % every == 0:
                check_stop()
            step()

    def synchronize(self) -> None:
        """Wait until the device has done all that it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    # What outlives the process.

    def state(self) -> State:
        """All that training goes on from, as CPU tensors in plain dicts. From a GPU the copies are queued into
        pinned memory behind one another and waited for once."""
        state = {
            "epochs_done": self.epochs_done,
            "wall_seconds": self.wall_seconds,
            "model": {name: _to_host(value) for name, value in self.model.state_dict().items()},
            "optimizer": _to_host(self.optimizer.state_dict()["state"]),
        }
        self.synchronize()
        return state

    def load_state(self, state: State) -> None:
        """Go on from `state`; before `prepare`, since the optimizer's tensors are replaced."""
        self.epochs_done, self.wall_seconds = state["epochs_done"], state["wall_seconds"]
        self.model.load_state_dict(state["model"])
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state["optimizer"], "param_groups": groups})
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate  # load_state_dict has put a copy there


def run_epochs(trainer: Trainer, context: Context, epochs: int, rates: Callable[[int], Sequence[float]]) -> TrialRun:
    """Train from the context's state up to `epochs` epochs, yielding a row at the end of each.

    `rates(epoch)` gives the learning rate of each of the epoch's steps (epochs from 0). A loss that is NaN or
    infinite ends the trial as "diverged"; that epoch has no row.
    """
    if context.state is not None:
        trainer.load_state(context.state)
    trainer.prepare()
    for epoch in range(trainer.epochs_done, epochs):
        row = trainer.train_epoch(epoch, rates(epoch), context.check_stop)
        row |= trainer.evaluate(context.check_stop)
        if not all(math.isfinite(v) for k, v in row.items() if k.endswith("_loss") and isinstance(v, float)):
            return Outcome("diverged", {"diverged_epoch": epoch + 1, **trainer_summary(trainer)})
        yield [row], trainer.state
    return Outcome("completed", {"weights_sha256": weights_sha256(trainer.model), **trainer_summary(trainer)})


def trainer_summary(trainer: Trainer) -> Row:
    """Columns of a trial's one row that any end has."""
    return {"startup_seconds": trainer.startup_seconds, "model_parameters": count_parameters(trainer.model)}


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Parameter groups with weight decay on weights only: none on biases and batch norm (1-d parameters)."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _to_host(value: object) -> object:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True, non_blocking=True)  # pinned, where it comes from a GPU
    if isinstance(value, dict):
        return {k: _to_host(v) for k, v in value.items()}
    return value
