import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from states import through_a_file, without_measured
from torch import nn

from trials import engine, models, plain_loop, process, synthetic
from trials.data import Dataset
from trials.engine import Recipe, Trainer
from trials.spec import Outcome, Row, State
from trials.splits import Evaluation, Images

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
EAGER = (engine.eager_step, engine.eager_evaluation)
DEVICES = ["cpu", pytest.param("cuda", marks=needs_cuda)]


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(engine.decay_groups(model, 1e-2), lr=1.0, momentum=0.9, fused=True)


def trainer_of(data: Dataset, device: str = "cpu", model: nn.Module | None = None, **recipe: Any) -> Trainer:
    """ResNet-8 on the tiny data: 4 steps of 16 samples an epoch."""
    process.configure(device, 1, "fp32", device == "cuda")
    values = {"batch_size": 16, "seed": 0, "mean": data.mean, "std": data.std, "augmentation": "cutout"}
    return Trainer(
        model=model or models.cifar_resnet(8, "projection", 0),
        make_optimizer=sgd,
        train=Images(data.train_images, data.train_labels),
        evaluations={"validation": Images(data.test_images, data.test_labels)},
        recipe=Recipe(**(values | recipe)),  # type: ignore[arg-type]
        device=device,
        make_steps=EAGER,
    )


def rates(epoch: int) -> list[float]:
    return [0.1, 0.1, 0.05, 0.01 / (epoch + 1)]


def train(trainer: Trainer, context, epochs: int) -> tuple[list[Row], list[State], Outcome]:
    """Rows, the state at each epoch boundary, and the outcome."""
    run = engine.run_epochs(trainer, context, epochs, rates)  # type: ignore[arg-type]
    rows, states = [], []
    while True:
        try:
            epoch_rows, state = next(run)
        except StopIteration as end:
            return rows, states, end.value
        rows += epoch_rows
        assert state is not None
        states.append(state())


