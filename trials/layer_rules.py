"""What the analyser knows of layers: their kinds, their multiply-accumulates, their windows.

A multiply-accumulate (MAC) is one product added to a sum. Only sums of products with a learned or computed second
factor count: convolution, fully connected layer, matrix product, attention. Element by element work (bias,
activation, normalisation, pooling, addition) counts as none, the convention of torch.utils.flop_counter and of the
numbers that papers print.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
MODULES: Mapping[type[nn.Module], str] = {
    nn.Conv1d: "conv",
    nn.Conv2d: "conv",
    nn.Conv3d: "conv",
    nn.Linear: "linear",
    nn.MultiheadAttention: "attention",
    nn.BatchNorm1d: "batch_norm",
    nn.BatchNorm2d: "batch_norm",
    nn.BatchNorm3d: "batch_norm",
    nn.LayerNorm: "layer_norm",
    nn.GroupNorm: "group_norm",
    nn.LocalResponseNorm: "local_response_norm",
    nn.MaxPool2d: "max_pool",
    nn.AvgPool2d: "avg_pool",
    nn.AdaptiveAvgPool2d: "adaptive_avg_pool",
    nn.AdaptiveMaxPool2d: "adaptive_max_pool",
    nn.Dropout: "dropout",
    nn.Dropout2d: "dropout",
    nn.Flatten: "flatten",
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.LeakyReLU: "leaky_relu",
    nn.PReLU: "prelu",
    nn.ELU: "elu",
    nn.GELU: "gelu",
    nn.SiLU: "silu",
    nn.Mish: "mish",
    nn.Sigmoid: "sigmoid",
    nn.Tanh: "tanh",
    nn.Hardswish: "hardswish",
    nn.Hardsigmoid: "hardsigmoid",
    nn.Softmax: "softmax",
    nn.LogSoftmax: "log_softmax",
}
"""Modules with a rule. One that overrides the forward of its class is looked into instead."""
PRODUCTS: Mapping[str, str] = {
    "conv1d": "conv",
    "conv2d": "conv",
    "conv3d": "conv",
    "linear": "linear",
    "matmul": "matmul",
    "rmatmul": "matmul",
    "mm": "matmul",
    "bmm": "matmul",
    "addmm": "matmul",
    "baddbmm": "matmul",
    "einsum": "matmul",
    "scaled_dot_product_attention": "attention",
}
"""Functions that multiply and accumulate, by name without underscores."""
LAYERS: Mapping[str, str] = {
    "relu": "relu",
    "relu6": "relu6",
    "leaky_relu": "leaky_relu",
    "gelu": "gelu",
    "silu": "silu",
    "hardswish": "hardswish",
    "hardsigmoid": "hardsigmoid",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "softmax": "softmax",
    "log_softmax": "log_softmax",
    "max_pool2d": "max_pool",
    "avg_pool2d": "avg_pool",
    "adaptive_avg_pool2d": "adaptive_avg_pool",
    "batch_norm": "batch_norm",
    "layer_norm": "layer_norm",
    "group_norm": "group_norm",
    "normalize": "normalize",
    "local_response_norm": "local_response_norm",
    "dropout": "dropout",
    "pad": "pad",
    "mean": "mean",
    "cat": "cat",
    "concat": "cat",
    "add": "add",
    "iadd": "add",
    "radd": "add",
    "mul": "mul",
    "imul": "mul",
}
"""Functions that are layers of their own, without products; those of JOINS only between tensors that both
depend on the input."""
JOINS = frozenset({"add", "iadd", "radd", "mul", "imul"})
MOVES = frozenset({
    "view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "expand", "expand_as", "repeat", "permute",
    "movedim", "swapaxes", "transpose", "t", "contiguous", "clone", "chunk", "split", "unbind", "stack", "narrow",
    "roll", "getitem", "setitem", "to", "float", "type_as", "detach", "new_zeros", "new_empty", "zero", "fill",
    "masked_fill", "empty", "zeros", "ones", "full", "arange", "linspace", "meshgrid",
})  # fmt: skip
"""Functions that only place or move numbers."""
ELEMENTWISE = frozenset({
    "add", "iadd", "radd", "sub", "isub", "rsub", "mul", "imul", "rmul", "div", "idiv", "truediv", "rtruediv",
    "neg", "exp", "log", "sqrt", "rsqrt", "pow", "square", "abs", "clamp", "minimum", "maximum", "where", "eq",
    "ne", "lt", "le", "gt", "ge",
})  # fmt: skip
"""Functions of single elements that are no layer: scaling by a number, masks, the bias of an attention."""
QUESTIONS = frozenset({
    "get", "set", "size", "dim", "numel", "stride", "is_contiguous", "is_floating_point", "assert", "len",
})  # fmt: skip
"""Functions that only ask (a tensor's attribute is one: it may be a view, of which no field is known)."""
CONVOLUTION_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
POOL_ARGUMENTS = ("input", "kernel_size", "stride", "padding")


@dataclass(frozen=True)
class Window:
    """Kernel, stride, padding and dilation, each along every spatial axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]


def kind_of(module: nn.Module) -> str | None:
    """The kind of a module that has a rule, else None."""
    if isinstance(module, nn.MultiheadAttention) and (module.bias_k is not None or module.add_zero_attn):
        return None
    for known, kind in MODULES.items():
        if isinstance(module, known) and type(module).forward is known.forward:
            return kind
    return None


def display(function: str) -> str:
    """A function's name as readers know it: `add` for the `iadd` of `x += y`."""
    return {"iadd": "add", "radd": "add", "imul": "mul", "rmatmul": "matmul"}.get(function, function)


def window(source: Any, weight: Tensor | None = None) -> Window | None:
    """The window of a convolution or pooling: a module, or the arguments of a function by name."""
    read = source.get if isinstance(source, Mapping) else lambda key, default=None: getattr(source, key, default)
    kernel = tuple(weight.shape[2:]) if weight is not None else read("kernel_size")
    if kernel is None:
        return None
    axes = len(kernel) if isinstance(kernel, tuple) else 2
    kernel, dilation = _each(kernel, axes), _each(read("dilation") or 1, axes)
    stride = _each(read("stride") or (kernel if weight is None else 1), axes)
    padding = read("padding") or 0
    if padding == "same":
        padding = tuple((k - 1) * d // 2 for k, d in zip(kernel, dilation, strict=True))
    return Window(kernel, stride, _each(0 if padding == "valid" else padding, axes), dilation)


def _each(value: Any, axes: int) -> tuple[int, ...]:
    return tuple(int(v) for v in value) if isinstance(value, (tuple, list)) else (int(value),) * axes


def module_macs(module: nn.Module, inputs: list[Tensor], output: Tensor) -> int:
    """Multiply-accumulates of a module that has a rule.

    A convolution makes each output of (channels in / groups) x kernel products, a fully connected layer of as many
    as it has inputs. Attention over n places of width d and s places to look at: 3 projections, the scores and the
    weighted sum, n s d each, and the output's projection.
    """
    if isinstance(module, CONVOLUTIONS):
        return output.numel() * module.in_channels // module.groups * math.prod(module.kernel_size)
    if isinstance(module, nn.Linear):
        return output.numel() * module.in_features
    if isinstance(module, nn.MultiheadAttention):
        return attention_module_macs(module, inputs)
    return 0


def attention_module_macs(module: nn.MultiheadAttention, inputs: list[Tensor]) -> int:
    """Of nn.MultiheadAttention, query, key and value given."""
    query, key, value = inputs[:3]
    width = module.embed_dim
    axis = (1 if module.batch_first else 0) if query.dim() == 3 else 0
    projected = query.numel() * width + key.numel() * width + value.numel() * width
    products = 2 * query.numel() * key.shape[axis]
    return projected + products + query.numel() * width


def product_macs(name: str, arguments: tuple[Any, ...], named: Mapping[str, Any], output: Tensor) -> int:
    """Multiply-accumulates of one of PRODUCTS."""
    if name.startswith("conv"):
        weight = by_name(CONVOLUTION_ARGUMENTS, arguments, named)["weight"]
        return output.numel() * math.prod(weight.shape[1:])
    if name == "einsum":
        return _einsum_macs(arguments)
    if name == "scaled_dot_product_attention":
        query, key, value, *_ = (*arguments, *named.values())
        return math.prod(query.shape) * key.shape[-2] + output.numel() * value.shape[-2]
    given = (*arguments, *named.values())
    factor = given[1] if name in ("addmm", "baddbmm", "rmatmul") else given[0]
    return output.numel() * factor.shape[-1]


def _einsum_macs(arguments: tuple[Any, ...]) -> int:
    equation, *operands = arguments
    tensors = list(operands[0]) if len(operands) == 1 and isinstance(operands[0], (tuple, list)) else operands
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    if len(tensors) != 2 or "." in equation:
        raise NotImplementedError(f"einsum {equation!r} of {len(tensors)} tensors")
    sizes = {letter: n for term, t in zip(terms, tensors, strict=True) for letter, n in zip(term, t.shape, strict=True)}
    return math.prod(sizes.values())


def by_name(names: tuple[str, ...], arguments: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a function by their names."""
    return dict(zip(names, arguments, strict=False)) | dict(named)
