"""Rules that run operators of torch's dispatcher on boxes."""

from collections.abc import Callable, Sequence
from functools import partial, reduce
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from explainkit.graph.incremental.cost import Work
from explainkit.graph.incremental.operators import (
    BoxOperator,
    Convolution,
    Elementwise,
    Mean,
    Slide,
    pair,
)
from explainkit.graph.incremental.regions import Clean, Sliding
from explainkit.graph.recorder import OperatorCall

aten = torch.ops.aten


def operators(
    call: OperatorCall, changing: Sequence[Tensor]
) -> Sequence["BoxOperator | Mean | None"]:
    """How to run an operator on boxes; None where a change spreads everywhere, or without a rule.

    Args:
        call: The call as recorded on the unchanged image.
        changing: The arguments that depend on the image, in order.

    Returns:
        One for each of the results, or for the first ones.
    """
    if not all(t.dim() == 4 and t.is_floating_point() for t in changing):
        return ()
    a, name = arguments_of(call), call.operator._schema.name.removeprefix("aten::")
    if name in ("split", "split_with_sizes"):
        return _split(a, call.result)
    return [_operator(call, changing, a, name)]


def _operator(
    call: OperatorCall, changing: Sequence[Tensor], a: dict[str, Any], name: str
) -> "BoxOperator | Mean | None":
    result = call.result[0] if isinstance(call.result, tuple | list) else call.result
    if name == "mean":
        return _mean(a, result)
    if result.dim() != 4:
        return None
    if name == "cat":
        return _concatenate(a, changing, result)
    rule = _RULES.get(name)
    if rule is not None:
        # weights may depend on the image, too
        only = len(changing) == 1 and changing[0] is call.arguments[0]
        return rule(a, result) if only else None
    if torch.Tag.pointwise in call.operator.tags or name.removesuffix("_") in _UNTAGGED:
        return _pointwise(call, changing, result)
    return None


def dense_work(call: OperatorCall, changing: Sequence[Tensor], result: Tensor) -> Work:
    """The work of an operator on the whole map of one image."""
    name = call.operator._schema.name
    numbers = sum(t.numel() for t in changing) + result.numel()
    operations = 0.0
    if name == "aten::convolution":
        weight = arguments_of(call)["weight"]
        operations = 2.0 * weight[0].numel() * result.numel()
    elif name in ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"):
        operations = 2.0 * changing[0].shape[-1] * result.numel()
    elif name == "aten::max_pool2d_with_indices":
        numbers += 2 * result.numel()
    return Work(operations, 4.0 * numbers, 0, 1)


def arguments_of(call: OperatorCall) -> dict[str, Any]:
    """The call's arguments by name, defaults included."""
    schema = call.operator._schema.arguments
    found = {a.name: a.default_value for a in schema if a.has_default_value()}
    found.update(zip((a.name for a in schema), call.arguments, strict=False))
    return {**found, **call.options}


def convolution(a: dict[str, Any], _result: Tensor | None = None) -> BoxOperator | None:
    """A convolution with these arguments; None if it is transposed."""
    if a["transposed"]:
        return None
    weight: Tensor = a["weight"]
    strides, paddings, dilations = map(pair, (a["stride"], a["padding"], a["dilation"]))
    rows, columns = (
        Sliding(weight.shape[2 + i], strides[i], paddings[i], dilations[i]) for i in (0, 1)
    )
    channels = (weight.shape[1] * a["groups"], weight.shape[0])
    return Slide(rows, columns, 0.0, Convolution(a), channels, 2.0 * weight.numel())


def _pooling(a: dict[str, Any]) -> tuple[Sliding, Sliding]:
    kernels = pair(a["kernel_size"])
    strides = pair(a["stride"]) if a["stride"] else kernels
    paddings, dilations = pair(a["padding"]), pair(a.get("dilation", 1))
    rows, columns = (
        Sliding(k, s, p, d)
        for k, s, p, d in zip(kernels, strides, paddings, dilations, strict=True)
    )
    return rows, columns


def _max_pool(a: dict[str, Any], result: Tensor) -> BoxOperator:
    rows, columns = _pooling(a)
    return _maximum(rows, columns, result.shape[1])


