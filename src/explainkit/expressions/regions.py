"""Regions of an image, as targets name them: boxes and masks."""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from explainkit.errors import TargetError

PREDICTED = "predicted"
"""The region where the model predicts the class."""

Region = str | tuple[Any, ...]
"""``"predicted"``; a box, four numbers; or a mask, ``((height, width), run lengths)``."""


def region_of(given: Any) -> Region:
    """A region as it is compared, hashed and printed.

    Args:
        given: ``"predicted"``; a box (left, top, right, bottom), in fractions of the image's width
            and height; a bool tensor ``[height, width]``; or its size and run lengths.

    Raises:
        TargetError: It is none of these, or it is empty.

    Examples:
        >>> region_of(torch.tensor([[False, True], [True, False]]))
        ((2, 2), (1, 2, 1))
    """
    if isinstance(given, str) and given == PREDICTED:
        return given
    if isinstance(given, Tensor) and given.dtype == torch.bool and given.dim() == 2:
        given = tuple(given.shape), run_lengths(given)
    if isinstance(given, list | tuple) and len(given) == 4 and all(map(_is_number, given)):
        left, top, right, bottom = map(float, given)
        if 0 <= left < right <= 1 and 0 <= top < bottom <= 1:
            return left, top, right, bottom
        raise TargetError(
            "region: expected left < right and top < bottom in fractions of the image, from 0 to "
            f"1, got {given!r:.80}"
        )
    if isinstance(given, list | tuple) and len(given) == 2:
        size, runs = (tuple(part) if isinstance(part, list | tuple) else () for part in given)
        whole = [*size, *runs]
        fits = len(size) == 2 and all(type(n) is int and n >= 0 for n in whole)
        if fits and sum(runs) == size[0] * size[1]:
            if not any(runs[1::2]):
                raise TargetError("region: expected a mask with at least one pixel, got none")
            return size, runs
    raise TargetError(
        "region: expected 'predicted', a box (left, top, right, bottom) in fractions of the image, "
        f"or a bool mask [height, width], got {given!r:.80}"
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def run_lengths(mask: Tensor) -> tuple[int, ...]:
    """Lengths of the runs of a bool mask ``[height, width]``, row by row, first of False."""
    flat = mask.flatten().to("cpu")
    changes = (flat[1:] != flat[:-1]).nonzero().flatten() + 1
    ends = [0, *changes.tolist(), len(flat)]
    runs = tuple(b - a for a, b in pairwise(ends) if b > a)
    return (0, *runs) if len(flat) and bool(flat[0]) else runs


def mask_of(size: tuple[int, int], runs: tuple[int, ...]) -> Tensor:
    """The mask of `run_lengths`, bool ``[height, width]``."""
    values = torch.arange(len(runs)) % 2 == 1
    return values.repeat_interleave(torch.tensor(runs)).view(size)


def coverage(region: tuple[Any, ...], size: tuple[int, int], like: Tensor) -> Tensor:
    """The part of each cell of a grid over the image that lies in a box or mask.

    Args:
        region: A box or a mask.
        size: Height and width of the grid.
        like: Gives dtype and device.

    Returns:
        ``[height, width]``, 0 to 1.
    """
    if len(region) == 2:
        mask = mask_of(*region).to(like.device, like.dtype)
        return F.adaptive_avg_pool2d(mask[None], size)[0]
    left, top, right, bottom = region
    rows, columns = _overlap(top, bottom, size[0], like), _overlap(left, right, size[1], like)
    return rows[:, None] * columns


def _overlap(first: float, last: float, cells: int, like: Tensor) -> Tensor:
    """The part of each of n cells of [0, 1] that lies between two points."""
    edges = torch.linspace(0, 1, cells + 1, dtype=torch.float64)
    inside = edges.clamp(first, last).diff() * cells
    return inside.to(like.device, like.dtype)
