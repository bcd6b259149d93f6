"""The analyser's totals are the true ones: torch's counter and modules' own parameters for every torchvision
classifier, published numbers for the sheet's networks; a layer without a rule is named."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from trials.architectures import Uncountable, analyse, meta_copy
from trials.network_names import TORCHVISION
from trials.networks import Filters, OnMeta, build
from trials.receptive import Field, Span, union

RGB = (3, 32, 32)


@functools.cache
def built(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    return build(name, 0, 256, Filters())


@functools.cache
def analysed(name: str) -> tuple[list[dict[str, Any]], int]:
    """Rows, and the multiply-accumulates that torch's own counter sees on the way (it looks one level below)."""
    network, shape = built(name)
    with FlopCounterMode(display=False) as counter:
        rows = analyse(network, shape, name)
    return rows, counter.get_total_flops() // 2


def rows_of(name: str) -> list[dict[str, Any]]:
    return analysed(name)[0]


def total(rows: list[dict[str, Any]], column: str) -> int:
    return sum(row[column] for row in rows)


def counted(network: nn.Module, shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of a network by torch's own counter alone."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(torch.empty((1, *shape), device="meta"))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("name", TORCHVISION)
def test_totals_equal_torch_s_for(name: str) -> None:
    network, (rows, macs) = built(name)[0], analysed(name)
    assert total(rows, "macs") == macs
    assert total(rows, "parameters") == sum(p.numel() for p in network.parameters())
    biases = sum(p.numel() for n, p in network.named_parameters() if n.endswith("bias"))
    assert total(rows, "parameters_without_bias") == sum(p.numel() for p in network.parameters()) - biases


@pytest.mark.parametrize("name", [n for n in TORCHVISION if n not in ("googlenet", "inception_v3")])
def test_totals_equal_torchvision_s_published_ones_for(name: str) -> None:
    published = [w for w in models.get_model_weights(name) if w.transforms.keywords["crop_size"] == built(name)[1][1]]
    assert total(rows_of(name), "parameters") == published[0].meta["num_params"]
    assert total(rows_of(name), "macs") / 1e9 == pytest.approx(published[0].meta["_ops"], abs=6e-4)


def test_what_inference_does_not_use_is_told() -> None:
    rows = rows_of("googlenet")
    assert {row["layer"].split(".")[0] for row in rows if not row["in_forward"]} == {"aux1", "aux2"}
    used = sum(row["parameters"] for row in rows if row["in_forward"])
    assert used == models.GoogLeNet_Weights.IMAGENET1K_V1.meta["num_params"]


@pytest.mark.parametrize("name", ["googlenet", "swin_v2_t", "vit_b_32"])
def test_being_analysed_does_not_change_what_torch_counts(name: str) -> None:
    assert analysed(name)[1] == counted(*built(name))


def test_the_list_of_names_is_torchvision_s_registry() -> None:
    assert list(TORCHVISION) == models.list_models(module=models)


def test_alexnet_is_the_paper_s() -> None:
    rows = {row["layer"]: row for row in rows_of("alexnet_paper")}
    weighted = {name: row["parameters"] for name, row in rows.items() if row["parameters"]}
    assert weighted == {
        "conv1": 34_944, "conv2": 307_456, "conv3": 885_120, "conv4": 663_936, "conv5": 442_624,
        "fc6": 37_752_832, "fc7": 16_781_312, "fc8": 4_097_000,
    }  # fmt: skip
    assert sum(weighted.values()) == 60_965_224
    neurons = [rows[name]["activations"] for name in ("conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")]
    assert neurons == [186_624, 64_896, 64_896, 43_264, 4096, 4096, 1000]  # the caption of Figure 2


@pytest.mark.parametrize(
    ("name", "parameters", "without_bias"),
    [
        ("alexnet", 61_100_840, None),
        ("vgg19", 143_667_240, 143_652_544),
        ("resnet18_cifar10", 11_173_962, None),
        ("resnet44_cifar10", 661_338, None),
        ("resnet44_cifar10_identity", 658_586, None),
    ],
)
def test_published_parameters(name: str, parameters: int, without_bias: int | None) -> None:
    assert total(rows_of(name), "parameters") == parameters
    assert without_bias in (None, total(rows_of(name), "parameters_without_bias"))


@pytest.mark.parametrize(
    ("name", "macs", "shape"),
    [("inception_naive", 1_115_684_864, "672x32x32"), ("inception_reduced", 397_410_304, "480x32x32")],
)
def test_inception_modules(name: str, macs: int, shape: str) -> None:
    rows = rows_of(name)
    assert total(rows, "macs") == macs == counted(*built(name))
    assert (rows[-1]["kind"], rows[-1]["output_shape"]) == ("cat", shape)
    assert total(rows, "parameters") == sum(p.numel() for p in built(name)[0].parameters())


def test_an_inception_module_s_shapes_are_a_real_one_s() -> None:
    network = build("inception_reduced", 0, 256, Filters())[0].to_empty(device="cpu")
    seen: dict[str, str] = {}

    def hook(name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        seen[name] = "x".join(map(str, output.shape[1:]))

    for name, module in network.named_children():
        module.register_forward_hook(functools.partial(hook, name))
    network(torch.zeros(1, 256, 32, 32))
    assert len(seen) == 7
    assert seen == {row["layer"]: row["output_shape"] for row in rows_of("inception_reduced") if row["layer"] in seen}


def test_filters_are_parameters() -> None:
    network, shape = build("inception_naive", 8, 16, Filters(conv1x1=3, conv3x3=4, conv5x5=5))
    assert analyse(network, shape)[-1]["output_shape"] == f"{3 + 4 + 5 + 16}x8x8"


@pytest.mark.parametrize(
    ("name", "size"),
    # Araujo, Norris & Sim 2019, "Computing Receptive Fields of Convolutional Neural Networks", for the first two
    [("alexnet", 195), ("vgg16", 212), ("resnet18", 435), ("resnet34", 899)],
)
def test_receptive_fields(name: str, size: int) -> None:
    fields = [row["receptive_field"] for row in rows_of(name) if row.get("receptive_field")]
    assert fields[-1] == size


class Branches(nn.Module):
    """Strides, a pool, a 1x1 shortcut, unequal sides, slices, a permutation and a split."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, (3, 1), stride=2, padding=(1, 0))
        self.wide = nn.Conv2d(2, 4, (1, 5), padding=(0, 2), bias=False)
        self.dilated = nn.Conv2d(2, 4, 3, padding=2, dilation=2)
        self.pool = nn.AvgPool2d(3, stride=2, padding=1)
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        left, right = x.chunk(2, dim=1)
        joined = self.wide(left) + self.dilated(right)
        pooled = self.pool(joined) + joined[:, :, ::2, ::2]
        return self.linear(pooled.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def test_a_receptive_field_is_where_the_gradient_comes_from() -> None:
    network = Branches().double()
    rows = analyse(network, (1, 64, 64))
    image = torch.zeros(1, 1, 64, 64, dtype=torch.float64, requires_grad=True)
    network(image)[0, :, 8, 8].sum().backward()
    assert image.grad is not None
    places = image.grad[0, 0].nonzero()
    height, width = (places.amax(0) - places.amin(0) + 1).tolist()
    assert (rows[-1]["receptive_field"], rows[-1]["receptive_field_width"]) == (height, width)


def test_where_a_field_is_not_defined_there_is_none() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    assert [row.get("receptive_field") for row in analyse(network, RGB)] == [3, None, None, None]


def test_fields_that_move_differently_do_not_join() -> None:
    assert union([Field(), Field(rows=Span(0, 2, 2))]) is None
    assert union([Field(Span(-1, 1)), Field(Span(0, 3))]) == Field(Span(-1, 3))


def test_windows_are_columns() -> None:
    network = nn.Sequential(nn.Conv2d(4, 6, (3, 5), stride=(2, 1), padding=(1, 2), groups=2))
    (row,) = analyse(network, (4, 8, 8), "mine")
    assert (row["network"], row["layer"], row["kind"]) == ("mine", "0", "conv")
    assert (row["input_shape"], row["output_shape"]) == ("4x8x8", "6x4x8")
    assert (row["kernel"], row["stride"], row["padding"], row["groups"]) == ("3x5", "2x1", "1x2", 2)
    assert (row["parameters"], row["parameters_without_bias"]) == (6 * 2 * 15 + 6, 6 * 2 * 15)
    assert (row["activations"], row["macs"]) == (6 * 4 * 8, 6 * 4 * 8 * 2 * 15)


def test_a_layer_used_twice_has_its_parameters_once() -> None:
    layer = nn.Linear(8, 8)
    rows = analyse(nn.Sequential(layer, nn.ReLU(), layer), (8,))
    assert [(r["call"], r["parameters"], r["macs"]) for r in rows] == [(1, 72, 64), (1, 0, 0), (2, 0, 64)]


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.weight = nn.Parameter(torch.zeros(4, 8))
        self.spare = nn.Parameter(torch.zeros(5))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x + self.token, self.weight)


def test_parameters_without_a_layer_are_counted_and_told_apart() -> None:
    rows = analyse(Custom(), (3, 8))
    found = {row["layer"]: (row["kind"], row["parameters"], row["macs"], row["in_forward"]) for row in rows}
    assert found == {
        "linear": ("linear", 32, 96, True),
        "token": ("parameter", 8, 0, True),
        "Custom": ("parameter", 5, 0, False),
    }


class Functions(nn.Module):
    """Products of every kind, as functions, methods and operators, by place and by name, also of constants."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(6, 6))
        self.kernel = nn.Parameter(torch.zeros(4, 1, 3, 3))
        self.register_buffer("constant", torch.zeros(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        mixed = x @ (self.constant @ self.constant) + self.table.T
        mixed = torch.matmul(input=mixed, other=self.table) + torch.einsum("bcij,jk->bcik", x, self.table)
        flat = mixed.reshape(-1, 6, 6)
        flat = torch.baddbmm(flat, flat, flat) + torch.bmm(flat, flat.mT)
        heads = flat.view(1, 4, 6, 6)
        seen = functional.scaled_dot_product_attention(heads, heads[:, :, :3], value=heads[:, :, :3])
        seen = functional.conv2d(seen, self.kernel, padding="same", groups=4)
        return functional.linear(seen, weight=self.table)


def test_products_in_functions_are_counted_as_torch_does() -> None:
    network = Functions().to("meta")
    rows = analyse(network, (4, 6, 6))
    assert total(rows, "macs") == counted(network, (4, 6, 6))
    assert total(rows, "parameters") == 36 + 36


@pytest.mark.parametrize("query", [(7, 16), (5, 16)])
def test_attention_between_lengths(query: tuple[int, int]) -> None:
    class Cross(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x[:, :3], x[:, :3], need_weights=False)[0]

    with OnMeta():
        network = Cross()
    assert total(analyse(network, query), "macs") == counted(network, query)


@pytest.mark.parametrize(
    ("layer", "named", "calls"),
    [
        (nn.LSTM(32, 4, batch_first=True), "LSTM", "lstm"),
        (nn.ConvTranspose2d(3, 4, 3), "ConvTranspose2d", "conv_transpose2d"),
        (nn.PixelShuffle(1), "PixelShuffle", "pixel_shuffle"),
        (nn.MultiheadAttention(32, 4, add_zero_attn=True), "MultiheadAttention", "multi_head_attention_forward"),
    ],
)
def test_a_layer_without_a_rule_is_named(layer: nn.Module, named: str, calls: str) -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Identity(), layer)

        def forward(self, x: Tensor) -> Tensor:
            if isinstance(layer, nn.LSTM | nn.MultiheadAttention):
                x = x[:, 0]
            return self.body[1](*[x] * (3 if isinstance(layer, nn.MultiheadAttention) else 1))

    with pytest.raises(Uncountable, match=rf"mine: layer 'body\.1' \({named}\) calls {calls}"):
        analyse(Network(), RGB, "mine")


def test_an_einsum_of_three_is_not_guessed() -> None:
    class Network(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum("bi,bi,bi->b", x, x, x)

    with pytest.raises(Uncountable, match=r"the network itself \(Network\) calls einsum"):
        analyse(Network(), (4,))


def test_work_on_constants_is_not_overlooked() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.zeros(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            return x + torch.linalg.inv(self.table.clone())

    with pytest.raises(Uncountable, match="calls linalg_inv"):
        analyse(Network(), (4, 4))


def test_an_output_that_nothing_seen_made_is_an_error() -> None:
    class Detached(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros(3, device="meta")

    with pytest.raises(Uncountable, match="does not see"):
        analyse(Detached(), (4,))


def test_the_network_itself_is_not_touched() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Dropout())
    analyse(network, (4,))
    assert network.training
    assert not network[0]._forward_hooks
    assert network[0].weight.device.type == "cpu"


def test_no_weight_is_allocated() -> None:
    network = built("vit_h_14")[0]
    assert {t.device.type for t in [*network.parameters(), *network.buffers()]} == {"meta"}
    copy = meta_copy(nn.Sequential(nn.BatchNorm2d(3)))
    assert {t.device.type for t in [*copy.parameters(), *copy.buffers()]} == {"meta"}
