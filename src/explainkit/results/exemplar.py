"""Images in which a concept is active, and where."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

SHARE = 0.5
"""Of the largest value: what is above is active."""

LEAST = 0.25
"""Side of a crop, as a part of the image's shorter side: of less, a person sees too little."""


@dataclass(frozen=True, eq=False)
class Exemplar:
    """An image in which a concept is active.

    Attributes:
        index: Place of the image among those given.
        name: Of the image.
        image: ``[channel, height, width]`` as the model takes it.
        map: The concept's weights, ``[height, width]`` at the layer's resolution.
        upsampled: The same over the image, as a class activation map.
    """

    index: int
    name: str
    image: Tensor
    map: Tensor
    upsampled: Tensor

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Top, left, bottom and right of a crop of the image where the concept is most active."""
        return active_box(self.upsampled)

    @property
    def crop(self) -> Tensor:
        """The image within `box`."""
        top, left, bottom, right = self.box
        return self.image[:, top:bottom, left:right]


def active_box(values: Tensor) -> tuple[int, int, int, int]:
    """A square crop around the region in which a map is largest.

    The region holds the largest value and all pixels that are connected with it through values of
    at least half of it. Its bounding box is enlarged to a square within the image.

    Args:
        values: ``[height, width]``.

    Returns:
        Top, left, bottom and right in pixels, the last two exclusive. All of the image if no value
        is above 0.

    Examples:
        >>> values = torch.zeros(12, 16)
        >>> values[3:5, 4:11], values[0, 15] = 1.0, 0.9
        >>> active_box(values)
        (0, 4, 7, 11)
    """
    height, width = values.shape
    most = values.max()
    if not most > 0:
        return 0, 0, height, width
    active = values >= SHARE * most
    found = torch.zeros_like(active)
    found.view(-1)[values.argmax()] = True
    size = 0
    while (grown := int(found.sum())) > size:
        size = grown
        found = (F.max_pool2d(found[None].float(), 3, 1, 1)[0] > 0) & active
    spans = [found.any(axis).nonzero()[[0, -1], 0].tolist() for axis in (1, 0)]
    side = max(round(LEAST * min(height, width)), *(last - first + 1 for first, last in spans))
    ends = []
    for (first, last), length in zip(spans, (height, width), strict=True):
        wide = min(side, length)
        start = min(max((first + last + 1 - wide) // 2, 0), length - wide)
        ends.append((start, start + wide))
    (top, bottom), (left, right) = ends
    return top, left, bottom, right
