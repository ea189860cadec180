"""Linear infill: hidden pixels become the weighted mean of their neighbors."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from explainkit.errors import InputError

_SIDE, _DIAGONAL = 1 / 6, 1 / 12
_OFFSETS = ((0, 1, _SIDE), (1, 0, _SIDE), (1, 1, _DIAGONAL), (1, -1, _DIAGONAL))
"""One of each pair of opposite neighbors, with its weight."""

_CACHED = 2**18
"""Values of the images that are solved together: conjugate gradients are bound by memory."""

_Pair = tuple[tuple[slice, slice], tuple[slice, slice], float]


def linear_infill(images: Tensor, groups: Tensor, tolerance: float = 1e-4) -> Tensor:
    """Replaces hidden pixels by a linear interpolation of the visible ones.

    Hidden pixels solve ``u_i = Σ_j w_ij u_j / Σ_j w_ij`` over their neighbors inside the image; the
    weights are 1/6 at a side and 1/12 at a corner. Each group is hidden on its own, and sees the
    original pixels of all other groups: disjoint regions that are hidden one at a time take one
    solve. The systems are solved in batches by conjugate gradients.

    Args:
        images: ``[n, channel, height, width]``; solved in float32 at least.
        groups: Integers ``[n, height, width]``: 0 is visible, and pixels of the same positive
            number are hidden together.
        tolerance: Largest norm of a system's residual, relative to that of its right side.

    Returns:
        The images with all hidden pixels replaced.

    Raises:
        InputError: A group covers a whole image.

    References:
        Rong, Leemann, Borisov, Kasneci and Kasneci (2022), "A Consistent and Efficient Evaluation
        Strategy for Attribution Methods", arXiv:2202.00449.

    Examples:
        >>> image = torch.arange(5.0).expand(1, 1, 5, 5)
        >>> hidden = torch.zeros(1, 5, 5, dtype=torch.int64)
        >>> hidden[0, 1:4, 1:4] = 1
        >>> bool((linear_infill(image, hidden) - image).abs().max() < 1e-3)
        True
    """
    whole = (groups == groups[:, :1, :1]).flatten(1).all(1) & (groups[:, 0, 0] > 0)
    if whole.any():
        raise InputError("expected some visible pixels to fill hidden ones from, got none")
    wide = images if images.dtype == torch.float64 else images.float()
    size = max(1, _CACHED // images[0].numel())
    parts = zip(torch.split(wide, size), torch.split(groups, size), strict=True)
    return torch.cat([_filled(*part, tolerance) for part in parts]).to(images.dtype)


def _filled(images: Tensor, groups: Tensor, tolerance: float) -> Tensor:
    """The images with all hidden pixels replaced, in one solve."""
    hidden = (groups > 0)[:, None]
    pairs = list(_pairs(*groups.shape[1:]))
    degree = torch.zeros_like(images[:1, :1])
    links = []
    right = torch.zeros_like(images)
    for a, b, weight in pairs:
        first, second = groups[:, *a], groups[:, *b]
        link = ((first == second) & (first > 0))[:, None].to(images.dtype) * weight
        links.append(link)
        degree[..., *a] += weight
        degree[..., *b] += weight
        right[..., *a] += (weight - link) * images[..., *b]
        right[..., *b] += (weight - link) * images[..., *a]
    right *= hidden

    def apply(values: Tensor) -> Tensor:
        out = degree * values
        for (a, b, _), link in zip(pairs, links, strict=True):
            out[..., *a].addcmul_(link, values[..., *b], value=-1)
            out[..., *b].addcmul_(link, values[..., *a], value=-1)
        return out

    # from the mean of what is visible: the pixels to hide must not shine through the tolerance
    visible = (~hidden).to(images.dtype)
    mean = (images * visible).sum((2, 3), True) / visible.sum((2, 3), True).clamp(min=1)
    filled = _conjugate_gradients(apply, right, mean * hidden, tolerance)
    return torch.where(hidden, filled, images)


def _pairs(height: int, width: int) -> Iterator[_Pair]:
    """For each offset, all pixels that have a neighbor there, these neighbors, and the weight."""
    for down, across, weight in _OFFSETS:
        rows, below = slice(0, height - down), slice(down, height)
        if across >= 0:
            columns, beside = slice(0, width - across), slice(across, width)
        else:
            columns, beside = slice(1, width), slice(0, width - 1)
        yield (rows, columns), (below, beside), weight


def _conjugate_gradients(
    apply: Callable[[Tensor], Tensor], right: Tensor, start: Tensor, tolerance: float
) -> Tensor:
    """Solves symmetric positive definite systems, one per image and channel.

    A system that has converged keeps its solution, so that it does not depend on the others.
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum((2, 3), keepdim=True)

    found = start.clone()
    residual = right - apply(found)
    direction = residual.clone()
    size = dot(residual, residual)
    enough = tolerance**2 * dot(right, right)
    for _ in range(right[0, 0].numel()):
        active = size > enough
        if not active.any():
            break
        moved = apply(direction)
        step = torch.where(active, size / dot(direction, moved).clamp(min=1e-30), 0)
        found.addcmul_(step, direction)
        residual.addcmul_(step, moved, value=-1)
        smaller = dot(residual, residual)
        ratio = torch.where(active, smaller / size.clamp(min=1e-30), 0)
        direction = torch.addcmul(residual, ratio, direction)
        size = torch.where(active, smaller, size)
    return found