def _maximum(rows: Sliding, columns: Sliding, channels: int) -> BoxOperator:
    def along(images: Tensor, axis: int, window: Sliding) -> Tensor:
        count = (
            images.shape[axis] - window.dilation * (window.kernel - 1) - 1
        ) // window.stride + 1
        parts: list[Tensor] = []
        for j in range(window.kernel):
            index = [slice(None)] * 4
            first = j * window.dilation
            index[axis] = slice(first, first + (count - 1) * window.stride + 1, window.stride)
            parts.append(images[tuple(index)])
        return reduce(torch.maximum, parts)

    def apply(images: Tensor) -> Tensor:
        # one axis after the other, and without the indices that max_pool2d also computes
        return along(along(images, 2, rows), 3, columns)

    operations = 8.0 * channels * (rows.kernel + columns.kernel)
    return Slide(rows, columns, -torch.inf, apply, (channels, channels), operations)


def _average_pool(a: dict[str, Any], result: Tensor) -> BoxOperator:
    rows, columns = _pooling(a)
    image: Tensor = a["self"]
    ones = torch.ones_like(image[:, :1])
    options = [a[name] for name in ("kernel_size", "stride", "padding", "ceil_mode")]
    total = aten.avg_pool2d(ones, *options, False, 1)
    mean = aten.avg_pool2d(ones, *options, a["count_include_pad"], a["divisor_override"])
    return _average(rows, columns, mean / total, result.shape[1])


def _average(rows: Sliding, columns: Sliding, share: Tensor, channels: int) -> BoxOperator:
    kernel = (rows.kernel, columns.kernel)
    stride = (rows.stride, columns.stride)

    def apply(images: Tensor) -> Tensor:
        return F.avg_pool2d(images, kernel, stride, divisor_override=1)

    operations = 8.0 * channels * rows.kernel * columns.kernel
    return Slide(rows, columns, 0.0, apply, (channels, channels), operations, Clean(share))


