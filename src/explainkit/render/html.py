"""The notebook view of explanations: self-contained HTML without scripts, for light and dark."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from explainkit.render.figure import overlay
from explainkit.render.heatmap import DIVERGING, Scaling, color, scale
from explainkit.render.legend import legend
from explainkit.render.report.content import (
    SCALINGS,
    Content,
    explained_class,
    facts,
    gather,
    number,
    per_image,
)
from explainkit.render.report.sheets import data_uri
from explainkit.render.templates import fill

if TYPE_CHECKING:
    from explainkit.results.explanation import Explanation

MOST = 8
"""Number of images of a large batch that a notebook shows."""

_SIDE = 128


def to_html(explanations: "Sequence[Explanation]") -> str:
    """Images, maps, and how they were computed; all text is escaped.

    Explanations of the same images are shown side by side, one row per image; others one after the
    other.
    """
    first = explanations[0]
    together = all(
        one.inputs.shape == first.inputs.shape
        and torch.equal(one.inputs.cpu(), first.inputs.cpu())
        and one.class_names == first.class_names
        for one in explanations
    )
    if not together:
        return "".join(to_html([one]) for one in explanations)
    shown = [one if len(one) <= MOST else one[:MOST] for one in explanations]
    images: list[dict[str, Any]] = []
    if all(one.attribution.ndim == 4 for one in shown):
        content = gather(shown, None, None, "sum")
        images = [_image(content, i) for i in range(len(content.images))]
    scaling = f"Each map is normalized separately ({Scaling.parse(SCALINGS[0]).limit})"
    return fill(
        "explainkit.render", "notebook.html",
        images=images,
        ramp=data_uri(Image.fromarray(color(np.linspace(-1, 1, 64)[None], DIVERGING))),
        legend=f"{legend(shown)}. {scaling}; ± is the value at full color.",
        tables=[list(_facts(one, len(explanations) == 1)) for one in explanations],
    )  # fmt: skip


def _image(content: Content, row: int) -> dict[str, Any]:
    """One image with its prediction and its maps, as the template needs them."""
    prediction = content.readings[0]
    title = "image"
    if prediction.confidence[row] is not None:
        title = f"predicted: {content.predicted(row)}"
    alone = len(content.explanations) == 1
    blank = "" if alone else "\n "
    targets = {explained_class(one, row) for one in content.explanations}
    pixels = content.images[row]
    maps = []
    for one, values in zip(content.explanations, content.maps, strict=True):
        tensor = torch.from_numpy(values[row])
        scaled = scale(tensor[None], SCALINGS[0])
        limit = float(scaled.limits[0])
        alt = f"{one.method} of {one.model}, target: {one.target_name(row)}"
        if alone:
            maps.append(_panel("map", color(scaled.values[0]), alt, limit))
        mixed = np.rint(255 * overlay(pixels / 255, tensor)).astype(np.uint8)
        if alone:
            maps.append(_panel("map over image", mixed, f"{alt}, over the image"))
        else:
            title_of_map = f"{one.method.rpartition('/')[2]}\ntarget: {one.target_name(row)}"
            maps.append(_panel(title_of_map, mixed, f"{alt}, over the image", limit))
    return {
        "panel": _panel(title + blank, pixels, content.names[row]),
        "heading": f"probabilities{blank}",
        "bars": [(content.class_name(c), p, c in targets) for c, p in prediction.top[row]],
        "maps": maps,
    }


def _panel(
    title: str, image: NDArray[np.uint8], alt: str, limit: float | None = None
) -> dict[str, Any]:
    """An image under its title; with a limit, a color bar below it."""
    height, width = image.shape[:2]
    wide = min(_SIDE, round(_SIDE * width / height))
    return {
        "title": title,
        "alt": alt,
        "source": data_uri(Image.fromarray(image)),
        "width": wide,
        "rendering": "pixelated" if width < _SIDE else "auto",
        "full_color": limit is not None and (f"±{number(limit)}" if limit else "zero everywhere"),
    }


def _facts(one: "Explanation", alone: bool) -> Iterator[tuple[str, str]]:
    """How an explanation was computed; next to others, only its method and parameters."""
    known = facts(one)
    count = len(one)
    known["images"] = f"{count}" + ("" if count <= MOST else f", {MOST} shown")
    known["target"] = ", ".join(dict.fromkeys(one.target_name(i) for i in range(min(count, MOST))))
    known |= {name: ", ".join(values[:MOST]) for name, values in per_image(one).items()}
    names = ["method", "parameters"]
    if alone:
        names += ["model", "target", "score", "images"]
        names += [*sorted(known.keys() - {*names, "versions"}), "versions"]
    yield from ((name, known[name]) for name in names if name in known)
    yield from (("warning", text) for text in one.diagnostics.get("warnings", []))
