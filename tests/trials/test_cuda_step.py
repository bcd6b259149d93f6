"""Captured steps against eager ones. All but the first four need CUDA."""

import gc
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from trials import cuda_step, engine, models, process
from trials.data import Dataset
from trials.engine import Recipe, Trainer
from trials.splits import Images

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
CAPTURED = None
EAGER = (engine.eager_step, engine.eager_evaluation)
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9, fused=True),
    "adam": lambda p: torch.optim.Adam(p, lr=1.0, fused=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1.0),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1.0, capturable=True),
    "adadelta": lambda p: torch.optim.Adadelta(p, lr=1.0, capturable=True),
}


def trainer_of(
    data: Dataset,
    steps: Any = CAPTURED,
    model: nn.Module | None = None,
    optimizer: str = "sgd",
    deterministic: bool = True,
    **recipe: Any,
) -> Trainer:
    values = {"batch_size": 16, "seed": 0, "mean": data.mean, "std": data.std, "augmentation": "cutout"}
    values |= {"deterministic": deterministic} | recipe
    process.configure("cuda", 1, str(values.get("precision", "fp32")), deterministic)
    return Trainer(
        model=model or models.cifar_resnet(8, "projection", 0),
        make_optimizer=lambda m: OPTIMIZERS[optimizer](engine.decay_groups(m, 1e-2)),
        train=Images(data.train_images, data.train_labels),
        evaluations={"validation": Images(data.test_images, data.test_labels)},
        recipe=Recipe(**values),
        device="cuda",
        make_steps=steps,
    )


def epoch(trainer: Trainer, number: int = 0, rate: float = 0.05) -> dict[str, Any]:
    row = trainer.train_epoch(number, [rate] * trainer.steps, lambda: None)
    return row | trainer.evaluate(lambda: None)


