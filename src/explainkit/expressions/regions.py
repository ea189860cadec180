"""Regions of an image or a volume, as targets name them: boxes and masks."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from explainkit.errors import TargetError

PREDICTED = "predicted"
"""The region where the model predicts the class."""

Region = str | tuple[Any, ...]
"""``"predicted"``; a box, four numbers, or six of a volume; or a mask, ``(size, run lengths)``."""


def region_of(given: Any) -> Region:
    """A region as it is compared, hashed and printed.

    Args:
        given: ``"predicted"``; a box (left, top, right, bottom), in fractions of the image's width
            and height, or (left, top, front, right, bottom, back) of a volume; a bool tensor
            ``[height, width]`` or ``[depth, height, width]``; or its size and run lengths.

    Raises:
        TargetError: It is none of these, or it is empty.

    Examples:
        >>> region_of(torch.tensor([[False, True], [True, False]]))
        ((2, 2), (1, 2, 1))
    """
    if isinstance(given, str) and given == PREDICTED:
        return given
    if isinstance(given, Tensor) and given.dtype == torch.bool and given.dim() in {2, 3}:
        given = tuple(given.shape), run_lengths(given)
    if isinstance(given, list | tuple) and len(given) in {4, 6} and all(map(_is_number, given)):
        box = tuple(map(float, given))
        if all(0 <= low < high <= 1 for low, high in _sides(box)):
            return box
        raise TargetError(
            "region: expected left < right and top < bottom (and front < back) in fractions of "
            f"the image, from 0 to 1, got {given!r:.80}"
        )
    if isinstance(given, list | tuple) and len(given) == 2:
        size, runs = (tuple(part) if isinstance(part, list | tuple) else () for part in given)
        whole = [*size, *runs]
        fits = len(size) in {2, 3} and all(type(n) is int and n >= 0 for n in whole)
        if fits and sum(runs) == prod(size):
            if not any(runs[1::2]):
                raise TargetError("region: expected a mask with at least one pixel, got none")
            return size, runs
    raise TargetError(
        "region: expected 'predicted', a box (left, top, right, bottom) in fractions of the image, "
        "(left, top, front, right, bottom, back) of a volume, or a bool mask [height, width] or "
        f"[depth, height, width], got {given!r:.80}"
    )


def axes_of(region: tuple[Any, ...]) -> int:
    """The spatial axes of a box or mask: 2, or 3 of a volume."""
    return len(region[0]) if len(region) == 2 else len(region) // 2


def _sides(box: tuple[float, ...]) -> list[tuple[float, float]]:
    """First and last point of a box along width, height and depth."""
    half = len(box) // 2
    return list(zip(box[:half], box[half:], strict=True))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def run_lengths(mask: Tensor) -> tuple[int, ...]:
    """Lengths of the runs of a bool mask ``[…, width]``, row by row, first of False."""
    flat = mask.flatten().to("cpu")
    changes = (flat[1:] != flat[:-1]).nonzero().flatten() + 1
    ends = [0, *changes.tolist(), len(flat)]
    runs = tuple(b - a for a, b in pairwise(ends) if b > a)
    return (0, *runs) if len(flat) and bool(flat[0]) else runs


def mask_of(size: tuple[int, ...], runs: tuple[int, ...]) -> Tensor:
    """The mask of `run_lengths`, bool of that size."""
    values = torch.arange(len(runs)) % 2 == 1
    return values.repeat_interleave(torch.tensor(runs)).view(size)


def coverage(region: tuple[Any, ...], size: Sequence[int], like: Tensor) -> Tensor:
    """The part of each cell of a grid over the image or volume that lies in a box or mask.

    Args:
        region: A box or a mask with as many axes.
        size: Height and width of the grid, of a volume depth, height and width.
        like: Gives dtype and device.

    Returns:
        A tensor of that size, 0 to 1.
    """
    if len(region) == 2:
        mask = mask_of(*region).to(like.device, like.dtype)[None]
        cells: Any = tuple(size)
        pool = F.adaptive_avg_pool2d if len(size) == 2 else F.adaptive_avg_pool3d
        return pool(mask, cells)[0]
    sides = zip(_sides(region), reversed(size), strict=True)
    found = torch.ones((), device=like.device, dtype=like.dtype)
    for (first, last), cells in sides:  # the last axis first
        found = _overlap(first, last, cells, like).view(-1, *[1] * found.dim()) * found
    return found


def _overlap(first: float, last: float, cells: int, like: Tensor) -> Tensor:
    """The part of each of n cells of [0, 1] that lies between two points."""
    edges = torch.linspace(0, 1, cells + 1, dtype=torch.float64)
    inside = edges.clamp(first, last).diff() * cells
    return inside.to(like.device, like.dtype)
