"""Maps over their images, as images of their own."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from explainkit.errors import RenderError
from explainkit.files import write_file
from explainkit.render.heatmap import Reduce, Scaling, over_images
from explainkit.render.shown_image import (
    OPACITY,
    boxes_of,
    overlay,
    overlay_original,
    shown_images,
    to_bytes,
)

if TYPE_CHECKING:
    from explainkit.results.explanation import Explanation


def overlays(
    explanation: "Explanation",
    *,
    scaling: Scaling | str = "percentile",
    reduce: Reduce = "sum",
    cmap: str | None = None,
    alpha: float = OPACITY,
) -> list[Image.Image]:
    """Each map over its image in gray; see `Explanation.overlays`."""
    maps = over_images(explanation, reduce)
    style: dict[str, Any] = {"scaling": scaling, "cmap": cmap, "alpha": alpha}
    if explanation.originals is None or explanation.geometries is None:
        shown = shown_images(explanation)
        return [
            Image.fromarray(to_bytes(overlay(image, values, **style)))
            for image, values in zip(shown, maps, strict=True)
        ]
    originals = zip(explanation.originals, explanation.geometries, maps, strict=True)
    return [
        Image.fromarray(overlay_original(*one, **style, boxes=boxes))
        for one, boxes in zip(originals, boxes_of(explanation), strict=True)
    ]


def save_overlay(explanation: "Explanation", path: Path) -> Path:
    """Writes the overlay of an explanation of one image as PNG, atomically; returns the path.

    Raises:
        RenderError: The map can't be drawn, or the file can't be written.
    """
    [image] = overlays(explanation)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)  # 6 takes three times as long for a sixth less
    return write_file(path, buffer.getvalue(), RenderError)