def _adaptive(a: dict[str, Any], result: Tensor) -> tuple[Sliding, Sliding] | None:
    """The windows of adaptive pooling if they all have the same size, else None."""
    image: Tensor = a["self"]
    sizes = [(image.shape[i], result.shape[i]) for i in (2, 3)]
    if any(before % after for before, after in sizes):
        return None
    rows, columns = (Sliding(before // after, before // after) for before, after in sizes)
    return rows, columns


def _adaptive_average(a: dict[str, Any], result: Tensor) -> BoxOperator | None:
    windows = _adaptive(a, result)
    if windows is None:
        return None
    share = torch.full_like(result[:, :1], 1 / (windows[0].kernel * windows[1].kernel))
    return _average(*windows, share, result.shape[1])


def _adaptive_maximum(a: dict[str, Any], result: Tensor) -> BoxOperator | None:
    windows = _adaptive(a, result)
    return windows and _maximum(*windows, result.shape[1])


def scale_and_shift(a: dict[str, Any]) -> tuple[Tensor, Tensor] | None:
    """Normalization with fixed statistics as ``x · scale + shift``, both ``[channel]``."""
    if a.get("training", False):
        return None
    mean: Tensor = a["running_mean"]
    scale = (a["running_var"] + a["eps"]).rsqrt()
    scale = scale if a["weight"] is None else scale * a["weight"]
    shift = -mean * scale
    return scale, shift if a["bias"] is None else shift + a["bias"]


def _mean(a: dict[str, Any], result: Tensor) -> Mean | None:
    spatial = sorted(axis % 4 for axis in a.get("dim") or ()) == [2, 3]
    return Mean(tuple(result.shape[1:])) if spatial and a["dtype"] is None else None


def _batch_norm(a: dict[str, Any], result: Tensor) -> BoxOperator | None:
    found = scale_and_shift(a)
    if found is None:
        return None
    scale, shift = (v[:, None, None] for v in found)
    return Elementwise(lambda x: torch.addcmul(shift, x, scale), result.shape[1])


def _concatenate(
    a: dict[str, Any], changing: Sequence[Tensor], result: Tensor
) -> BoxOperator | None:
    if a["dim"] % 4 != 1 or any(tensor.dim() != 4 for tensor in a["tensors"]):
        return None
    moving = [any(tensor is other for other in changing) for tensor in a["tensors"]]
    fixed = [Clean(t) for t, moves in zip(a["tensors"], moving, strict=True) if not moves]

    def apply(*maps: Tensor) -> Tensor:
        first, others = iter(maps[: len(changing)]), iter(maps[len(changing) :])
        return torch.cat([next(first if moves else others) for moves in moving], 1)

    return Elementwise(apply, result.shape[1], tuple(fixed))


def _channels(part: slice, result: Tensor) -> BoxOperator:
    def apply(images: Tensor) -> Tensor:
        # a copy, since a later operator may overwrite its source
        return images[:, part].clone(memory_format=torch.channels_last)

    return Elementwise(apply, result.shape[1])


def _slice(a: dict[str, Any], result: Tensor) -> BoxOperator | None:
    return _channels(slice(a["start"], a["end"], a["step"]), result) if a["dim"] % 4 == 1 else None


def _split(a: dict[str, Any], results: Sequence[Tensor]) -> list[BoxOperator]:
    if a["dim"] % 4 != 1:
        return []
    ends = list(accumulate(result.shape[1] for result in results))
    return [
        _channels(slice(end - r.shape[1], end), r) for end, r in zip(ends, results, strict=True)
    ]


def _pad(a: dict[str, Any], result: Tensor) -> BoxOperator | None:
    pad: list[int] = [*a["pad"], 0, 0]  # of the last axis first
    if any(pad[4:]) or min(pad) < 0:
        return None
    value = float(a["value"])
    channels = result.shape[1]
    rows, columns = Sliding(1, padding=pad[2]), Sliding(1, padding=pad[0])
    return Slide(rows, columns, value, lambda x: x, (channels, channels), 0.0)


def _pointwise(
    call: OperatorCall, changing: Sequence[Tensor], result: Tensor
) -> BoxOperator | None:
    """Any elementwise operator, as a function of the arguments that change."""
    if any(isinstance(value, Tensor) for value in call.options.values()):
        return None
    base = call.operator._schema.name.removeprefix("aten::").removesuffix("_")
    function = getattr(getattr(aten, base), call.operator._overloadname)
    arguments: list[Any] = list(call.arguments)
    indices: list[int] = []
    for i, value in enumerate(arguments):
        if any(value is tensor for tensor in changing):
            if value.shape != result.shape:
                return None
            indices.append(i)
    if len(indices) != len(changing):
        return None
    fixed = []
    for i, value in enumerate(arguments):
        if isinstance(value, Tensor) and i not in indices and value.shape[-2:].numel() > 1:
            indices.append(i)
            fixed.append(Clean(value.expand_as(result)))

    def apply(*maps: Tensor, function: Any = function) -> Tensor:
        given = list(arguments)
        for i, value in zip(indices, maps, strict=True):
            given[i] = value
        found: Tensor = function(*given, **call.options)
        return found

    writing = getattr(getattr(aten, f"{base}_", None), call.operator._overloadname, None)
    fits = indices[0] == 0 and changing[0].dtype == result.dtype
    in_place = partial(apply, function=writing) if writing is not None and fits else None
    return Elementwise(apply, result.shape[1], tuple(fixed), in_place)


_UNTAGGED = {"hardswish", "_prelu_kernel"}
"""Elementwise operators that torch does not tag as such."""

_RULES: dict[str, Callable[[dict[str, Any], Tensor], BoxOperator | None]] = {
    "convolution": convolution,
    "max_pool2d_with_indices": _max_pool,
    "avg_pool2d": _average_pool,
    "_adaptive_avg_pool2d": _adaptive_average,
    "adaptive_max_pool2d": _adaptive_maximum,
    "native_batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "_native_batch_norm_legit": _batch_norm,
    "_batch_norm_no_update": _batch_norm,
    "slice": _slice,
    "constant_pad_nd": _pad,
}
