"""Maps at a smaller size, as means over areas, so that a store of a large data set is small."""

from dataclasses import replace

import torch
from torch import Tensor

from explainkit.adapters.geometry import Size
from explainkit.results.explanation import Explanation

REDUCED = "reduced_from"
"""The diagnostic that tells the height and width of a map before it was reduced."""


def reduced(found: Explanation, size: Size) -> Explanation:
    """An explanation with its maps at a smaller size; those that are smaller stay as they are.

    The result names the size before, and warns. Standard errors become their means, too, which
    are upper bounds of the means' standard errors.

    Args:
        found: The explanation, with maps of the images' size.
        size: The most rows and columns of a map.
    """
    height, width = found.attribution.shape[-2:]
    rows, columns = min(size[0], height), min(size[1], width)
    if (rows, columns) == (height, width):
        return found
    diagnostics = dict(found.diagnostics)
    errors = diagnostics.get("standard_error")
    if isinstance(errors, Tensor) and errors.shape == found.attribution.shape:
        diagnostics["standard_error"] = area_means(errors, (rows, columns))
    note = (
        f"stored at {rows} × {columns} instead of {height} × {width}: each value is the mean of an "
        "area"
    )
    diagnostics |= {REDUCED: [height, width], "warnings": [*diagnostics.get("warnings", ()), note]}
    maps = area_means(found.attribution, (rows, columns))
    return replace(found, attribution=maps, diagnostics=diagnostics)


def area_means(maps: Tensor, size: Size) -> Tensor:
    r"""The means of a map over equal rectangles, which share the pixels on their borders.

    .. math:: b_{rc} = \sum_{ij} V_{ri}\, a_{ij}\, H_{cj}

    where V and H hold the parts of pixel rows and columns that lie in a rectangle, divided by its
    height and width. Values stay in the unit of the map, and the mean of all of them, with it the
    sum times the area of a rectangle, is that of the map.

    Args:
        maps: ``[…, height, width]``.
        size: Rows and columns of the result.

    Examples:
        >>> area_means(torch.tensor([[1.0, 2.0, 6.0]]), (1, 2))
        tensor([[1.3333, 4.6667]])
    """
    vertical, horizontal = map(_parts, maps.shape[-2:], size)
    # one map at a time: the order of a product's sums must not depend on how many there are
    flat = maps.detach().cpu().reshape(-1, *maps.shape[-2:])
    found = torch.stack([vertical @ one.double() @ horizontal.T for one in flat])
    return found.to(maps.dtype).reshape(*maps.shape[:-2], *size)


def _parts(pixels: int, cells: int) -> Tensor:
    """The part of each pixel in each cell, over the size of a cell, ``[cells, pixels]``."""
    borders = torch.arange(cells + 1, dtype=torch.float64) * pixels / cells
    lines = torch.arange(pixels + 1, dtype=torch.float64)
    low = torch.maximum(borders[:-1, None], lines[None, :-1])
    high = torch.minimum(borders[1:, None], lines[None, 1:])
    return (high - low).clamp(min=0) * cells / pixels
