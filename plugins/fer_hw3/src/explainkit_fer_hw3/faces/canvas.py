"""A batch of canvases to paint on, and the basic shapes.

Shapes are signed distances in face units, negative inside. `cover` converts a distance to the
share of each sub-pixel inside the shape. Edges are antialiased twice: analytically within a
sub-pixel, and by averaging the ``SCALE`` x ``SCALE`` sub-pixels of a pixel.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from explainkit_fer_hw3.faces.identity import SIZE, Array, Identity

SCALE = 2
"""Sub-pixels per pixel along each axis."""

Slices = tuple[slice, ...]
Labels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def square(x: Array) -> Array:
    """``x * x``."""
    return x * x


def positive(x: Array) -> Array:
    """``max(x, 0)``; `numpy.clip` with two bounds is three times faster than `numpy.maximum`."""
    return np.clip(x, 0, np.inf)


def bump(x: Array, y: Array, rx: float | Array, ry: float | Array) -> Array:
    """A smooth hill of height 1 over an ellipse: ``max(0, 1 - (x/rx)^2 - (y/ry)^2)^2``."""
    return square(positive(1 - square(x / rx) - square(y / ry)))


def crest(distance: Array, width: float | Array) -> Array:
    """A ridge of height 1 along the zeros of ``distance``: ``max(0, 1 - (d/width)^2)``."""
    return positive(1 - square(distance / width))


def disc(x: Array, y: Array, rx: float | Array, ry: float | Array) -> Array:
    """Distance to an ellipse: exact for a circle, with the correct sign for any ellipse."""
    return (np.sqrt(square(x / rx) + square(y / ry)) - 1) * (0.5 * (rx + ry))


def squircle(x: Array, y: Array, rx: Array, squareness: float | Array) -> Array:
    """Distance, to first order, to ``(x/rx)^2 + y^2 - squareness (x/rx)^2 y^2 = 1``.

    Between an ellipse (0) and a rectangle (1); ``y`` is in units of its radius. Source:
    M. Fernandez-Guasti, "Analytic geometry of some rectilinear figures", Int. J. Math. Educ. Sci.
    Technol. 23(6), 895-901 (1992).
    """
    s, t = square(x / rx), square(y)
    total = s + t
    slope = np.sqrt(total + 0.04)
    s *= t
    s *= squareness
    total -= s
    total -= 1
    total *= 0.5 * rx
    total /= slope
    return total


def cover(distance: Array, sharpness: float | Array) -> Array:
    """Share of each sub-pixel inside a shape; ``1 / sharpness`` is the width of its edge."""
    share = distance * -sharpness
    share += 0.5
    return np.clip(share, 0, 1, out=share)


def on(condition: Mask) -> Array:
    """1 where the condition holds, 0 elsewhere."""
    return condition.astype(np.float32)


@dataclass(frozen=True)
class Window:
    """A rectangle of a `PixelGrid`, in face coordinates.

    Attributes:
        at: Slices of the rectangle in an array over the grid.
        x: Horizontal coordinate, rotated with the head, ``[faces, rows, columns]``.
        a: ``|x|``, for shapes on both sides.
        y: Vertical coordinate, pointing down.
        sharpness: (Sub-)pixels per face unit.
    """

    at: Slices
    x: Array
    a: Array
    y: Array
    sharpness: Array

    def cover(self, distance: Array, softness: float = 1.0) -> Array:
        """Share of each (sub-)pixel inside a shape whose edge is ``softness`` of them wide."""
        return cover(distance, self.sharpness / softness)


class PixelGrid:
    """Face coordinates of the centers of all (sub-)pixels, with the pose undone.

    Attributes:
        u: Horizontal distance from the middle of the head, ``[faces, rows, columns]``.
        v: Vertical coordinate, pointing down.
        x: ``u`` on the surface of the head, shifted by its yaw.
        sharpness: (Sub-)pixels per face unit, ``[faces, 1, 1]``.
    """

    def __init__(self, who: Identity, scale: int) -> None:
        centers = (np.arange(SIZE * scale, dtype=np.float32) + np.float32(0.5)) / scale - SIZE / 2
        right = centers[None, None, :] - who.shift_x
        down = centers[None, :, None] - who.shift_y - 0.8
        angle = 0.22 * who.roll * np.abs(who.roll)
        cosine, sine = np.cos(angle) / who.scale, np.sin(angle) / who.scale
        self.u = right * cosine + down * sine
        self.v = down * cosine - right * (sine - 0.02 * who.skew)
        self.x = self.u - 2.2 * who.yaw * (1 - square(self.u / who.width))
        self.sharpness = scale * who.scale
        self._scale = scale

    def window(self, top: int, bottom: int, left: int = 0, right: int = SIZE) -> Window:
        """The rectangle between these rows and columns of the image, in pixels."""
        k = self._scale
        at = (slice(None), slice(top * k, bottom * k), slice(left * k, right * k))
        x = self.x[at].copy()  # arithmetic on contiguous arrays is up to four times faster
        return Window(at, x, np.abs(x), self.v[at].copy(), self.sharpness)


class Canvas:
    """Tones and part labels of a batch at ``SCALE`` times the resolution of the images."""

    def __init__(self, tones: Array) -> None:
        self.tones = tones
        self.parts: Labels = np.zeros(tones.shape, np.uint8)

    def paint(
        self, at: Slices, amount: Array, tone: float | Array, part: int | None = None
    ) -> None:
        """Blend ``tone`` into a rectangle with opacity ``amount``; above 0.5 it sets the part."""
        tones = self.tones[at]
        change = tone - tones
        change *= amount
        tones += change
        if part is not None:
            self.label(at, amount > 0.5, part)

    def darken(self, at: Slices, amount: Array) -> None:
        """Multiply the tones by ``1 - amount``."""
        tones = self.tones[at]
        tones -= amount * tones

    def label(self, at: Slices, where: Mask, part: int | Labels) -> None:
        """Set the part of the sub-pixels in ``where``."""
        parts = self.parts[at]
        # arithmetic modulo 256; a masked copy is thirty times slower
        parts += (np.uint8(part) - parts) * where.view(np.uint8)


def enlarge(tones: Array) -> Array:
    """Repeat every pixel of ``[faces, 48, 48]`` over its sub-pixels."""
    count, height, width = tones.shape
    large = np.empty((count, height * SCALE, width * SCALE), np.float32)
    for column in range(SCALE):
        large[:, ::SCALE, column::SCALE] = tones
    for row in range(1, SCALE):
        large[:, row::SCALE] = large[:, ::SCALE]
    return large


def shrink(values: Array) -> Array:
    """Average the sub-pixels of every pixel."""
    total = values[:, ::SCALE] + values[:, 1::SCALE]
    for row in range(2, SCALE):
        total += values[:, row::SCALE]
    rows = total[:, :, ::SCALE] + total[:, :, 1::SCALE]
    for column in range(2, SCALE):
        rows += total[:, :, column::SCALE]
    return rows / SCALE**2


def majority(labels: Labels) -> Labels:
    """The most frequent label of each pixel's sub-pixels, below 16; the largest if tied."""
    planes = [labels[:, i::SCALE, j::SCALE].copy() for i in range(SCALE) for j in range(SCALE)]
    best = np.zeros_like(planes[0])
    for plane in planes:
        votes = sum((plane == other).view(np.uint8) for other in planes)
        best = np.maximum(best, 16 * votes + plane)
    return best % np.uint8(16)
