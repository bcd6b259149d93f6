"""The Triton kernels against the plain modules, forward and backward: on a GPU, or in Triton's interpreter.

The interpreter must be chosen before Triton is imported, so without a GPU the tests run in a process of their own.
"""

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from trials import augment, models, process

pytest.importorskip("triton", reason="needs Triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
needs_triton = pytest.mark.skipif(
    not (INTERPRETED or torch.cuda.is_available()), reason="needs CUDA or TRITON_INTERPRET=1"
)
if INTERPRETED or torch.cuda.is_available():
    from trials import fused_batch, fused_resnet


@pytest.mark.skipif(INTERPRETED or torch.cuda.is_available(), reason="the tests run in this process")
def test_the_kernels_pass_in_the_interpreter() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout[-3000:]


@needs_triton
@pytest.mark.parametrize("channels", [3, 16])
@pytest.mark.parametrize("augmentation", ["none", "standard", "cutout"])
def test_the_batch_is_augment_s(augmentation: str, channels: int) -> None:
    images = torch.randint(0, 256, (9, 32, 32, 3), dtype=torch.uint8, device=DEVICE)
    labels = torch.randint(0, 10, (9,), device=DEVICE)
    if augmentation != "none":
        images = augment.pad_images(images)
    table = augment.epoch_table(0, 0, 9, 3, 2, augmentation).to(DEVICE)
    mean, std = torch.tensor([0.5, 0.4, 0.3], device=DEVICE), torch.tensor([0.2, 0.3, 0.25], device=DEVICE)
    position, rate = torch.tensor([2], device=DEVICE), torch.zeros((), device=DEVICE)
    rates = torch.tensor([0.1, 0.2, 0.3], device=DEVICE)
    batch, batch_labels = fused_batch.load_batch(
        images, labels, table, rates, position, rate, mean, std, 16, torch.float32, channels
    )
    expected = augment.augment(images, table[2], mean, std, 16, torch.float32)
    torch.testing.assert_close(batch[:, :3], expected, rtol=1e-6, atol=1e-6)
    assert not batch[:, 3:].any()
    assert torch.equal(batch_labels, labels[table[2, 0].long()])
    assert rate.item() == pytest.approx(0.3)


@needs_triton
@pytest.mark.parametrize("samples", [5, 700])
def test_loss_and_gradient_are_cross_entropy_s(samples: int) -> None:
    logits = 5 * torch.randn(samples, 10, device=DEVICE)
    logits.requires_grad_()
    labels = torch.randint(0, 10, (samples,), device=DEVICE)
    loss_sum = torch.ones((), dtype=torch.float64, device=DEVICE)
    wrong = torch.ones((), dtype=torch.int64, device=DEVICE)
    position = torch.tensor([4], device=DEVICE)
    gradient = fused_batch.loss_and_gradient(logits, labels, loss_sum, wrong, position)
    loss = functional.cross_entropy(logits, labels)
    loss.backward()
    torch.testing.assert_close(gradient, logits.grad, rtol=1e-4, atol=1e-7)
    assert loss_sum.item() - 1 == pytest.approx(loss.item(), rel=1e-5)
    assert wrong.item() - 1 == (logits.argmax(1) != labels).sum().item()
    assert position.item() == 5


def random_resnet() -> models.ResNet:
    """ResNet-8 whose batch norms are not at their start: those have zero weights and means."""
    torch.manual_seed(0)
    model = models.cifar_resnet(8, "projection", 0).to(DEVICE)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.bias, -0.3, 0.3)
            nn.init.normal_(part.running_mean, std=0.5)
    return model


def pooled(model: models.ResNet, images: Tensor) -> Tensor:
    return model.layers(functional.relu(model.bn1(model.conv1(images)))).mean((2, 3))


@pytest.fixture(scope="module")
def trained() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What a forward and backward pass leave, by the kernels and by autograd: images of 8 pixels, 5 of them, so
    that no tile is full."""
    size, samples = 8, 5
    fused, plain = random_resnet(), random_resnet().train()
    images = torch.randn(samples, 3, size, size, device=DEVICE)
    gradient = torch.randn(samples, 64, device=DEVICE)
    results = []
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(fused_resnet, "SIZE", size)
        process.configure(DEVICE, 1, "fp32", deterministic=False)  # cuDNN would use TF32
        if INTERPRETED:  # few programs, which it runs one after another; several, so that they share the sums
            patch.setattr(fused_resnet, "CHECK_TILE", fused_resnet.Tile(64, 3, 8, 1))
        network = fused_resnet.FusedResNet(fused, samples, "fp32")
        padded = torch.zeros(samples, size, size, fused_resnet.INPUT_CHANNELS, device=DEVICE)
        padded[..., :3] = images.permute(0, 2, 3, 1)
        features = network.forward(padded)
        network.backward(gradient)
        results.append(left(fused, features))
    features = pooled(plain, images)
    features.backward(gradient)
    results.append(left(plain, features.detach()))
    return results[0], results[1]


def left(model: models.ResNet, features: Tensor) -> dict[str, Tensor]:
    gradients = {f"{name}.grad": p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"features": features, **gradients, **dict(model.named_buffers())}


@needs_triton
@pytest.mark.parametrize(
    "what", ["features", "weight.grad", "bias.grad", "running_mean", "running_var", "num_batches_tracked"]
)
def test_the_kernels_compute_what_the_modules_and_autograd_do(
    trained: tuple[dict[str, Tensor], dict[str, Tensor]], what: str
) -> None:
    fused, plain = trained
    assert fused.keys() == plain.keys()
    names = [name for name in plain if name.endswith(what)]
    assert names
    for name in names:
        scale = plain[name].double().norm().item()
        error = (fused[name].double() - plain[name].double()).norm().item()
        assert error <= 1e-4 * scale, f"{name}: {error} of {scale}"
