"""The notebook view of explanations: self-contained HTML without scripts, for light and dark."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from explainkit.errors import clipped
from explainkit.render.figure import png_text
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
from explainkit.render.shown_image import overlay, to_bytes
from explainkit.render.templates import fill
from explainkit.render.volume import volume_figure

if TYPE_CHECKING:
    from explainkit.results.explanation import Explanation

MOST = 8
"""Number of images of a large batch that a notebook shows."""

_SIDE, _PHOTO = 128, 224
"""Longer side in CSS pixels of a model's input, and of an original."""


def to_html(explanations: "Sequence[Explanation]") -> str:
    """Images, maps, and how they were computed; all text is escaped.

    Explanations of the same images are shown side by side, one row per image; others one after the
    other. Of volumes, slices are shown as in `explainkit.render.volume`.
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
    figure = ""
    remarks = [legend(shown)]
    if all(one.inputs.ndim == one.attribution.ndim == 4 for one in shown):
        content = gather(shown, None, None, "sum", 2 * _PHOTO)
        images = [_image(content, i) for i in range(len(content.shown))]
        remarks += content.notes
    elif all(one.inputs.ndim > 4 and one.attribution.ndim > 4 for one in shown):
        figure = png_text(volume_figure(shown))
    scaling = f"Each map is normalized separately ({Scaling.parse(SCALINGS[0]).limit})"
    return fill(
        "explainkit.render", "notebook.html",
        images=images,
        figure=figure,
        alt="; ".join(map(repr, shown)),
        ramp=data_uri(Image.fromarray(color(np.linspace(-1, 1, 64)[None], DIVERGING))),
        legend=f"{'; '.join(remarks)}. {scaling}; ± is the value at full color.",
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
    image = content.shown[row]
    side = _SIDE if image.geometry is None else _PHOTO
    maps = []
    for one, under, values in zip(content.explanations, content.under, content.maps, strict=True):
        tensor = torch.from_numpy(values[row])
        scaled = scale(tensor[None], SCALINGS[0])
        limit = float(scaled.limits[0])
        target = clipped(one.target_name(row))
        alt = f"{one.method} of {one.model}, target: {target}"
        if alone:
            colored = under[row].colored(scaled.values[0], DIVERGING, signed=True)
            maps.append(_panel("map", colored, alt, side, limit))
        mixed = overlay(under[row], tensor)
        if alone:
            maps.append(_panel("map over image", mixed, f"{alt}, over the image", side))
        else:
            method = one.method.rpartition("/")[2] + content.place(one)
            title_of_map = f"{method}\ntarget: {target}"
            maps.append(_panel(title_of_map, mixed, f"{alt}, over the image", side, limit))
    return {
        "panel": _panel(title + blank, image.pixels, content.names[row], side),
        "heading": f"probabilities{blank}",
        "bars": [(content.class_name(c), p, c in targets) for c, p in prediction.top[row]],
        "maps": maps,
    }


def _panel(
    title: str, image: NDArray[np.float64], alt: str, side: int, limit: float | None = None
) -> dict[str, Any]:
    """An image in [0, 1] under its title; with a limit, a color bar below it."""
    height, width = image.shape[:2]
    wide = min(side, round(side * width / height))
    return {
        "title": title,
        "alt": alt,
        "source": data_uri(Image.fromarray(to_bytes(image))),
        "width": wide,
        "rendering": "pixelated" if width < side else "auto",
        "full_color": limit is not None and (f"±{number(limit)}" if limit else "zero everywhere"),
    }


def _facts(one: "Explanation", alone: bool) -> Iterator[tuple[str, str]]:
    """How an explanation was computed; next to others, only its method and parameters."""
    known = facts(one)
    count = len(one)
    known["images"] = f"{count}" + ("" if count <= MOST else f", {MOST} shown")
    targets = (clipped(one.target_name(i)) for i in range(min(count, MOST)))
    known["target"] = ", ".join(dict.fromkeys(targets))
    known |= {name: ", ".join(values[:MOST]) for name, values in per_image(one).items()}
    names = ["method", "parameters"]
    if alone:
        names += ["model", "target", "score", "images"]
        names += [*sorted(known.keys() - {*names, "versions"}), "versions"]
    yield from ((name, known[name]) for name in names if name in known)
    yield from (("warning", text) for text in one.diagnostics.get("warnings", []))
