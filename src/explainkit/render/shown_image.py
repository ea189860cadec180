"""An image as figures and pages show it, and maps over it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
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

_STRIP = 32
"""Rows of an original that are drawn at once."""

_OUTLINE = 200
"""An outline's thickness is this part of the longer side of an image, at least a pixel."""

_BOX = (1.0, 0.8, 0.0)
"""Color of the outline of a box: amber, which no map has."""

_STRIPES = 30
"""Stripes of a hatch along the longer side of an image."""


@dataclass(frozen=True, eq=False)
class ShownImage:
    """An image to show: the original where it is known, otherwise the model's input.

    Attributes:
        pixels: Gray ``[height, width]`` or RGB ``[height, width, 3]`` in [0, 1].
        geometry: Where the model's input lies in it; None if it is the model's input.
        note: How it was made displayable if that took a guess, or "".
        boxes: Left, top, right, bottom of boxes that the map is about, in pixels, ``[boxes, 4]``;
            they are drawn on the image and on maps over it.
    """

    pixels: NDArray[np.float64]
    geometry: Geometry | None = None
    note: str = ""
    boxes: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 4)))

    def __post_init__(self) -> None:
        object.__setattr__(self, "pixels", with_boxes(self.pixels, self.boxes))

    def about(self, boxes: NDArray[np.float64]) -> "ShownImage":
        """The image with boxes, given in pixels of the model's input, ``[boxes, 4]``."""
        if not len(boxes):
            return self
        placed = boxes if self.geometry is None else self.geometry.points_to_original(boxes)
        return replace(self, boxes=placed)

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
        mixed = color(np.nan_to_num(placed), colors, signed=signed) / 255
        return with_boxes(_hatched(mixed, np.isnan(placed)), self.boxes)

    def overlaid(
        self, strength: NDArray[np.float64], colors: str, signed: bool, alpha: float
    ) -> NDArray[np.float64]:
        """A scaled map over the image in gray; what the model did not see is hatched."""
        mixed = _blended(self.pixels, self.place(strength), colors, signed, alpha)
        return with_boxes(mixed, self.boxes)


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
    plain = plain_images(explanation, longest)
    return [one.about(boxes) for one, boxes in zip(plain, boxes_of(explanation), strict=True)]


def plain_images(explanation: "Explanation", longest: int = LONGEST) -> list[ShownImage]:
    """As `shown_images`, without the boxes that the maps are about."""
    if explanation.inputs.ndim != 4:
        raise RenderError(
            f"expected images, got volumes {list(explanation.inputs.shape)}: explanation.plot() "
            "and explanation.report() show them as slices"
        )
    if explanation.originals is None or explanation.geometries is None:
        shown = [to_pixels(one, explanation.mean, explanation.std) for one in explanation.inputs]
        return [ShownImage(pixels, note=note) for pixels, note in shown]
    return [
        _original(pixels, geometry, longest)
        for pixels, geometry in zip(explanation.originals, explanation.geometries, strict=True)
    ]


def boxes_of(explanation: "Explanation") -> list[NDArray[np.float64]]:
    """The boxes that each map is about, in pixels of the model's input, ``[boxes, 4]`` each."""
    found = explanation.diagnostics.get("boxes")
    if not isinstance(found, torch.Tensor) or found.shape[1:] != (found.shape[1], 4):
        return [np.zeros((0, 4))] * len(explanation)
    height, width = explanation.inputs.shape[2:]
    return list(found.detach().double().cpu().numpy() * [width, height, width, height])


def with_boxes(image: NDArray[Any], boxes: NDArray[np.float64]) -> NDArray[Any]:
    """An image with the outlines of boxes, in RGB if there are any.

    Args:
        image: ``[height, width]`` or ``[height, width, 3]``, in [0, 1], or uint8.
        boxes: Left, top, right, bottom in pixels, ``[boxes, 4]``. What lies outside is not drawn.
    """
    if not len(boxes):
        return image
    image = np.repeat(image[..., None], 3, 2) if image.ndim == 2 else image.copy()
    height, width = image.shape[:2]
    thick = max(round(max(height, width) / _OUTLINE), 1)
    ink = np.asarray(_BOX) * (255 if image.dtype == np.uint8 else 1)
    for left, top, right, bottom in np.rint(boxes).astype(int).tolist():
        for rows, columns in (
            ((top, top + thick), (left, right)),
            ((bottom - thick, bottom), (left, right)),
            ((top, bottom), (left, left + thick)),
            ((top, bottom), (right - thick, right)),
        ):
            (y, below), (x, beyond) = np.clip(rows, 0, height), np.clip(columns, 0, width)
            image[y:below, x:beyond] = ink
    return image


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
    shown = image if isinstance(image, ShownImage) else ShownImage(image)
    return shown.overlaid(*_styled(values, scaling, cmap, alpha), alpha)


