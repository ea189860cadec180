"""Volumes and clips as slices: which are shown, and their maps."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from explainkit.errors import RenderError
from explainkit.render.heatmap import Reduce, to_pixels
from explainkit.render.shown_image import ShownImage

if TYPE_CHECKING:
    from explainkit.results.explanation import Explanation

Slices = Literal["even", "strongest"] | Sequence[int]
"""Which slices of a volume a figure shows: evenly spaced ones, those with the largest Σ|a|, or
these."""

MOST = 6
"""Slices that a figure shows unless they are listed."""


def planes(explanation: "Explanation") -> list[ShownImage]:
    """Every slice of every volume, volume by volume; those of one volume have one gray scale."""
    found = []
    depth, height = explanation.inputs.shape[2:4]
    for volume in explanation.inputs:
        pixels, note = to_pixels(volume.flatten(1, 2), explanation.mean, explanation.std)
        slices = pixels.reshape(depth, height, *pixels.shape[1:])
        found += [ShownImage(one, note=note) for one in slices]
    return found


def stacked(explanation: "Explanation", reduce: Reduce = "sum") -> Tensor:
    """The maps with their slices below each other, ``[batch, depth · height, width]``.

    Maps of a layer's output are enlarged (nearest cell).

    Raises:
        RenderError: The maps are those of a layer without a depth.
    """
    if explanation.attribution.ndim != explanation.inputs.ndim:
        raise RenderError(
            "expected maps [batch, channel, depth, height, width], got "
            f"{list(explanation.attribution.shape)} at {explanation.at}: a layer without a depth "
            "can't be shown over volumes"
        )
    maps = explanation.heatmap(reduce).detach()
    for axis, length in enumerate(explanation.inputs.shape[2:], 1):
        cells = torch.arange(length, device=maps.device) * maps.shape[axis] // length
        maps = maps.index_select(axis, cells)
    return maps.flatten(1, 2)


def profile(maps: NDArray[np.float64], depth: int) -> NDArray[np.float64]:
    """The share of each slice in Σ|a|, ``[batch, depth]``; zero for a map that is zero.

    Args:
        maps: As `stacked` gives them.
        depth: The number of slices.

    Examples:
        >>> profile(np.array([[[1.0, -2.0], [0.0, 1.0]]]), 2).tolist()
        [[0.75, 0.25]]
    """
    sizes = np.abs(maps)
    largest = sizes.max((1, 2), keepdims=True)
    sizes = sizes / np.where(largest > 0, largest, 1.0)  # so that no sum overflows
    sums = sizes.reshape(len(maps), depth, -1).sum(2)
    whole = sums.sum(1, keepdims=True)
    shares: NDArray[np.float64] = sums / np.where(whole > 0, whole, 1.0)
    return shares


def chosen(wanted: Slices | str, shares: NDArray[np.float64]) -> list[int]:
    """The slices to show, in their order in the volume.

    Args:
        wanted: Which ones.
        shares: The share of each slice in the map.

    Raises:
        RenderError: It is none of these, or there is no such slice.

    Examples:
        >>> chosen("even", np.ones(11) / 11), chosen("strongest", np.array([0.1, 0.7, 0.2]))
        ([0, 2, 4, 6, 8, 10], [0, 1, 2])
    """
    depth = len(shares)
    if wanted == "even":
        spots = np.linspace(0, depth - 1, min(depth, MOST)).round()
        return list(map(int, spots))
    if wanted == "strongest":
        return sorted(np.argsort(-shares, kind="stable")[:MOST].tolist())
    if isinstance(wanted, str) or not len(wanted):
        raise RenderError(
            f"slices: expected 'even', 'strongest' or a list of numbers, got {wanted!r:.40}"
        )
    if beyond := [one for one in wanted if not 0 <= one < depth]:
        raise RenderError(f"slices: expected numbers from 0 to {depth - 1}, got {beyond[0]}")
    return sorted({int(one) for one in wanted})