def assert_same_training(one: Trainer, other: Trainer, epochs: int, rate: float, tolerance: float) -> None:
    for number in range(epochs):
        row, expected = epoch(one, number, rate), epoch(other, number, rate)
        for column in ("train_loss", "validation_loss"):
            assert row[column] == pytest.approx(expected[column], rel=tolerance)
    theirs = other.model.state_dict()
    for name, value in one.model.state_dict().items():
        torch.testing.assert_close(
            value, theirs[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def perceptron(dropout: bool = False) -> nn.Module:
    return models.multilayer_perceptron(0, dropout, sizes=(3072, 64, 64, 10))


def test_without_a_gpu_nothing_is_captured() -> None:
    assert engine.fastest_steps("cpu") == EAGER


def test_running_out_of_memory_is_found_behind_the_capture_s_own_error() -> None:
    try:
        try:
            raise torch.OutOfMemoryError("2 GiB")
        except RuntimeError:
            raise RuntimeError("capture failed")  # noqa: B904  (as the capture's end does)
    except RuntimeError as error:
        assert [type(e) for e in cuda_step.causes(error)] == [RuntimeError, torch.OutOfMemoryError]


class Garbage:
    itself: "Garbage"


def test_no_garbage_is_collected_during_a_capture() -> None:
    garbage = Garbage()
    garbage.itself = garbage
    seen = weakref.ref(garbage)
    del garbage
    with cuda_step.without_collections():
        assert seen() is None
        assert not gc.isenabled()
    assert gc.isenabled()


def test_without_a_compiler_the_step_is_torch_s_unless_fused_kernels_were_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cuda_step, "can_build_kernels", lambda: False)
    recipe = {"batch_size": 1, "seed": 0, "mean": (0.5,), "std": (0.5,)}
    assert callable(cuda_step.training_step(SimpleNamespace(recipe=Recipe(**recipe))))
    with pytest.raises(RuntimeError, match="C compiler"):
        cuda_step.training_step(SimpleNamespace(recipe=Recipe(**recipe, kernels="fused")))


@needs_cuda
@pytest.mark.parametrize("kernels", ["torch", "fused"])
@pytest.mark.parametrize("copies", [1, 2])
def test_a_captured_epoch_is_the_eager_one(tiny: Dataset, kernels: str, copies: int) -> None:
    captured = trainer_of(tiny, kernels=kernels, copies=copies)
    eager = trainer_of(tiny, EAGER, copies=copies)
    captured.prepare()
    eager.prepare()
    assert_same_training(captured, eager, 1, 0.05, 1e-4)


@needs_cuda
@pytest.mark.filterwarnings("ignore")  # of torch.compile's own: deprecations, and that TF32 would be faster
def test_a_compiled_epoch_is_the_eager_one(tiny: Dataset) -> None:
    compiled, eager = trainer_of(tiny, compile=True), trainer_of(tiny, EAGER)
    compiled.prepare()
    eager.prepare()
    assert compiled.startup_seconds > eager.startup_seconds
    assert_same_training(compiled, eager, 1, 0.05, 1e-4)


@needs_cuda
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_any_optimizer_goes_through_the_graph(tiny: Dataset, optimizer: str) -> None:
    captured = trainer_of(tiny, model=perceptron(), optimizer=optimizer, augmentation="none")
    eager = trainer_of(tiny, EAGER, model=perceptron(), optimizer=optimizer, augmentation="none")
    captured.prepare()
    eager.prepare()
    assert_same_training(captured, eager, 2, 1e-3, 2e-4)


@needs_cuda
@pytest.mark.parametrize("kernels", ["torch", "fused"])
def test_preparing_leaves_everything_as_it_was(tiny: Dataset, kernels: str) -> None:
    trainer = trainer_of(tiny, kernels=kernels)
    before = models.weights_sha256(trainer.model)
    random_state = torch.cuda.get_rng_state()
    trainer.prepare()
    assert models.weights_sha256(trainer.model) == before
    assert torch.equal(torch.cuda.get_rng_state(), random_state)
    assert trainer.position.item() == 0
    assert not any(state["momentum_buffer"].any() for state in trainer.optimizer.state.values())


@needs_cuda
@pytest.mark.parametrize("kernels", ["torch", "fused"])
def test_a_captured_run_that_is_resumed_is_the_run(tiny: Dataset, context: Any, kernels: str) -> None:
    whole = trainer_of(tiny, kernels=kernels)
    whole.prepare()
    epoch(whole, 0)
    state = whole.state()
    expected = epoch(whole, 1)
    resumed = trainer_of(tiny, kernels=kernels)
    resumed.load_state(state)
    resumed.prepare()
    row = epoch(resumed, 1)
    assert models.weights_sha256(resumed.model) == models.weights_sha256(whole.model)
    assert (row["train_loss"], row["validation_loss"]) == (expected["train_loss"], expected["validation_loss"])


@needs_cuda
def test_dropout_under_the_graph_is_new_at_each_step_and_resumed_exactly(tiny: Dataset) -> None:
    whole = trainer_of(tiny, model=perceptron(dropout=True), augmentation="none")
    whole.prepare()
    whole.table.zero_()  # one image at every step, at learning rate 0: only the masks differ
    losses = []
    for _ in range(2):
        whole.position.zero_()
        whole.loss_sum.zero_()
        whole.step()
        losses.append(whole.loss_sum.item())
    assert losses[0] != losses[1]
    epoch(whole, 0)
    state = whole.state()
    expected = epoch(whole, 1)
    resumed = trainer_of(tiny, model=perceptron(dropout=True), augmentation="none")
    resumed.load_state(state)
    resumed.prepare()
    torch.rand(7, device="cuda")
    assert epoch(resumed, 1)["train_loss"] == expected["train_loss"]


@needs_cuda
@pytest.mark.parametrize("kernels", ["torch", "fused"])
def test_bf16_goes_where_fp32_goes(tiny: Dataset, kernels: str) -> None:
    rows = []
    for precision in ("bf16", "fp32"):
        trainer = trainer_of(tiny, precision=precision, kernels=kernels)
        trainer.prepare()
        rows.append(epoch(trainer))
    assert rows[0]["train_loss"] == pytest.approx(rows[1]["train_loss"], rel=0.03)


@needs_cuda
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_a_captured_step_waits_for_nothing(tiny: Dataset) -> None:
    trainer = trainer_of(tiny, kernels="fused")
    trainer.prepare()
    try:
        torch.cuda.set_sync_debug_mode("error")
        trainer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_cuda
@pytest.mark.parametrize("kernels", ["torch", "fused"])
def test_a_step_that_does_not_fit_ends_in_out_of_memory(tiny: Dataset, kernels: str) -> None:
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**28) / total)
    try:
        trainer = trainer_of(tiny, copies=1000, kernels=kernels)
        with pytest.raises(torch.OutOfMemoryError):
            trainer.prepare()
        assert process.peak_memory_bytes("cuda") > 0
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    after = trainer_of(tiny)
    after.prepare()  # the process is still good for another trial
    epoch(after)


@needs_cuda
def test_fused_kernels_say_what_they_cannot_do(tiny: Dataset) -> None:
    trainer = trainer_of(tiny, model=perceptron(), augmentation="none", kernels="fused")
    with pytest.raises(ValueError, match="no ResNet"):
        trainer.prepare()