def overlay_original(
    pixels: NDArray[np.uint8],
    geometry: Geometry,
    values: torch.Tensor,
    scaling: Scaling | str = "percentile",
    *,
    cmap: str | None = None,
    alpha: float = OPACITY,
    boxes: NDArray[np.float64] | None = None,
) -> NDArray[np.uint8]:
    """As `overlay`, over an original ``[height, width, 3]``, in strips that fit a cache.

    The original is of any size; ``geometry`` says where the model's input lies in it, and ``boxes``
    ``[boxes, 4]``, in pixels of that input, are outlined.
    """
    strength, colors, signed = _styled(values, scaling, cmap, alpha)
    placed = geometry.to_original(torch.from_numpy(strength.astype(np.float32))).numpy()
    found = np.empty_like(pixels)
    longest = max(geometry.original)
    for top in range(0, len(pixels), _STRIP):
        rows = slice(top, top + _STRIP)
        strip = pixels[rows] / np.float32(255)
        found[rows] = to_bytes(_blended(strip, placed[rows], colors, signed, alpha, top, longest))
    return found if boxes is None else with_boxes(found, geometry.points_to_original(boxes))


def check_opacity(alpha: float) -> None:
    """Raises RenderError unless a number is an opacity."""
    if not 0 <= alpha <= 1:
        raise RenderError(f"alpha: expected an opacity from 0 to 1, got {alpha}")


def _styled(
    values: torch.Tensor, scaling: Scaling | str, cmap: str | None, alpha: float
) -> tuple[NDArray[np.float64], str, bool]:
    """The scaled map, the name of the color map, and whether its middle stands for zero."""
    check_opacity(alpha)
    rule = Scaling.parse(scaling)
    strength = scale(values[None], rule).values[0]
    return strength, cmap or rule.colors, rule.sign == "signed"


def _blended(
    pixels: NDArray[Any],
    placed: NDArray[Any],
    colors: str,
    signed: bool,
    alpha: float,
    top: int = 0,
    longest: int | None = None,
) -> NDArray[Any]:
    """A map over an image in gray, or over rows of it from ``top`` on; NaN is hatched."""
    unseen = np.isnan(placed)
    placed = np.nan_to_num(placed)
    gray = _gray(pixels) if pixels.ndim == 3 else pixels
    # the exponent makes weak values a little more visible
    opacity = (alpha * np.abs(placed) ** 0.7)[..., None]
    hue = color(placed, colors, signed=signed) / np.asarray(255, placed.dtype)
    mixed = gray[..., None] + opacity * (hue - gray[..., None])
    return _hatched(mixed, unseen, top, longest or max(unseen.shape))


def _original(pixels: NDArray[np.uint8], geometry: Geometry, longest: int) -> ShownImage:
    height, width = geometry.original
    factor = longest / max(height, width)
    if factor < 1:
        size = max(round(height * factor), 1), max(round(width * factor), 1)
        reduced = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BOX)
        pixels, geometry = np.asarray(reduced), geometry.seen_from(size)
    return ShownImage(pixels / 255, geometry)


def _gray(rgb: NDArray[Any]) -> NDArray[Any]:
    """The mean of the channels, several times faster than numpy's over an axis this short."""
    mean: NDArray[Any] = (rgb[..., 0] + rgb[..., 1] + rgb[..., 2]) / 3
    return mean


def _hatched(
    rgb: NDArray[Any], where: NDArray[np.bool_], top: int = 0, longest: int | None = None
) -> NDArray[Any]:
    """An image with an area faded to light gray under diagonal stripes.

    Args:
        rgb: The image, or rows of it.
        where: The area.
        top: The first row in the image.
        longest: The longer side of the image; None: of these rows.
    """
    if not where.any():
        return rgb
    height, width = where.shape
    period = max((longest or max(height, width)) / _STRIPES, 3.0)
    diagonals = np.arange(top, top + height + width - 1) % period < period / 3
    stripes = sliding_window_view(diagonals, width)
    light = np.where(stripes, *np.array([0.57, 0.66], rgb.dtype))
    faded = (0.3 * _gray(rgb) + light)[..., None]
    return np.where(where[..., None], faded, rgb)
