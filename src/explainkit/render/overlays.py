"""Maps over their images, as images of their own."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from explainkit.errors import RenderError
from explainkit.files import write_file
from explainkit.render.heatmap import Reduce, Scaling, over_images
from explainkit.render.shown_image import OPACITY, overlay, shown_images, to_bytes

if TYPE_CHECKING:
    from explainkit.results.explanation import Explanation

_WHOLE = 1 << 30
"""Pixels of the longer side of an original: no original is reduced."""


def overlays(
    explanation: "Explanation",
    *,
    scaling: Scaling | str = "percentile",
    reduce: Reduce = "sum",
    cmap: str | None = None,
    alpha: float = OPACITY,
) -> list[Image.Image]:
    """Each map over its image in gray, at the resolution of the original.

    Args:
        explanation: The maps.
        scaling: How values become colors.
        reduce: How channels are reduced to one.
        cmap: Name of a matplotlib color map; None: the scaling's own.
        alpha: Opacity of the strongest values.

    Returns:
        RGB images of the size of the original, or of the model's input where that is not known.

    Raises:
        RenderError: An unknown scaling or color map, an opacity outside [0, 1], or a map without
            spatial positions.
    """
    maps = over_images(explanation, reduce)
    shown = shown_images(explanation, _WHOLE)
    return [
        Image.fromarray(to_bytes(overlay(image, values, scaling, cmap=cmap, alpha=alpha)))
        for image, values in zip(shown, maps, strict=True)
    ]


def save_overlay(explanation: "Explanation", path: Path) -> Path:
    """Writes the overlay of an explanation of one image as PNG, atomically; returns the path.

    Raises:
        RenderError: The map can't be drawn, or the file can't be written.
    """
    [image] = overlays(explanation)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return write_file(path, buffer.getvalue(), RenderError)
