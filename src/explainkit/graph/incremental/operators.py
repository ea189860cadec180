"""How the kinds of operators carry a local change on: where it reaches, what it gives there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from explainkit.graph.incremental.cost import Work
from explainkit.graph.incremental.regions import Boxes, Clean, Local, Sliding, union


class BoxOperator(Protocol):
    """One operator of the network, ready to run on boxes.

    ``boxes`` are those of the result, which `reach` gave.
    """

    def reach(self, sources: Sequence[Boxes], size: tuple[int, int]) -> Boxes:
        """Where in the result, of that size, a change in these boxes can be seen."""
        ...

    def run(self, sources: Sequence[Local], boxes: Boxes) -> Tensor:
        """The result in its boxes, ``[n, channel, *box]``."""
        ...

    def work(self, sources: Sequence[Boxes], boxes: Boxes) -> Work:
        """What that costs for one variant."""
        ...


@dataclass(frozen=True, eq=False)
class Slide:
    """An operator that slides a window over a map.

    Attributes:
        rows: How it reads down.
        columns: How it reads across.
        outside: What it reads beyond the border.
        apply: The operator without padding, on what it reads.
        channels: Of the input and the output.
        operations: For one output place.
    """

    rows: Sliding
    columns: Sliding
    outside: float
    apply: Callable[[Tensor], Tensor]
    channels: tuple[int, int]
    operations: float

    def reach(self, sources: Sequence[Boxes], size: tuple[int, int]) -> Boxes:
        """Where in the result a change can be seen."""
        (source,) = sources
        return Boxes(
            self.rows.touched(source.rows, size[0]), self.columns.touched(source.columns, size[1])
        )

    def run(self, sources: Sequence[Local], boxes: Boxes) -> Tensor:
        """The result in its boxes."""
        data = sources[0].data
        found = self.apply(sources[0].read(self._read(boxes), self.outside))
        shared = found.untyped_storage().data_ptr() == data.untyped_storage().data_ptr()
        # a window of one place passes its source on, which later operators may write over
        return found.clone() if shared else found

    def work(self, sources: Sequence[Boxes], boxes: Boxes) -> Work:
        """What that costs for one variant."""
        read = self._read(boxes).area
        inputs, outputs = self.channels
        # clean places are copied, those that changed are copied over them, then all are read
        moved = 4 * (inputs * (3 * read + 2 * sources[0].area) + outputs * boxes.area)
        return Work(self.operations * boxes.area, moved, read + sources[0].area, 16)

    def _read(self, boxes: Boxes) -> Boxes:
        return Boxes(self.rows.read(boxes.rows), self.columns.read(boxes.columns))


@dataclass(frozen=True, eq=False)
class Divided:
    """An average whose divisor depends on the place, because fewer places are averaged at a border.

    Attributes:
        total: Sums the places.
        share: One over the number of places, for each output ``[1, 1, height, width]``.
    """

    total: Slide
    share: Clean

    def reach(self, sources: Sequence[Boxes], size: tuple[int, int]) -> Boxes:
        """Where in the result a change can be seen."""
        return self.total.reach(sources, size)

    def run(self, sources: Sequence[Local], boxes: Boxes) -> Tensor:
        """The result in its boxes."""
        return self.total.run(sources, boxes).mul_(self.share.read(boxes))

    def work(self, sources: Sequence[Boxes], boxes: Boxes) -> Work:
        """What that costs for one variant."""
        share = Work(bytes=12 * boxes.area, places=boxes.area, calls=6)
        return self.total.work(sources, boxes) + share


@dataclass(frozen=True, eq=False)
class Elementwise:
    """An operator that works place by place, on one map or several.

    Attributes:
        apply: The operator on the maps that change.
        channels: Of the result.
        fixed: Maps that don't change but differ from place to place, read after the others.
        in_place: The same, written over the first map; None where that can't be.
        operations: Multiplications and additions for one place.
    """

    apply: Callable[..., Tensor]
    channels: int
    fixed: tuple[Clean, ...] = ()
    in_place: Callable[..., Tensor] | None = None
    operations: float = 0.0

    def reach(self, sources: Sequence[Boxes], size: tuple[int, int]) -> Boxes:
        """Where in the result a change can be seen."""
        return sources[0] if len(sources) == 1 else union(sources, size)

    def run(self, sources: Sequence[Local], boxes: Boxes, *, overwrite: bool = False) -> Tensor:
        """The result in its boxes; ``overwrite``: the first source's data is not needed later."""
        found = [source.read(boxes) for source in sources]
        free = overwrite or found[0] is not sources[0].data
        apply = self.in_place if free and self.in_place is not None else self.apply
        return apply(*found, *(fixed.read(boxes) for fixed in self.fixed))

    def work(self, sources: Sequence[Boxes], boxes: Boxes) -> Work:
        """What that costs for one variant."""
        moved = 4 * self.channels * boxes.area * (1 + len(sources))
        work = Work(self.operations * boxes.area, moved, 0, 1)
        for source in [*(s for s in sources if not s.same(boxes)), *(boxes for _ in self.fixed)]:
            moved = 4 * self.channels * (2 * boxes.area + 2 * source.area)
            work = work + Work(0, moved, boxes.area + source.area, 16)
        return work


@dataclass(frozen=True, eq=False)
class Mean:
    """The mean of a map: its sum changes by what its box changes.

    Attributes:
        shape: Of the result, without the batch.
    """

    shape: tuple[int, ...]

    def run(self, source: Local) -> Tensor:
        """The means ``[n, …]``."""
        clean = source.clean
        before = clean.read(source.boxes).sum((2, 3))
        change = (source.data.sum((2, 3)) - before) / (clean.size[0] * clean.size[1])
        return (clean.value.mean((2, 3)) + change).reshape(-1, *self.shape)

    def work(self, source: Boxes, channels: int) -> Work:
        """What that costs for one variant."""
        return Work(bytes=16 * channels * source.area, places=source.area, calls=12)


class Convolution:
    """A convolution with its weights laid out for channels that are last in memory.

    Args:
        arguments: Of the operator, by name.
    """

    def __init__(self, arguments: dict[str, Any]) -> None:
        self._arguments = arguments
        self._weight: Tensor | None = None

    def __call__(self, images: Tensor, padding: tuple[int, int] = (0, 0)) -> Tensor:
        """Runs it on images, without its own padding."""
        a = self._arguments
        if self._weight is None:
            self._weight = a["weight"].contiguous(memory_format=torch.channels_last)
        stride, dilation = pair(a["stride"]), pair(a["dilation"])
        return F.conv2d(images, self._weight, a["bias"], stride, padding, dilation, a["groups"])

    def whole(self, images: Tensor) -> Tensor:
        """Runs it on whole maps, with its padding."""
        return self(images, pair(self._arguments["padding"]))


def pair(value: Any) -> tuple[int, int]:
    """Down and across, of a number for both or of one or two in a list."""
    values = [value] if isinstance(value, int) else list(value)
    return (values[0], values[-1])
