"""Operators on boxes: which outputs a local change affects, and what their values are.

``reach`` gives the boxes of a result, a map of that size, which a change in the sources affects;
``run`` the result within these boxes, ``[n, channel, *box]``; ``work`` the work for one variant.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from explainkit.graph.incremental.cost import Work
from explainkit.graph.incremental.regions import Boxes, Clean, Local, Sliding, union


@dataclass(frozen=True, eq=False)
class Slide:
    """A sliding-window operator, such as a convolution or pooling.

    Attributes:
        rows: How the window slides vertically.
        columns: How it slides horizontally.
        outside: The padding value.
        apply: The operator without padding.
        channels: Channels of the input and the output.
        operations: Multiplications and additions per output position.
        share: Factors of the result, ``[1, 1, height, width]``, such as one over the number of
            positions that an average pooling sums, which is smaller at a border; None: 1.
    """

    rows: Sliding
    columns: Sliding
    outside: float
    apply: Callable[[Tensor], Tensor]
    channels: tuple[int, int]
    operations: float
    share: Clean | None = None

    def reach(self, sources: Sequence[Boxes], size: tuple[int, int]) -> Boxes:
        """The boxes of the result that a change affects."""
        (source,) = sources
        return Boxes(
            self.rows.touched(source.rows, size[0]), self.columns.touched(source.columns, size[1])
        )

    def run(self, sources: Sequence[Local], boxes: Boxes) -> Tensor:
        """The result within the boxes."""
        data = sources[0].data
        found = self.apply(sources[0].read(self._read(boxes), self.outside))
        if self.share is not None:
            return found.mul_(self.share.read(boxes))
        shared = found.untyped_storage().data_ptr() == data.untyped_storage().data_ptr()
        # a 1×1 window returns its source itself, which a later operator may overwrite
        return found.clone() if shared else found

    def work(self, sources: Sequence[Boxes], boxes: Boxes) -> Work:
        """The work for one variant."""
        read = self._read(boxes).area
        inputs, outputs = self.channels
        # clean positions are copied, changed ones copied over them, then all are read
        moved = 4 * (inputs * (3 * read + 2 * sources[0].area) + outputs * boxes.area)
        work = Work(self.operations * boxes.area, moved, read + sources[0].area, 16)
        if self.share is None:
            return work
        return work + Work(bytes=12 * boxes.area, positions=boxes.area, calls=6)

    def _read(self, boxes: Boxes) -> Boxes:
        return Boxes(self.rows.read(boxes.rows), self.columns.read(boxes.columns))


@dataclass(frozen=True, eq=False)
class Elementwise:
    """An operator that treats every spatial position separately, on one or several maps.

    Attributes:
        apply: The operator on the maps that change.
        channels: Channels of the result.
        fixed: Maps that don't change but vary spatially; passed after the others.
        in_place: The same operator, overwriting the first map; None if there is none.
        operations: Multiplications and additions per position.
    """

    apply: Callable[..., Tensor]
    channels: int
    fixed: tuple[Clean, ...] = ()
    in_place: Callable[..., Tensor] | None = None
    operations: float = 0.0

    def reach(self, sources: Sequence[Boxes], size: tuple[int, int]) -> Boxes:
        """The boxes of the result that a change affects."""
        return sources[0] if len(sources) == 1 else union(sources, size)

    def run(self, sources: Sequence[Local], boxes: Boxes, *, overwrite: bool = False) -> Tensor:
        """The result within the boxes; ``overwrite``: the first source is not needed later."""
        found = [source.read(boxes) for source in sources]
        free = overwrite or found[0] is not sources[0].data
        apply = self.in_place if free and self.in_place is not None else self.apply
        return apply(*found, *(fixed.read(boxes) for fixed in self.fixed))

    def work(self, sources: Sequence[Boxes], boxes: Boxes) -> Work:
        """The work for one variant."""
        moved = 4 * self.channels * boxes.area * (1 + len(sources))
        work = Work(self.operations * boxes.area, moved, 0, 1)
        for source in [*(s for s in sources if not s.same(boxes)), *(boxes for _ in self.fixed)]:
            moved = 4 * self.channels * (2 * boxes.area + 2 * source.area)
            work = work + Work(0, moved, boxes.area + source.area, 16)
        return work


BoxOperator = Slide | Elementwise


@dataclass(frozen=True, eq=False)
class Mean:
    """The spatial mean of a map, updated by the change within the box.

    Attributes:
        shape: Shape of the result, without the batch.
    """

    shape: tuple[int, ...]

    def run(self, source: Local) -> Tensor:
        """The means ``[n, …]``."""
        clean = source.clean
        before = clean.read(source.boxes).sum((2, 3))
        change = (source.data.sum((2, 3)) - before) / (clean.size[0] * clean.size[1])
        return (clean.value.mean((2, 3)) + change).reshape(-1, *self.shape)

    def work(self, source: Boxes, channels: int) -> Work:
        """The work for one variant."""
        return Work(bytes=16 * channels * source.area, positions=source.area, calls=12)


class Convolution:
    """A convolution with weights in channels-last memory format.

    Args:
        arguments: The operator's arguments by name.
    """

    def __init__(self, arguments: dict[str, Any]) -> None:
        self._arguments = arguments
        self._weight: Tensor | None = None

    def __call__(self, images: Tensor, padding: tuple[int, int] = (0, 0)) -> Tensor:
        """Convolves images with the given padding instead of its own."""
        a = self._arguments
        if self._weight is None:
            self._weight = a["weight"].contiguous(memory_format=torch.channels_last)
        stride, dilation = pair(a["stride"]), pair(a["dilation"])
        return F.conv2d(images, self._weight, a["bias"], stride, padding, dilation, a["groups"])

    def whole(self, images: Tensor) -> Tensor:
        """Convolves whole maps with its own padding."""
        return self(images, pair(self._arguments["padding"]))


def pair(value: Any) -> tuple[int, int]:
    """Vertical and horizontal value, from one number or a list of one or two."""
    values = [value] if isinstance(value, int) else list(value)
    return (values[0], values[-1])
