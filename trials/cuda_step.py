"""Steps captured in CUDA graphs: what `trials.engine` runs on a GPU.

Capturing records a step's kernels once and replays them without Python: at batch 64 a ResNet-44 step is about a
thousand launches, which eagerly take four times as long as the kernels. Three kinds of step are captured
(`Recipe.kernels`): "torch", torch's own operations or what torch.compile makes of them; "fused", the forward
and backward passes of `trials.fused_resnet`, for the networks it knows; "auto" takes the fused ones in bf16,
where they win. Both ends of the step, the batch and the loss, are the kernels of `trials.fused_batch` in all.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trials.engine import eager_evaluation, eager_step

if TYPE_CHECKING:
    from trials.engine import Trainer
    from trials.splits import Evaluation, Step

WARM_UP_STEPS = 2
"""The first makes the optimizer's state and picks or compiles kernels, the second runs as all others will."""


def captured_step(trainer: Trainer) -> Step:
    """The training step of `trainer`, captured."""
    with unchanged(trainer):
        step = training_step(trainer)

        def warm_up() -> None:
            for _ in range(WARM_UP_STEPS):
                trainer.position.zero_()
                step()

        return capture(step, warm_up)


def captured_evaluation(trainer: Trainer, evaluation: Evaluation) -> Step:
    """One batch of `evaluation`, captured. The model is in eval mode."""
    step = eager_evaluation(trainer, evaluation)
    graph = capture(step, step)
    evaluation.reset()
    return graph


def training_step(trainer: Trainer) -> Step:
    """The step that is captured. Raises ValueError or RuntimeError where the kernels asked for cannot be had."""
    kernels = trainer.recipe.kernels
    if not can_build_kernels():
        if kernels == "fused":
            raise RuntimeError("kernels=fused needs Triton and a C compiler")
        return eager_step(trainer)
    from trials import fused_resnet

    reason = fused_resnet.unsupported(trainer)
    if kernels == "fused" and reason:
        raise ValueError(f"kernels=fused: {reason}")
    if kernels == "fused" or (kernels == "auto" and trainer.recipe.precision == "bf16" and not reason):
        return fused_resnet.fused_step(trainer)
    return torch_step(trainer)


def can_build_kernels() -> bool:
    """Whether Triton is there, and the C compiler with which it builds its launcher."""
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return any(shutil.which(compiler) for compiler in ("cc", "gcc", "clang"))


def torch_step(trainer: Trainer) -> Step:
    """`eager_step` with its two ends in one kernel each, and the network compiled if the recipe says so."""
    from trials.fused_batch import load_batch, loss_and_gradient

    forward: Callable[[Tensor], Tensor] = trainer.forward
    if trainer.recipe.compile:
        forward = torch.compile(trainer.forward, dynamic=False)

    def step() -> None:
        images, labels = load_batch(*trainer.batch_arguments())
        trainer.optimizer.zero_grad(set_to_none=True)
        logits = forward(images)
        gradient = loss_and_gradient(logits, labels, trainer.loss_sum, trainer.wrong, trainer.position)
        with torch.autograd.set_multithreading_enabled(False):  # this thread has the CUDA context
            logits.backward(gradient)
        trainer.optimizer.step()

    return step


def capture(step: Step, warm_up: Step) -> Step:
    """Record `step` in a CUDA graph after `warm_up` has run; the replay of it.

    Raises torch.OutOfMemoryError where the step does not fit, also when memory runs out under the capture
    (whose own error then hides the reason).
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        warm_up()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with without_collections(), torch.cuda.graph(graph, stream=stream):
            step()
    except RuntimeError as error:
        for cause in causes(error):
            if isinstance(cause, torch.OutOfMemoryError):
                raise cause from None
        raise

    def replay(kept: Step = step) -> None:  # the graph reads memory that the step's own tensors hold
        graph.replay()

    return replay


@contextmanager
def without_collections() -> Iterator[None]:
    """Collect garbage now and none inside: freeing an earlier CUDA graph is not permitted during a capture."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and those it was raised in the handling of."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


@contextmanager
def unchanged(trainer: Trainer) -> Iterator[None]:
    """Put back what steps change: weights, buffers, optimizer state, counters, random state.

    State that the optimizer makes inside is set to zero, with which all of torch's optimizers begin.
    """
    random_state = torch.cuda.get_rng_state()
    before = {id(tensor): tensor.detach().clone() for tensor in changing(trainer)}
    yield
    with torch.no_grad():
        for tensor in changing(trainer):
            if id(tensor) in before:
                tensor.copy_(before[id(tensor)])
            else:
                tensor.zero_()
    torch.cuda.set_rng_state(random_state)


def changing(trainer: Trainer) -> Iterator[Tensor]:
    """Every tensor that a training step changes and a later one reads."""
    yield from trainer.model.parameters()
    yield from trainer.model.buffers()
    yield from (trainer.learning_rate, trainer.position, trainer.loss_sum, trainer.wrong)
    for state in trainer.optimizer.state.values():
        yield from tensors_in(state)


def tensors_in(value: object) -> Iterator[Tensor]:
    """The tensors in nested dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from tensors_in(part)
