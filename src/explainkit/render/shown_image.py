"""An image as figures and pages show it, and maps over it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from explainkit.adapters.geometry import Geometry
from explainkit.errors import RenderError
from explainkit.render.heatmap import Scaling, color, scale, to_pixels

if TYPE_CHECKING:
    from explainkit.results.explanation import Explanation

OPACITY = 0.85
"""Of the strongest values of a map over an image."""

LONGEST = 1024
"""Pixels of the longer side of an original in a figure; a larger one is reduced."""

_STRIPES = 30
"""Stripes of a hatch along the longer side of an image."""


@dataclass(frozen=True, eq=False)
class ShownImage:
    """An image to show: the original where it is known, otherwise the model's input.

    Attributes:
        pixels: Gray ``[height, width]`` or RGB ``[height, width, 3]`` in [0, 1].
        geometry: Where the model's input lies in it; None if it is the model's input.
        note: How it was made displayable if that took a guess, or "".
    """

    pixels: NDArray[np.float64]
    geometry: Geometry | None = None
    note: str = ""

    @property
    def hatched(self) -> bool:
        """Whether the model did not see all of it."""
        return self.geometry is not None and not bool(self.geometry.seen().all())

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def place(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """A map ``[height, width]`` of the model's input, on this image; NaN where not seen."""
        if self.geometry is None:
            return values
        placed: NDArray[np.float64] = self.geometry.to_original(torch.from_numpy(values)).numpy()
        return placed

    def colored(
        self, strength: NDArray[np.float64], colors: str, signed: bool
    ) -> NDArray[np.float64]:
        """A scaled map alone, in color; what the model did not see is hatched.

        Args:
            strength: ``[height, width]`` of the model's input, scaled to [−1, 1] or [0, 1].
            colors: Name of a matplotlib color map.
            signed: Whether its middle stands for zero.

        Returns:
            RGB in [0, 1].
        """
        placed = self.place(strength)
        return _hatched(color(np.nan_to_num(placed), colors, signed=signed) / 255, np.isnan(placed))

    def overlaid(
        self, strength: NDArray[np.float64], colors: str, signed: bool, alpha: float
    ) -> NDArray[np.float64]:
        """A scaled map over the image in gray; what the model did not see is hatched."""
        placed = self.place(strength)
        unseen = np.isnan(placed)
        placed = np.nan_to_num(placed)
        gray = (self.pixels.mean(-1) if self.pixels.ndim == 3 else self.pixels)[..., None]
        # the exponent makes weak values a little more visible
        opacity = alpha * np.abs(placed)[..., None] ** 0.7
        mixed = (1 - opacity) * gray + opacity * (color(placed, colors, signed=signed) / 255)
        return _hatched(mixed, unseen)


def notes(images: Sequence[ShownImage]) -> list[str]:
    """What there is to say about images, each remark once."""
    found = list(dict.fromkeys(one.note for one in images if one.note))
    return [*found, "hatched: not seen by the model"] if any(i.hatched for i in images) else found


def shown_images(explanation: "Explanation", longest: int = LONGEST) -> list[ShownImage]:
    """Each image of an explanation as it is shown.

    Args:
        explanation: Its originals are shown if it has them.
        longest: Pixels of the longer side of an original; a larger one is reduced.
    """
    if explanation.originals is None or explanation.geometries is None:
        shown = [to_pixels(one, explanation.mean, explanation.std) for one in explanation.inputs]
        return [ShownImage(pixels, note=note) for pixels, note in shown]
    return [
        _original(pixels, geometry, longest)
        for pixels, geometry in zip(explanation.originals, explanation.geometries, strict=True)
    ]


def to_bytes(image: NDArray[np.float64]) -> NDArray[np.uint8]:
    """An image in [0, 1] as uint8."""
    found: NDArray[np.uint8] = np.rint(255 * image).astype(np.uint8)
    return found


def overlay(
    image: NDArray[np.float64] | ShownImage,
    values: torch.Tensor,
    scaling: Scaling | str = "percentile",
    *,
    cmap: str | None = None,
    alpha: float = OPACITY,
) -> NDArray[np.float64]:
    """A map over its grayscale image: the stronger the value, the more opaque its color.

    The opacity of a pixel is alpha · |s|^0.7, where s is the scaled value in [−1, 1]. What the
    model did not see is hatched.

    Args:
        image: ``[height, width]`` or ``[height, width, 3]`` in [0, 1], or as `shown_images` gives
            it.
        values: ``[height, width]`` of the model's input, in the method's own unit.
        scaling: How values become colors.
        cmap: Name of a matplotlib color map; None: the scaling's own.
        alpha: Opacity of the strongest values.

    Returns:
        RGB ``[height, width, 3]`` in [0, 1].

    Raises:
        RenderError: An unknown scaling or color map, or an opacity outside [0, 1].
    """
    if not 0 <= alpha <= 1:
        raise RenderError(f"alpha: expected an opacity from 0 to 1, got {alpha}")
    rule = Scaling.parse(scaling)
    shown = image if isinstance(image, ShownImage) else ShownImage(image)
    strength = scale(values[None], rule).values[0]
    return shown.overlaid(strength, cmap or rule.colors, rule.sign == "signed", alpha)


def _original(pixels: NDArray[np.uint8], geometry: Geometry, longest: int) -> ShownImage:
    height, width = geometry.original
    factor = longest / max(height, width)
    if factor < 1:
        size = max(round(height * factor), 1), max(round(width * factor), 1)
        reduced = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BOX)
        pixels, geometry = np.asarray(reduced), geometry.seen_from(size)
    return ShownImage(pixels / 255, geometry)


def _hatched(rgb: NDArray[np.float64], where: NDArray[np.bool_]) -> NDArray[np.float64]:
    """An image with an area faded to light gray under diagonal stripes."""
    if not where.any():
        return rgb
    height, width = where.shape
    period = max(max(height, width) / _STRIPES, 3.0)
    rows, columns = np.ogrid[:height, :width]
    stripe = ((rows + columns) % period < period / 3)[..., None]
    faded = 0.3 * rgb.mean(-1, keepdims=True) + np.where(stripe, 0.57, 0.66)
    found: NDArray[np.float64] = np.where(where[..., None], faded, rgb)
    return found
