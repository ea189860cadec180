"""A batch of canvases to paint on, and the few shapes that everything is made of.

Shapes are signed distances in face units, negative inside; `Canvas.cover` turns one into the
share of each sub-pixel that lies inside, so that edges are antialiased twice: analytically within
a sub-pixel, and by the area average over the ``SCALE`` x ``SCALE`` sub-pixels of a pixel.
"""

import numpy as np
from numpy.typing import NDArray

from explainkit_fer_hw3.faces.identity import SIZE, Array

SCALE = 2
"""Sub-pixels per pixel along each axis."""


def square(x: Array) -> Array:
    """``x * x``."""
    return x * x


def positive(x: Array) -> Array:
    """``max(x, 0)``."""
    return np.clip(x, 0, None)


def bump(x: Array, y: Array, rx: float | Array, ry: float | Array) -> Array:
    """A smooth hill of height 1 over an ellipse: ``max(0, 1 - (x/rx)^2 - (y/ry)^2)^2``."""
    return square(positive(1 - square(x / rx) - square(y / ry)))


def disc(x: Array, y: Array, rx: float | Array, ry: float | Array) -> Array:
    """Signed distance to an ellipse, to first order, in units of its mean radius."""
    return (np.sqrt(square(x / rx) + square(y / ry)) - 1) * (0.5 * (rx + ry))


class Canvas:
    """Tones and part labels of a batch at ``SCALE`` times the resolution of the pictures."""

    def __init__(self, tones: Array) -> None:
        self.tones = tones
        self.parts = np.zeros(tones.shape, np.uint8)

    def paint(
        self, window: tuple[slice, ...], cover: Array, tone: float | Array, part: int | None = None
    ) -> None:
        """Lay ``tone`` over the window where ``cover`` (0 to 1) says, as ``part`` if it is one."""
        tones = self.tones[window]
        tones += cover * (tone - tones)
        if part is not None:
            np.copyto(self.parts[window], np.uint8(part), where=cover > 0.5)

    def darken(self, window: tuple[slice, ...], amount: Array) -> None:
        """Take a share of the light away."""
        tones = self.tones[window]
        tones -= amount * tones

    def label(self, window: tuple[slice, ...], distance: Array, part: int) -> None:
        """Name the inside of a shape without painting it."""
        np.copyto(self.parts[window], np.uint8(part), where=distance < 0)


def cover(distance: Array, sharpness: float | Array) -> Array:
    """Share of each sub-pixel inside a shape; ``1 / sharpness`` is the width of the edge."""
    return np.clip(0.5 - distance * sharpness, 0, 1)


def enlarge(tones: Array) -> Array:
    """Repeat every pixel of ``[faces, 48, 48]`` over its sub-pixels."""
    return np.repeat(np.repeat(tones, SCALE, axis=1), SCALE, axis=2)


def reduce_tones(tones: Array) -> Array:
    """Average the sub-pixels of every pixel."""
    total = sum(tones[:, i::SCALE, j::SCALE] for i in range(SCALE) for j in range(SCALE))
    return total * np.float32(1 / SCALE**2)  # type: ignore[return-value]
