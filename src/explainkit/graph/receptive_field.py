"""Where the rows and columns of a layer's map lie on the image, from the recorded operators.

A convolution, a pooling or a crop computes position i of its output from positions ``a i + b`` to
``a i + c`` of its input. Chained from a layer back to the image, this gives the receptive field of
every position, with its part beyond the border of the image, which is padding (Araujo, Norris and
Sim, 2019, "Computing Receptive Fields of Convolutional Neural Networks",
doi:10.23915/distill.00021).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from explainkit.graph.names import GATES, NORMS, UNARY
from explainkit.graph.tape import Record, RecordedForward, nodes_from

KEEP = frozenset({"convolution"})
"""The operators whose values must be recorded."""

_SAME = UNARY | GATES | NORMS | frozenset({
    "add", "sub", "rsub", "neg", "mul", "div", "where", "lerp", "addcmul", "addcdiv", "maximum",
    "minimum", "cat", "clone", "copy", "_to_copy", "detach", "alias", "expand", "native_dropout",
    "masked_fill", "split", "split_with_sizes", "slice",
})  # fmt: skip
"""Operators that compute a position from the same position, along every axis whose length stays."""

_VIEWS = frozenset({
    "view", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "unflatten", "squeeze",
    "unsqueeze",
})  # fmt: skip

_PADS = frozenset({"constant_pad_nd", "reflection_pad2d", "replication_pad2d"})
_ADAPTIVE = frozenset({"_adaptive_avg_pool2d", "adaptive_max_pool2d"})
_REDUCTIONS = frozenset({"mean", "sum", "amax", "amin", "max"})

Shape = Sequence[int]


@dataclass(frozen=True)
class Span:
    """The rows (or columns) of the image that each row of a layer's map depends on.

    Row i depends on the image's rows from ``first + jump · i`` to ``last + jump · i``; those
    outside of the image are padding.

    Attributes:
        jump: Distance between neighbors, in pixels.
        first: First row of the image that row 0 depends on.
        last: Last one.
    """

    jump: float = 1.0
    first: float = 0.0
    last: float = 0.0

    def center(self, row: int) -> float:
        """The center of a row's receptive field, in pixels; the first pixel's center is 0."""
        return (self.first + self.last) / 2 + self.jump * row

    def before(self, jump: float, first: float, last: float) -> "Span":
        """The span in the input of an operator whose rows depend on its input like this."""
        return Span(self.jump * jump, self.first * jump + first, self.last * jump + last)


@dataclass(frozen=True)
class _Axis:
    """A spatial axis of a tensor, and which of its rows each row of the layer's map depends on."""

    dim: int
    span: Span = Span()


class _UnknownError(Exception):
    """The positions can't be followed through an operator."""


class _GlobalError(Exception):
    """The image is seen only as a whole from here on."""


def receptive_field(
    value: Tensor, dims: tuple[int, int], recorded: RecordedForward
) -> tuple[Span, Span] | None:
    """The receptive fields of the rows and of the columns of a layer's map.

    Paths on which the image is seen only as a whole, such as squeeze-and-excitation, don't count.
    Where paths with different fields join, the field covers both.

    Args:
        value: The layer's output, attached to the graph.
        dims: Its dimensions that are rows and columns.
        recorded: The forward that computed it, with the values of `KEEP`.

    Returns:
        The spans of rows and columns, or None if an operator on the way mixes positions in another
        way, such as attention, or isn't known.

    Examples:
        >>> import torch
        >>> from explainkit.graph.tape import record
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 5, stride=2), torch.nn.MaxPool2d(2))
        >>> forward = record(net, torch.zeros(1, 1, 13, 13), KEEP)
        >>> receptive_field(forward.scores, (2, 3), forward)[0]
        Span(jump=4.0, first=0.0, last=6.0)
    """
    try:
        found = _followed(value, (_Axis(dims[0]), _Axis(dims[1])), recorded)
    except _UnknownError:
        return None
    if found is None or [axis.dim for axis in found] != [2, 3]:
        return None
    return found[0].span, found[1].span


