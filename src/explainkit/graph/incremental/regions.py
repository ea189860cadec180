"""Boxes in feature maps, one for each variant of an image, and the values within them."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Span:
    """Intervals of equal length along one axis of a map.

    Attributes:
        start: First position of each interval, int64 ``[n]``; may lie outside the map.
        length: Positions per interval.
    """

    start: Tensor
    length: int

    def __getitem__(self, part: slice | Tensor) -> "Span":
        return Span(self.start[part], self.length)

    def within(self, size: int) -> "Span":
        """The intervals moved inwards where they exceed an axis, and cut to its size."""
        length = min(self.length, size)
        return Span(self.start.clamp(0, size - length), length)


@dataclass(frozen=True)
class Sliding:
    """How a sliding window reads one axis: output ``o`` reads ``o·stride − padding + j·dilation``.

    Attributes:
        kernel: Positions that it reads, ``0 ≤ j < kernel``.
        stride: Step from output to output.
        padding: Padded positions before the axis.
        dilation: Step between the positions that it reads.
    """

    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1

    def touched(self, span: Span, size: int) -> Span:
        """The outputs, out of ``size``, that read any position of the spans."""
        reach = self.dilation * (self.kernel - 1)
        first = -((reach - self.padding - span.start) // self.stride)
        last = (span.start + (span.length - 1 + self.padding)) // self.stride
        first, last = first.clamp(min=0), last.clamp(max=size - 1)
        return Span(first, max(int((last - first).max()) + 1, 1)).within(size)

    def read(self, span: Span) -> Span:
        """The positions that outputs read; some may lie outside the axis."""
        length = (span.length - 1) * self.stride + self.dilation * (self.kernel - 1) + 1
        return Span(span.start * self.stride - self.padding, length)


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes of equal size in a map, one for each variant.

    Attributes:
        rows: Their vertical intervals.
        columns: Their horizontal intervals.
    """

    rows: Span
    columns: Span

    def __len__(self) -> int:
        return len(self.rows.start)

    def __getitem__(self, part: slice | Tensor) -> "Boxes":
        return Boxes(self.rows[part], self.columns[part])

    @property
    def area(self) -> int:
        """Positions per box."""
        return self.rows.length * self.columns.length

    def same(self, other: "Boxes") -> bool:
        """Whether the boxes are equal."""
        return (
            self.area == other.area
            and self.rows.length == other.rows.length
            and torch.equal(self.rows.start, other.rows.start)
            and torch.equal(self.columns.start, other.columns.start)
        )


def union(several: Iterable[Boxes], size: tuple[int, int]) -> Boxes:
    """For each variant the box that contains all its boxes, in a map of that size."""

    def both(one: Span, other: Span) -> Span:
        first = torch.minimum(one.start, other.start)
        end = torch.maximum(one.start + one.length, other.start + other.length)
        return Span(first, int((end - first).max()))

    boxes = list(several)
    return Boxes(
        reduce(both, (b.rows for b in boxes)).within(size[0]),
        reduce(both, (b.columns for b in boxes)).within(size[1]),
    )


class Clean:
    """A feature map of the unchanged image, from which boxes can be read.

    Attributes:
        value: ``[1, channel, height, width]``.
        size: Height and width.
    """

    def __init__(self, value: Tensor) -> None:
        self.value = value
        self.size = (value.shape[2], value.shape[3])
        self._tables: dict[float, Tensor] = {}

    def table(self, outside: float) -> Tensor:
        """One row of channels per position, and a last one for all positions outside the map."""
        if outside not in self._tables:
            rows = self.value[0].permute(1, 2, 0).reshape(-1, self.value.shape[1])
            border = rows.new_full((1, rows.shape[1]), outside)
            self._tables[outside] = torch.cat([rows, border])
        return self._tables[outside]

    def read(self, boxes: Boxes, outside: float = 0.0) -> Tensor:
        """The map's values within boxes, ``[n, channel, *box]``, channels last in memory."""
        height, width = self.size
        y, x = _positions(boxes.rows), _positions(boxes.columns)
        positions = y[:, :, None] * width + x[:, None, :]
        if _exceeds(y, height) or _exceeds(x, width):
            beyond = ((y < 0) | (y >= height))[:, :, None] | ((x < 0) | (x >= width))[:, None, :]
            positions = positions.masked_fill_(beyond, height * width)
        found = self.table(outside).index_select(0, positions.flatten())
        return found.view(*positions.shape, -1).permute(0, 3, 1, 2)


@dataclass(frozen=True, eq=False)
class Local:
    """Variants of a map that differ from the clean one only in their boxes.

    Attributes:
        clean: The unchanged map.
        boxes: Where each variant may differ.
        data: The values there, ``[n, channel, *box]``.
    """

    clean: Clean
    boxes: Boxes
    data: Tensor

    def read(self, boxes: Boxes, outside: float = 0.0) -> Tensor:
        """The variants' values within other boxes, ``[n, channel, *box]``."""
        if self.boxes.same(boxes):
            return self.data
        return self._paste(self.clean.read(boxes, outside), boxes)

    def whole(self) -> Tensor:
        """The variants in full, ``[n, channel, height, width]``."""
        count, (height, width) = len(self.boxes), self.clean.size
        start = self.boxes.rows.start.new_zeros(count)
        boxes = Boxes(Span(start, height), Span(start, width))
        if self.boxes.same(boxes):
            return self.data
        rows = self.clean.table(0.0)[:-1].view(1, height, width, -1)
        found = rows.expand(count, -1, -1, -1).clone(memory_format=torch.contiguous_format)
        return self._paste(found.permute(0, 3, 1, 2), boxes)

    def _paste(self, found: Tensor, boxes: Boxes) -> Tensor:
        """Writes the variants' data over the clean map's values within other boxes."""
        own = self.boxes
        y = _positions(own.rows) - boxes.rows.start[:, None]
        x = _positions(own.columns) - boxes.columns.start[:, None]
        height, width = boxes.rows.length, boxes.columns.length
        variant = torch.arange(len(own), device=y.device)[:, None, None]
        positions = ((variant * height + y[:, :, None]) * width + x[:, None, :]).flatten()
        rows = self.data.permute(0, 2, 3, 1).reshape(len(positions), -1)
        if _exceeds(y, height) or _exceeds(x, width):
            inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
            (index,) = inside.flatten().nonzero(as_tuple=True)
            positions, rows = positions[index], rows[index]
        # in memory, `found` is one row per position
        found.permute(0, 2, 3, 1).view(-1, found.shape[1]).index_copy_(0, positions, rows)
        return found


def _positions(span: Span) -> Tensor:
    """Every position of each interval, ``[n, length]``."""
    return span.start[:, None] + torch.arange(span.length, device=span.start.device)


def _exceeds(positions: Tensor, size: int) -> bool:
    return bool((positions[:, 0] < 0).any()) or bool((positions[:, -1] >= size).any())
