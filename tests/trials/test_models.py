import pytest
import torch

from trials import models
from trials.models import count_parameters


@pytest.mark.parametrize(("shortcut", "parameters"), [("identity", 658_586), ("projection", 661_338)])
def test_resnet44_has_the_parameters_of_the_paper(shortcut: str, parameters: int) -> None:
    assert count_parameters(models.cifar_resnet(44, shortcut, 0)) == parameters


def test_resnet18_has_kuangliu_s_parameters() -> None:
    assert count_parameters(models.resnet18(0)) == 11_173_962


@pytest.mark.parametrize("dropout", [False, True])
def test_the_perceptron_has_the_sheet_s_parameters(dropout: bool) -> None:
    assert count_parameters(models.multilayer_perceptron(0, dropout)) == 4_084_010


def test_a_depth_that_is_no_6n_plus_2_is_refused() -> None:
    with pytest.raises(ValueError, match="6n\\+2"):
        models.cifar_resnet(45, "projection", 0)


@pytest.mark.parametrize("shortcut", ["identity", "projection"])
def test_a_resnet_halves_the_image_twice(shortcut: str) -> None:
    model = models.cifar_resnet(8, shortcut, 0)
    x = torch.randn(2, 3, 32, 32)
    assert model.layers(model.conv1(x)).shape == (2, 64, 8, 8)
    assert model(x).shape == (2, 10)


def test_a_block_starts_as_its_shortcut() -> None:
    block = models.cifar_resnet(20, "identity", 0).layers[1].eval()
    x = torch.rand(2, 16, 8, 8)
    assert torch.equal(block(x), x)


def test_option_a_keeps_every_second_pixel_and_adds_zero_channels() -> None:
    x = torch.randn(1, 16, 4, 4)
    y = models.PadShortcut(16, 32)(x)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any()
    assert not y[:, 24:].any()


def test_weights_follow_from_the_seed_and_leave_the_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (models.cifar_resnet(8, "projection", seed).conv1.weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.rand(1), expected)


def test_dropout_stands_before_each_linear_layer_and_not_after_the_logits() -> None:
    model = models.multilayer_perceptron(0, dropout=True)
    assert [m.p for m in model if isinstance(m, torch.nn.Dropout)] == [0.2, 0.5, 0.5]
    assert isinstance(model[-1], torch.nn.Linear)


def test_both_arms_of_problem_1_start_at_the_same_weights() -> None:
    plain, dropped = (list(models.multilayer_perceptron(0, d).parameters()) for d in (False, True))
    assert all(torch.equal(a, b) for a, b in zip(plain, dropped, strict=True))
