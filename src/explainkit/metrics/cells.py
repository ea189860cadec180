"""Rectangular cells of an image, and sums of a map over them, also of its shifted copies."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import gcd

import torch
from torch import Tensor

COPIES = 3072
"""The largest number of shifted and flipped copies of a map: every third of a 48×48 map."""

_FINE, _SIDES = 128, (6, 7)


@dataclass(frozen=True)
class Cells:
    """A division of an image into rows and columns.

    Attributes:
        rows: Edges of the rows, from 0 to the height.
        columns: Edges of the columns, from 0 to the width.

    Examples:
        >>> cells = Cells.of(48, 48)
        >>> len(cells), len(cells.moved())
        (36, 49)
        >>> cells.moved().rows
        (0, 4, 12, 20, 28, 36, 44, 48)
    """

    rows: tuple[int, ...]
    columns: tuple[int, ...]

    @classmethod
    def of(cls, height: int, width: int) -> "Cells":
        """6 × 6 cells of nearly equal size, or 7 × 7 if the shorter side has at least 128 pixels.

        An axis of fewer pixels has one cell per pixel.
        """
        side = _SIDES[min(height, width) >= _FINE]
        rows, columns = (
            tuple(cell * size // min(side, size) for cell in range(min(side, size) + 1))
            for size in (height, width)
        )
        return cls(rows, columns)

    def moved(self) -> "Cells":
        """The cells half a cell further, with half cells at the borders."""

        def between(edges: tuple[int, ...]) -> tuple[int, ...]:
            middle = ((a + b) // 2 for a, b in pairwise(edges))
            return tuple(dict.fromkeys((0, *middle, edges[-1])))

        return Cells(between(self.rows), between(self.columns))

    @property
    def grid(self) -> tuple[int, int]:
        """Number of rows and of columns."""
        return len(self.rows) - 1, len(self.columns) - 1

    def __len__(self) -> int:
        return self.grid[0] * self.grid[1]

    def labels(self) -> Tensor:
        """The cell of each pixel, numbered row by row, int64 ``[height, width]``."""
        row, column = (
            torch.repeat_interleave(torch.tensor(edges).diff())
            for edges in (self.rows, self.columns)
        )
        return row[:, None] * self.grid[1] + column

    def sums(self, values: Tensor) -> Tensor:
        """Sums of a map ``[height, width]`` in each cell, float64 ``[cells]``."""
        return self.shifted_sums(values, limit=0)[0]

    def shifted_sums(self, values: Tensor, limit: int = COPIES) -> Tensor:
        """Sums over the cells of a map, and of copies of it that are shifted and flipped.

        The copies are a fixed selection of all four flips in all shifts on a torus: every third,
        or fewer if that is more than the limit.

        Args:
            values: ``[height, width]``.
            limit: Largest number of copies.

        Returns:
            float64 ``[1 + copies, cells]``; the map itself comes first.
        """
        height, width = values.shape
        plain = values.double().cpu()
        turned = torch.stack([plain.flip(axes) for axes in ((), (0,), (1,), (0, 1))])
        # sums of all rectangles from the upper left corner, of maps that continue on a torus
        total = turned.repeat(1, 2, 2).cumsum(1).cumsum(2)
        total = torch.nn.functional.pad(total, (1, 0, 1, 0)).flatten()
        corners = [total[corner] for corner in _corners(self, height, width, limit)]
        return corners[0] - corners[1] - corners[2] + corners[3]


@lru_cache(8)
def _corners(cells: Cells, height: int, width: int, limit: int) -> tuple[Tensor, ...]:
    """Where the sums lie from which those of the cells follow, int64 ``[1 + copies, cells]`` each.

    Returns:
        For the lower right, upper right, lower left and upper left corner of each cell, its place
        among the sums of four maps ``[4, 2 · height + 1, 2 · width + 1]``, flattened.
    """
    flips, down, across = _copies(height, width, limit)
    ends = []
    for edges, shift, size in ((cells.rows, down, height), (cells.columns, across, width)):
        places = torch.tensor(edges)
        first = (places[:-1] - shift[:, None]) % size
        ends.append((first, first + places.diff()))
    (top, bottom), (left, right) = ends
    wide = 2 * width + 1
    first = flips * (2 * height + 1) * wide
    return tuple(
        (first[:, None, None] + vertical[:, :, None] * wide + horizontal[:, None]).flatten(1)
        for vertical, horizontal in ((bottom, right), (top, right), (bottom, left), (top, left))
    )


def _copies(height: int, width: int, limit: int) -> tuple[Tensor, Tensor, Tensor]:
    """Flip and shift, down and across, of the map itself and of its copies, int64 each."""
    every = 4 * height * width
    step = max(3, -(-every // limit)) if limit else every
    while step > 3 and limit and gcd(step, width) > 1:
        step += 1  # otherwise some columns are never shifted onto others
    chosen = torch.arange(0, every, step)  # 0 is the map itself
    flips, shift = chosen // (height * width), chosen % (height * width)
    return flips, shift // width, shift % width
