"""What every reader gives: all images of a file, as it orders them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SIDE = 48
"""Pixels per side of an image."""

MOST_IMAGES = 100_000
"""More than this is no FER2013, and its memory would have no bound."""


@dataclass(frozen=True, eq=False)
class Source:
    """All images of a file.

    Attributes:
        pixels: uint8 ``[n, 48, 48]``.
        labels: int64 ``[n]``, -1 where there is none.
        splits: The split that the file tells, an index into ``SPLITS``, int8 ``[n]``.
        names: What each image is called.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    splits: NDArray[np.int8]
    names: tuple[str, ...]


def short(value: object, most: int = 40) -> str:
    """A value for an error line: printable, and cut where it is long."""
    text = repr(value) if not isinstance(value, bytes) else repr(value.decode("utf-8", "replace"))
    return text if len(text) <= most else text[: most - 1] + "…"