@pytest.mark.parametrize(("device", "tolerance"), [("cpu", 1e-6), pytest.param("cuda", 1e-4, marks=needs_cuda)])
def test_the_step_is_the_plain_loop_s(tiny: Dataset, device: str, tolerance: float) -> None:
    trainer = trainer_of(tiny, device)
    trainer.prepare()
    plain_model = copy.deepcopy(trainer.model).to(memory_format=torch.contiguous_format)
    plain_optimizer = torch.optim.SGD(engine.decay_groups(plain_model, 1e-2), lr=0.1, momentum=0.9)
    trainer.rates.fill_(0.1)
    trainer.table.copy_(engine.epoch_table(0, 0, 70, 16, 1, "cutout"))
    for step in range(2):  # the second has momentum
        trainer.position.fill_(step)
        images, labels = trainer.next_batch()
        trainer.position.fill_(step)
        trainer.loss_sum.zero_()
        trainer.step()
        loss, _ = plain_loop.train_step(plain_model, plain_optimizer, images.contiguous(), labels)
        assert trainer.loss_sum.item() == pytest.approx(loss.item(), rel=tolerance)
    for ours, theirs in zip(trainer.model.parameters(), plain_model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_an_epoch_without_augmentation_is_the_plain_loop_s(tiny: Dataset) -> None:
    trainer = trainer_of(tiny, augmentation="none")
    plain_model = copy.deepcopy(trainer.model).to(memory_format=torch.contiguous_format)
    trainer.prepare()
    row = trainer.train_epoch(0, [0.1] * 4, lambda: None) | trainer.evaluate(lambda: None)
    order = trainer.table[:, 0].flatten().tolist()
    pipeline = plain_loop.transform("none", tiny.mean, tiny.std)
    train_set = plain_loop.ImageDataset(tiny.train_images[order], tiny.train_labels[order], pipeline)
    test_set = plain_loop.ImageDataset(tiny.test_images, tiny.test_labels, pipeline)
    batches = plain_loop.loader(train_set, 16, train=False, workers=0)
    optimizer = torch.optim.SGD(engine.decay_groups(plain_model, 1e-2), lr=0.1, momentum=0.9)
    loss, error = plain_loop.train_epoch(plain_model, optimizer, batches, "cpu")
    assert (row["train_loss"], row["train_error"]) == pytest.approx((loss, error), rel=1e-4)
    evaluated = plain_loop.evaluate(plain_model, plain_loop.loader(test_set, 7, train=False, workers=0), "cpu")
    assert (row["validation_loss"], row["validation_error"]) == pytest.approx(evaluated, rel=1e-3)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("copies", [1, 2])
def test_a_run_resumed_at_any_epoch_is_the_run(tiny: Dataset, context: Any, device: str, copies: int) -> None:
    rows, states, outcome = train(trainer_of(tiny, device, copies=copies), context, 3)
    for epoch, state in enumerate(states, 1):
        context.state = through_a_file(state)
        resumed_rows, _, resumed = train(trainer_of(tiny, device, copies=copies), context, 3)
        assert resumed.summary["weights_sha256"] == outcome.summary["weights_sha256"]
        assert [without_measured(r) for r in resumed_rows] == [without_measured(r) for r in rows[epoch:]]


def test_dropout_too_is_resumed_exactly(tiny: Dataset, context: Any) -> None:
    def perceptron() -> Trainer:
        model = models.multilayer_perceptron(0, dropout=True, sizes=(3072, 20, 20, 10))
        return trainer_of(tiny, model=model, augmentation="none")

    _, states, outcome = train(perceptron(), context, 2)
    context.state = through_a_file(states[0])
    torch.rand(7)  # what else the process draws does not matter
    assert train(perceptron(), context, 2)[2].summary["weights_sha256"] == outcome.summary["weights_sha256"]


def test_wall_seconds_go_on_where_the_last_attempt_stopped(tiny: Dataset, context: Any) -> None:
    rows, states, _ = train(trainer_of(tiny), context, 1)
    assert rows[0]["wall_seconds"] == rows[0]["train_seconds"] + rows[0]["evaluation_seconds"]
    context.state = states[0] | {"wall_seconds": 1000.0}
    resumed, _, _ = train(trainer_of(tiny), context, 2)
    assert resumed[0]["wall_seconds"] > 1000


def test_a_state_is_a_copy(tiny: Dataset) -> None:
    trainer = trainer_of(tiny)
    trainer.prepare()
    trainer.train_epoch(0, [0.1] * 4, lambda: None)
    state = trainer.state()
    kept = copy.deepcopy(state)
    trainer.train_epoch(1, [0.1] * 4, lambda: None)
    assert torch.equal(state["model"]["fc.weight"], kept["model"]["fc.weight"])
    assert torch.equal(state["optimizer"][0]["momentum_buffer"], kept["optimizer"][0]["momentum_buffer"])


def test_a_loss_that_is_not_finite_ends_the_trial_as_diverged(tiny: Dataset, context: Any) -> None:
    engine_run = engine.run_epochs(trainer_of(tiny), context, 3, lambda epoch: [0.1 if epoch < 1 else 1e30] * 4)
    next(engine_run)
    with pytest.raises(StopIteration) as end:
        next(engine_run)
    assert end.value.value.status == "diverged"
    assert end.value.value.summary["diverged_epoch"] == 2


def test_a_cpu_trial_looks_whether_to_stop_before_each_step(tiny: Dataset, context: Any) -> None:
    train(trainer_of(tiny), context, 2)
    evaluation_steps = 1
    assert context.looks == 2 * (4 + evaluation_steps)


def test_evaluation_counts_each_image_once_in_whatever_batches(tiny: Dataset) -> None:
    trainer = trainer_of(tiny)
    whole = trainer.evaluations["validation"]
    ragged = Evaluation(whole.images, whole.labels, 8)
    trainer.prepare()
    trainer.model.eval()
    ragged.step = engine.eager_evaluation(trainer, ragged)
    for _ in range(ragged.steps):
        ragged.step()
    row = trainer.evaluate(lambda: None)
    assert (ragged.steps, ragged.examples) == (4, 30)
    assert ragged.loss_sum.item() / 30 == pytest.approx(row["validation_loss"], rel=1e-5)
    assert ragged.wrong.item() / 30 == row["validation_error"]


def test_weight_decay_spares_biases_and_batch_norm() -> None:
    model = models.cifar_resnet(8, "projection", 0)
    decayed, spared = engine.decay_groups(model, 1e-4)
    norms = [p for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()]
    assert {id(p) for p in spared["params"]} == {id(p) for p in [*norms, model.fc.bias]}  # type: ignore[attr-defined]
    assert (decayed["weight_decay"], spared["weight_decay"]) == (1e-4, 0.0)


@pytest.mark.parametrize("change", ["weight", "buffer"])
def test_the_hash_sees_weights_and_buffers(tiny: Dataset, change: str) -> None:
    trainer = trainer_of(tiny)
    before = models.weights_sha256(trainer.model)
    assert models.weights_sha256(trainer_of(tiny).model) == before
    name = "fc.weight" if change == "weight" else "bn1.running_mean"
    trainer.model.state_dict()[name].view(-1)[0] += 1e-6
    assert models.weights_sha256(trainer.model) != before


def test_bf16_keeps_weights_and_statistics_in_fp32(tiny: Dataset) -> None:
    trainer = trainer_of(tiny, precision="bf16")
    trainer.prepare()
    row = trainer.train_epoch(0, [0.1] * 4, lambda: None)
    assert {v.dtype for v in trainer.model.state_dict().values()} == {torch.float32, torch.int64}
    fp32 = trainer_of(tiny)
    fp32.prepare()
    assert row["train_loss"] == pytest.approx(fp32.train_epoch(0, [0.1] * 4, lambda: None)["train_loss"], rel=0.05)


def test_compiling_on_a_cpu_is_refused(tiny: Dataset) -> None:
    with pytest.raises(ValueError, match="needs a GPU"):
        trainer_of(tiny, compile=True)


def test_the_engine_learns(tiny: Dataset) -> None:
    images, labels = synthetic.draw("test")
    drawn = replace(tiny, train_images=images[:640], train_labels=labels[:640])
    trainer = trainer_of(drawn, augmentation="none", batch_size=32)
    trainer.prepare()
    losses = [trainer.train_epoch(epoch, [0.05] * 20, lambda: None)["train_loss"] for epoch in range(4)]
    assert losses[3] < losses[0] - 0.2


@needs_cuda
def test_gpu_and_cpu_train_on_the_same_images(tiny: Dataset) -> None:
    batches = []
    for device in ("cpu", "cuda"):
        trainer = trainer_of(tiny, device)
        trainer.table.copy_(engine.epoch_table(0, 0, 70, 16, 1, "cutout"))
        batches.append(trainer.next_batch())
    torch.testing.assert_close(batches[0][0], batches[1][0].cpu(), rtol=1e-6, atol=1e-6)
    assert torch.equal(batches[0][1], batches[1][1].cpu())
