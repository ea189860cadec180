"""The result of every reader: all images of a file, in file order."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SIDE = 48
"""Height and width of an image in pixels."""

MOST_IMAGES = 100_000
"""Maximum number of images; it bounds the memory."""


@dataclass(frozen=True, eq=False)
class Source:
    """All images of a file.

    Attributes:
        pixels: uint8 ``[n, 48, 48]``.
        labels: int64 ``[n]``, -1 if unlabeled.
        splits: Split according to the file, an index into ``SPLITS``, int8 ``[n]``.
        names: Name of each image.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    splits: NDArray[np.int8]
    names: tuple[str, ...]


def short(value: object, most: int = 40) -> str:
    """A value for an error message: printable, and truncated if long."""
    text = repr(value) if not isinstance(value, bytes) else repr(value.decode("utf-8", "replace"))
    return text if len(text) <= most else text[: most - 1] + "…"