def _followed(
    value: Tensor, axes: tuple[_Axis, ...], recorded: RecordedForward
) -> tuple[_Axis, ...] | None:
    """The axes of the layer's map as axes of the image."""
    root = value.grad_fn
    if root is None:
        return None
    pending = {(root, value.output_nr): axes}
    for node in nodes_from(root):
        leaf = getattr(node, "variable", None)
        if leaf is not None and leaf is recorded.inputs:
            return pending.get((node, 0))
        slots = [slot for slot in range(len(node._input_metadata)) if (node, slot) in pending]
        if leaf is not None or not slots:
            continue
        record = recorded.record_of(node)
        if record is None:
            raise _UnknownError
        for below, number in node.next_functions[: 1 if record.name == "convolution" else None]:
            if below is None:
                continue
            variable = getattr(below, "variable", None)
            given = below._input_metadata[number] if variable is None else variable
            for slot in slots:
                shape = tuple(node._input_metadata[slot].shape)
                try:
                    found = _before(record, pending[node, slot], shape, tuple(given.shape))
                except _GlobalError:
                    continue
                known = pending.get((below, number), found)
                pending[below, number] = tuple(map(_joined, known, found))
    return None


def _joined(one: _Axis, other: _Axis) -> _Axis:
    """The smallest axis that covers both."""
    a, b = one.span, other.span
    if one.dim != other.dim or not math.isclose(a.jump, b.jump):
        raise _UnknownError
    return _Axis(one.dim, Span(a.jump, min(a.first, b.first), max(a.last, b.last)))


def _before(
    record: Record, axes: tuple[_Axis, ...], shape: Shape, given: Shape
) -> tuple[_Axis, ...]:
    """The axes of an operator's output of one shape, as axes of its input of another."""
    if record.name in _VIEWS:
        return tuple(replace(axis, dim=_viewed(axis.dim, shape, given)) for axis in axes)
    if record.name in {"permute", "transpose"}:
        order = list(range(len(shape)))
        if record.name == "permute":
            order = [dim % len(shape) for dim in record.argument(1)]
        else:
            a, b = record.argument(1), record.argument(2)
            order[a], order[b] = order[b], order[a]
        return tuple(replace(axis, dim=order[axis.dim]) for axis in axes)
    if len(given) > len(shape):
        raise _UnknownError
    # broadcasting aligns the last dimensions
    missing = len(shape) - len(given)
    if any(axis.dim < missing or given[axis.dim - missing] == 1 < shape[axis.dim] for axis in axes):
        raise _GlobalError
    return tuple(
        _Axis(
            axis.dim - missing,
            axis.span.before(*_window(record, axis.dim, shape, given[axis.dim - missing])),
        )
        for axis in axes
    )


def _viewed(dim: int, shape: Shape, given: Shape) -> int:
    """The dimension before a view that is the given one after it."""
    kept = [
        i
        for i, length in enumerate(given)
        if length == shape[dim] and math.prod(given[i + 1 :]) == math.prod(shape[dim + 1 :])
    ]
    if not kept:
        raise _UnknownError
    return dim if dim in kept else kept[-1]


def _window(record: Record, dim: int, shape: Shape, given: int) -> tuple[float, float, float]:
    """``(a, b, c)`` if position i of the output depends on the input's from a i + b to a i + c."""
    name, argument, count = record.name, record.argument, shape[dim]

    def of(value: Any) -> int:
        """The entry of a dimension, or the one for all."""
        several = value if isinstance(value, Sequence) else (value,)
        return int(several[dim - 2] if len(several) > 1 else several[0])

    if name == "convolution" and dim >= 2 and not argument(6):
        stride, padding, dilation = (of(argument(i)) for i in (3, 4, 5))
        kernel = argument(1).shape[dim]
        return stride, -padding, dilation * (kernel - 1) - padding
    if name in {"max_pool2d_with_indices", "avg_pool2d"} and dim >= 2:
        kernel, padding = of(argument(1)), of(argument(3, 0))
        dilation = of(argument(4, 1)) if name.startswith("max") else 1
        return of(argument(2) or argument(1)), -padding, dilation * (kernel - 1) - padding
    if name in _PADS:
        padding = [*argument(1), *[0] * 2 * len(shape)][2 * (len(shape) - 1 - dim)]
        return 1, -padding, -padding
    if name == "slice" and dim == argument(1, 0) % len(shape):
        start, step = argument(2) or 0, argument(4, 1)
        start = max(start + given, 0) if start < 0 else start
        return step, start, start
    if name in _ADAPTIVE or (name in _REDUCTIONS and count == 1):
        ratio = given / count
        # windows of several lengths reach up to a position further
        beyond = 0 if given % count == 0 else 1
        return ratio, -beyond, ratio - 1 + beyond
    if name.lstrip("_").startswith("upsample"):
        ratio = given / count
        return ratio, -2, ratio + 1
    if name in _SAME | _REDUCTIONS and count == given:
        return 1, 0, 0
    raise _UnknownError
