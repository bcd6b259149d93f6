"""Which pixels of the input a unit can depend on: exact interval arithmetic through windows, joins and moves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trials.layer_rules import Window

POINTWISE = frozenset({
    "batch_norm", "local_response_norm", "dropout", "relu", "relu6", "leaky_relu", "prelu", "elu", "gelu", "silu",
    "mish", "sigmoid", "tanh", "hardswish", "hardsigmoid", "add", "mul",
})  # fmt: skip
"""Kinds that do not look along any place of the image."""
COPIES = frozenset({
    "contiguous", "clone", "detach", "to", "float", "type_as", "masked_fill",
})  # fmt: skip


@dataclass(frozen=True)
class Span:
    """Along one axis: the unit at index 0 sees input positions `first` to `last`, and each next index sees them
    `step` further on. Positions outside the image are padding."""

    first: int = 0
    last: int = 0
    step: int = 1

    @property
    def size(self) -> int:
        """Number of input positions seen."""
        return self.last - self.first + 1

    def through(self, kernel: int, stride: int, padding: int, dilation: int) -> Span:
        """What a unit after a convolution or pooling sees. Kernel F at step j makes the size grow by (F - 1) j, and
        the step by the factor of the stride."""
        first = self.first - padding * self.step
        last = self.last + ((kernel - 1) * dilation - padding) * self.step
        return Span(first, last, self.step * stride)

    def taken(self, start: int, every: int) -> Span:
        """After keeping each `every`-th unit from `start` on; a negative start is padding in front."""
        return Span(self.first + start * self.step, self.last + start * self.step, self.step * every)


@dataclass(frozen=True)
class Field:
    """Receptive field of a tensor's units: a span for its rows and one for its columns, and which of the tensor's
    dimensions those are."""

    rows: Span = Span()
    columns: Span = Span()
    axes: tuple[int, int] = (2, 3)

    def moved(self, order: Sequence[int]) -> Field:
        """After a permutation: dimension i of the result is dimension order[i] of this tensor."""
        return replace(self, axes=(order.index(self.axes[0]), order.index(self.axes[1])))

    def taken(self, rows: tuple[int, int], columns: tuple[int, int]) -> Field:
        """`Span.taken` of both."""
        return replace(self, rows=self.rows.taken(*rows), columns=self.columns.taken(*columns))


def union(fields: Iterable[Field | None]) -> Field | None:
    """The field of units that depend on units of several tensors at the same place (branches that join).

    None where one of them has none, or where their steps or dimensions differ.
    """
    several = list(fields)
    known = [f for f in several if f is not None]
    if len(known) < len(several) or len({(f.rows.step, f.columns.step, f.axes) for f in known}) != 1:
        return None
    rows, columns = [f.rows for f in known], [f.columns for f in known]
    return Field(_hull(rows), _hull(columns), known[0].axes)


def _hull(spans: Sequence[Span]) -> Span:
    return Span(min(s.first for s in spans), max(s.last for s in spans), spans[0].step)


def after_layer(
    kind: str, field: Field | None, before: Sequence[int], after: Sequence[int], window: Window | None, detail: Any
) -> Field | None:
    """The field after a layer, from shapes before and after it; None where it is not the same for every unit.

    `detail` is the dimension of a `cat`, and the padding of a `pad`.
    """
    if field is None:
        return None
    last_two = (len(before) - 2, len(before) - 1)
    if window is not None:
        return _after_window(field, window) if field.axes == last_two and len(window.kernel) == 2 else None
    if kind in ("linear", "layer_norm"):
        return field if len(before) - 1 not in field.axes else None
    if kind == "adaptive_avg_pool":
        return field if tuple(before) == tuple(after) else None
    if kind == "cat":
        return field if detail % len(before) not in field.axes else None
    if kind == "pad":
        left, _, top, *_ = (*detail, 0, 0, 0)
        return field.taken((-top, 1), (-left, 1)) if field.axes == last_two else None
    return field if kind in POINTWISE else None


def _after_window(field: Field, window: Window) -> Field:
    sides = zip(window.kernel, window.stride, window.padding, window.dilation, strict=True)
    high, wide = sides
    return replace(field, rows=field.rows.through(*high), columns=field.columns.through(*wide))


def after_move(
    name: str, field: Field | None, arguments: Sequence[Any], before: Sequence[int], after: Sequence[int]
) -> Field | None:
    """The field after a function that only moves numbers, where that can be told; else None."""
    if field is None or name in COPIES:
        return field
    n = len(before)
    if name in ("view", "reshape"):
        kept = field.axes == (n - 2, n - 1) and tuple(before[-2:]) == tuple(after[-2:])
        return replace(field, axes=(len(after) - 2, len(after) - 1)) if kept else None
    if name in ("permute", "transpose", "swapaxes"):
        return field.moved(_order(name, arguments, n))
    if name in ("chunk", "split"):
        dimension = arguments[2] if len(arguments) > 2 else 0
        return field if dimension % n not in field.axes else None
    if name == "getitem":
        return _after_slices(field, arguments[1])
    return None


def _order(name: str, arguments: Sequence[Any], n: int) -> list[int]:
    dimensions = arguments[1] if isinstance(arguments[1], (tuple, list)) else arguments[1:]
    if name == "permute":
        return [d % n for d in dimensions]
    order = list(range(n))
    a, b = (d % n for d in dimensions[:2])
    order[a], order[b] = b, a
    return order


def _after_slices(field: Field, index: Any) -> Field | None:
    """Only slices, e.g. x[:, :, ::2, ::2], keep every unit's field alike."""
    slices = index if isinstance(index, tuple) else (index,)
    if not all(isinstance(s, slice) and (s.start or 0) >= 0 for s in slices):
        return None
    whole = [*slices, *[slice(None)] * (max(field.axes) + 1 - len(slices))]
    rows, columns = ((whole[a].start or 0, whole[a].step or 1) for a in field.axes)
    return field.taken(rows, columns)
