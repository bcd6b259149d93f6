"""Analyse any network on meta tensors: one row a layer, with shapes, parameters, multiply-accumulates, receptive field.

No weight is allocated: the network is copied onto the meta device, where tensors have shapes and no numbers, and one
input goes through it. Modules that trials/layer_rules.py knows are one row each; a module that it does not know is
looked into, down to the functions that it calls (columns: `LAYERS` of trials/problem3_tables.py). A function
without a rule ends in `Uncountable`, which names the layer: a total that leaves something out is worse than none.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from trials import layer_rules
from trials.layer_rules import Window
from trials.receptive import Field, after_layer, after_move, union
from trials.spec import Row

WINDOWED = ("conv", "max_pool", "avg_pool")


class Uncountable(Exception):
    """A network has a layer that the analyser has no rule for; the text names it."""


def analyse(network: nn.Module, input_shape: tuple[int, ...], name: str = "") -> list[Row]:
    """One row a layer in the order of execution, then the parameters that no layer has.

    `input_shape` is that of one example, e.g. (3, 224, 224). The network is looked at in eval mode and is not
    changed. Raises `Uncountable` for a layer without a rule.
    """
    shadow = meta_copy(network).eval()
    walk = _Walk(shadow, name or type(network).__name__)
    dtype = next((p.dtype for p in shadow.parameters() if p.is_floating_point()), torch.float32)
    example = torch.empty((1, *input_shape), dtype=dtype, device="meta")
    walk.follow(example, Field() if example.dim() == 4 else None)
    for module in shadow.modules():
        walk.watch(module)
    with torch.no_grad(), walk:
        output = shadow(example)
    if not any(id(t) in walk.fields for t in _tensors(output)):
        raise Uncountable(f"{walk.network}: its output was made by something that the analyser does not see")
    return walk.rows + list(walk.parameters_left())


def meta_copy(network: nn.Module) -> nn.Module:
    """A copy whose parameters and buffers are on the meta device; none of their numbers is copied."""
    memo: dict[int, Any] = {}
    for parameter in network.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
    for buffer in network.buffers():
        memo[id(buffer)] = buffer.detach().to("meta")
    return copy.deepcopy(network, memo)


class _Walk(TorchFunctionMode):
    """Sees every module through hooks and every function through the mode, and keeps the rows."""

    def __init__(self, shadow: nn.Module, network: str) -> None:
        super().__init__()
        self.network = network
        self.rows: list[Row] = []
        self.fields: dict[int, Field | None] = {}
        """Receptive field of every tensor that depends on the input, by identity; None where it is not defined."""
        self._alive: list[Any] = []  # an identity stays one tensor's only as long as the tensor lives
        self._shadow = shadow
        self._names = {id(m): n for n, m in shadow.named_modules()}
        self._parameters = {id(p): n for n, p in shadow.named_parameters()}
        self._owned: set[int] = set()
        self._touched: set[int] = set()
        """Parameters that some function outside the modules with a rule was given."""
        self._calls: Counter[str] = Counter()
        self._stack: list[nn.Module] = []
        self._position = 0
        self._inside: nn.Module | None = None
        """The module with a rule that is being executed: what it does within is its own row."""

    def watch(self, module: nn.Module) -> None:
        """Be told of every call of a module."""
        module.register_forward_pre_hook(self._enter)
        module.register_forward_hook(self._leave, with_kwargs=True)

    def follow(self, tensor: Tensor, field: Field | None) -> None:
        """Note that a tensor depends on the input."""
        self.fields[id(tensor)] = field
        self._alive.append(tensor)

    def parameters_left(self) -> Iterator[Row]:
        """Rows for parameters that no layer has: those that functions use by themselves (a class token, a position
        embedding), and those that inference does not use (an auxiliary classifier)."""
        for name, module in self._shadow.named_modules():
            left = [p for p in module.parameters(recurse=False) if id(p) not in self._owned]
            for parameter in [p for p in left if id(p) in self._touched and id(p) not in self._owned]:
                self._own([parameter])
                yield self._row(self._parameters[id(parameter)], "parameter", [parameter])
            if unused := [p for p in left if id(p) not in self._owned]:
                self._own(unused)
                kind = layer_rules.kind_of(module) or "parameter"
                yield self._row(name or type(module).__name__, kind, unused) | {"in_forward": False}

    def _enter(self, module: nn.Module, arguments: Any) -> None:
        self._stack.append(module)
        if self._inside is None and layer_rules.kind_of(module) is not None:
            self._inside = module

    def _leave(self, module: nn.Module, arguments: Any, named: Any, output: Any) -> None:
        self._stack.pop()
        kind = layer_rules.kind_of(module)
        if self._inside is not module or kind is None:
            return
        self._inside = None
        inputs, made = _tensors((arguments, named)), _tensors(output)
        self._alive += inputs
        window = layer_rules.window(module) if kind in WINDOWED else None
        macs = layer_rules.module_macs(module, inputs, made[0])
        groups = getattr(module, "groups", None) if kind == "conv" else None
        name = self._names[id(module)] or type(module).__name__
        self._layer(name, kind, list(module.parameters()), inputs, made, macs, window, groups)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        result = function(*args, **named)
        name = getattr(function, "__name__", str(function)).strip("_")
        if self._inside is None and (inputs := _tensors((args, named))):
            self._alive += inputs
            self._touched |= {id(t) for t in inputs} & self._parameters.keys()
            self._function(name, function, args, named, inputs, _tensors(result))
        return result

    def _function(
        self, name: str, function: Any, args: Any, named: Any, inputs: list[Tensor], made: list[Tensor]
    ) -> None:
        """Account for one call of a function outside the modules that have a rule."""
        following = [t for t in inputs if id(t) in self.fields]
        if name in layer_rules.PRODUCTS:
            self._product(name, args, named, inputs, made)
        elif name in layer_rules.LAYERS and (name not in layer_rules.JOINS or len(following) > 1):
            kind = layer_rules.LAYERS[name]
            pool = layer_rules.by_name(layer_rules.POOL_ARGUMENTS, args, named)
            window = layer_rules.window(pool) if kind in WINDOWED else None
            detail = {"cat": _argument(args, named, 1, "dim", 0), "pad": _argument(args, named, 1, "pad", ())}
            owned = [p for p in inputs if kind.endswith("norm") and id(p) in self._parameters]
            self._layer(self._called(name), kind, owned, inputs, made, 0, window, None, detail.get(kind))
        elif name in layer_rules.ELEMENTWISE | layer_rules.LAYERS.keys():
            self._follow(made, union(self.fields[id(t)] for t in following), bool(following))
        elif name in layer_rules.MOVES:
            field = union(self.fields[id(t)] for t in following)
            if following and made:
                field = after_move(name, field, [*args, *named.values()], following[0].shape, made[0].shape)
            self._follow(inputs[:1] if name == "setitem" else made, field, bool(following))
        elif name in layer_rules.QUESTIONS:
            self._follow(made, None, bool(following))
        else:
            raise Uncountable(self._no_rule(function))

    def _product(self, name: str, args: Any, named: Any, inputs: list[Tensor], made: list[Tensor]) -> None:
        kind, window, groups = layer_rules.PRODUCTS[name], None, None
        if kind == "conv":
            given = layer_rules.by_name(layer_rules.CONVOLUTION_ARGUMENTS, args, named)
            window = layer_rules.window(given, given["weight"])
            groups = given["input"].shape[1] // given["weight"].shape[1]
        try:
            macs = layer_rules.product_macs(name, args, named, made[0])
        except NotImplementedError as error:
            raise Uncountable(self._no_rule(str(error))) from None
        owned = [p for p in inputs if id(p) in self._parameters]
        self._layer(self._called(name), kind, owned, inputs, made, macs, window, groups)

    def _no_rule(self, function: Any) -> str:
        where, module = self._names[id(self._stack[-1])], type(self._stack[-1]).__name__
        called = getattr(function, "__name__", str(function))
        layer = f"layer {where!r} ({module})" if where else f"the network itself ({module})"
        return f"{self.network}: {layer} calls {called}, which trials/layer_rules.py has no rule for"

    def _called(self, function: str) -> str:
        """A function's name as a layer: below the module that called it."""
        return ".".join(filter(None, [self._names[id(self._stack[-1])], layer_rules.display(function)]))

    def _layer(
        self,
        name: str,
        kind: str,
        parameters: Sequence[Tensor],
        inputs: list[Tensor],
        made: list[Tensor],
        macs: int,
        window: Window | None,
        groups: int | None,
        detail: Any = None,
    ) -> None:
        """Append the row of a layer, and follow what it made."""
        self._calls[name] += 1
        following = [t for t in inputs if id(t) in self.fields]
        field = union(self.fields[id(t)] for t in following)
        field = after_layer(kind, field, following[0].shape, made[0].shape, window, detail) if following else None
        row = self._row(name, kind, [p for p in parameters if id(p) not in self._owned])
        self._own(parameters)
        shapes = {"input_shape": _shape((following or inputs)[0]), "output_shape": _shape(made[0])}
        sizes = {"activations": made[0].numel(), "macs": macs, "groups": groups}
        row |= {"call": self._calls[name], **shapes, **_window_columns(window), **sizes, **_field_columns(field)}
        self.rows.append(row)
        self._follow(made, field, bool(following))

    def _follow(self, made: list[Tensor], field: Field | None, depends: bool) -> None:
        if depends:
            for tensor in made:
                self.follow(tensor, field)

    def _own(self, parameters: Sequence[Tensor]) -> None:
        self._owned |= {id(p) for p in parameters}

    def _row(self, layer: str, kind: str, parameters: Sequence[Tensor]) -> Row:
        biases = [p for p in parameters if self._parameters[id(p)].rpartition(".")[2].endswith("bias")]
        count = sum(p.numel() for p in parameters)
        without = count - sum(p.numel() for p in biases)
        self._position += 1
        row: Row = {"network": self.network, "position": self._position, "layer": layer, "call": 1, "kind": kind}
        numbers: Row = {"activations": 0, "parameters": count, "parameters_without_bias": without, "macs": 0}
        return row | {"in_forward": True} | numbers


def _tensors(value: Any) -> list[Tensor]:
    """All tensors in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for v in value for t in _tensors(v)] if isinstance(value, (tuple, list)) else []


def _argument(args: Any, named: Any, place: int, name: str, default: Any) -> Any:
    return named[name] if name in named else args[place] if len(args) > place else default


def _shape(tensor: Tensor) -> str:
    """Of one example, as 3x224x224. Where the first dimension is not the one example but its windows, it stays."""
    return "x".join(map(str, tensor.shape[1:] if tensor.shape[0] == 1 else tensor.shape))


def _window_columns(window: Window | None) -> Row:
    if window is None:
        return {}
    sides = {"kernel": window.kernel, "stride": window.stride, "padding": window.padding}
    return {name: "x".join(map(str, values)) for name, values in sides.items()}


def _field_columns(field: Field | None) -> Row:
    if field is None:
        return {}
    return {"receptive_field": field.rows.size, "receptive_field_width": field.columns.size}
