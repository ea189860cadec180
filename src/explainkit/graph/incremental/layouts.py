"""Feature maps with the channels last, as in networks of LayerNorm and linear layers."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, fx

from explainkit.graph.incremental.operators import Elementwise
from explainkit.graph.incremental.rules import arguments_of
from explainkit.graph.recorder import OperatorCall

Layout = Literal["first", "last", "rows"]
"""``[n, channel, height, width]``, ``[n, height, width, channel]``, or one row per position."""

_VIEWS = {"aten::view", "aten::_unsafe_view", "aten::reshape"}
_FIXED = {*_VIEWS, "aten::as_strided", "aten::view_as_real", "aten::view_as_complex"} - {
    "aten::reshape"
}
"""Operators that fail, or read other positions, if memory is ordered otherwise."""

_FREE = {"reshape", "flatten"}
"""Functions and methods that call them only where memory allows it."""

_COPIES = {"aten::clone", "aten::detach", "aten::alias", "aten::lift_fresh"}


def to_layout(maps: Tensor, layout: Layout) -> Tensor:
    """Converts maps ``[n, channel, height, width]`` to a layout."""
    if layout == "first":
        return maps
    last = maps.permute(0, 2, 3, 1)
    return last if layout == "last" else last.reshape(-1, last.shape[3])


def from_layout(values: Tensor, layout: Layout, shape: Sequence[int]) -> Tensor:
    """Converts values in a layout to maps ``[n, channel, height, width]``.

    Args:
        values: In the layout.
        layout: Their layout.
        shape: ``(n, height, width)``.
    """
    if layout == "first":
        return values
    return values.reshape(*shape, -1).permute(0, 3, 1, 2)


def is_strict(node: fx.Node, call: OperatorCall) -> bool:
    """Whether a node's operator depends on the order of its source in memory."""
    free = node.target in _FREE or getattr(node.target, "__name__", "") in _FREE
    return not free and call.operator._schema.name in _FIXED


def ordered_like(value: Tensor, example: Tensor) -> Tensor:
    """A tensor whose axes are in the same order in memory as an example's."""
    strides = example.stride()
    order = sorted(range(example.dim()), key=lambda axis: -strides[axis])
    back = sorted(range(example.dim()), key=order.__getitem__)
    return value.permute(order).contiguous().permute(back)


def changed_layout(call: OperatorCall, layout: Layout, shape: torch.Size) -> Layout | None:
    """The new layout if an operator only rearranges its source, else None.

    Args:
        call: The operator.
        layout: The layout of its source.
        shape: The source's shape as maps, ``[1, channel, height, width]``.

    Examples:
        >>> image = torch.rand(1, 3, 8, 8)
        >>> call = OperatorCall(torch.ops.aten.permute.default, (image, [0, 2, 3, 1]), {}, image)
        >>> changed_layout(call, "first", image.shape)
        'last'
    """
    name = call.operator._schema.name
    _, channels, height, width = shape
    if name in _COPIES:
        return layout
    if name == "aten::permute":
        axes = [axis % 4 for axis in arguments_of(call)["dims"]]
        if layout == "first" and axes == [0, 2, 3, 1]:
            return "last"
        return "first" if layout == "last" and axes == [0, 3, 1, 2] else None
    if name in _VIEWS and layout == "last" and call.result.shape == (height * width, channels):
        return "rows"
    if name in _VIEWS and layout == "rows" and call.result.shape == (1, height, width, channels):
        return "last"
    return None


def positionwise(
    call: OperatorCall, changing: Sequence[Tensor], layout: Layout
) -> Elementwise | None:
    """An operator on channels-last maps, if it treats every position separately; else None."""
    name = call.operator._schema.name.removeprefix("aten::")
    a = arguments_of(call)
    result: Tensor = call.result[0] if isinstance(call.result, tuple) else call.result
    function: Callable[..., Any] = call.operator
    operations = 0.0
    if torch.Tag.pointwise in call.operator.tags:
        base = getattr(torch.ops.aten, name.removesuffix("_"))
        function = getattr(base, call.operator._overloadname)
        if any(tensor.shape != result.shape for tensor in changing):
            return None
    elif name == "native_layer_norm":
        if list(a["normalized_shape"]) != [result.shape[-1]]:
            return None
    elif name in ("addmm", "mm"):
        if len(changing) != 1 or a["mat1" if name == "addmm" else "self"] is not changing[0]:
            return None
        operations = 2.0 * changing[0].shape[-1] * result.shape[-1]
    else:
        return None
    tensors = {i: v for i, v in enumerate(call.arguments) if isinstance(v, Tensor)}
    indices = [i for i, value in tensors.items() if any(value is t for t in changing)]
    fixed = [value for i, value in tensors.items() if i not in indices]
    # an argument that is the same for all positions has one number per channel
    same = all(value.numel() == value.shape[-1:].numel() for value in fixed)
    if len(indices) != len(changing) or not (same or operations):
        return None

    def apply(*maps: Tensor) -> Tensor:
        given = list(call.arguments)
        for i, value in zip(indices, maps, strict=True):
            given[i] = to_layout(value, layout)
        found = function(*given, **call.options)
        found = found[0] if isinstance(found, tuple) else found
        return from_layout(found, layout, (len(maps[0]), *maps[0].shape[2:]))

    return Elementwise(apply, result.shape[-1], operations=operations)
