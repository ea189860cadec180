"""How results show themselves in a notebook: self-contained HTML, no script, light and dark."""

from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from explainkit.render.figure import overlay
from explainkit.render.heatmap import DIVERGING, Scaling, color, scale
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

if TYPE_CHECKING:
    from explainkit.results.explanation import Explanation

MOST = 8
"""Images that a notebook shows of a large batch."""

_SIDE = 128

# colors are the notebook's own: text inherits them, bars are drawn with the text's
_BOX = (
    "font:13px/1.45 system-ui,sans-serif;border:1px solid #8884;border-radius:8px;"
    "padding:12px 16px;max-width:960px;color:inherit;overflow-x:auto"
)
# said for each cell, as notebooks have rules of their own for cells
_CELL = "text-align:left;vertical-align:top;padding:1px 12px 1px 0;border:0;background:none"
_FAINT = "opacity:.72"


def to_html(explanations: "Sequence[Explanation]") -> str:
    """Images, maps and provenance; every text is escaped.

    Explanations of the same images stand side by side, a row for each image.

    Args:
        explanations: One or several of the same images; others are shown one after the other.
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
    rows: list[str] = []
    if all(one.attribution.ndim == 4 for one in shown):
        content = gather(shown, None, None, "sum")
        rows = ["".join(_image(content, i)) for i in range(len(content.images))]
    tables = "".join(_facts(one, len(explanations) == 1) for one in explanations)
    return f'<div style="{_BOX}">{"".join(rows)}{tables}</div>'


def _image(content: Content, row: int) -> Iterator[str]:
    """One image with its probabilities and maps."""
    yield '<div style="display:flex;flex-wrap:wrap;gap:14px;margin-bottom:14px">'
    reading = content.readings[0]
    title = "image" if reading.confidence[row] is None else content.class_name(reading.read[row])
    title = title if reading.confidence[row] is None else f"read as {title}"
    blank = "\n\xa0" if len(content.explanations) > 1 else ""
    name = content.names[row]
    yield _figure(title + blank, content.images[row], name)
    heading = f'<div style="{_FAINT};white-space:pre">probabilities{blank}</div>'
    yield f'<div style="width:170px">{heading}'
    targets = {explained_class(one, row) for one in content.explanations}
    for label, share in reading.top[row]:
        weight = "600" if label in targets else "400"
        yield (
            '<div style="display:flex;gap:6px;align-items:center;line-height:17px">'
            f'<div style="width:72px;overflow:hidden;white-space:nowrap;text-overflow:ellipsis;'
            f'font-weight:{weight}">{escape(content.class_name(label))}</div>'
            f'<div style="flex:1"><div style="width:{100 * share:.1f}%;height:8px;'
            f'background:currentColor;opacity:{".85" if label in targets else ".35"}"></div></div>'
            f'<div style="{_FAINT}">{share:.2f}</div></div>'
        )
    yield "</div>"
    for one, maps in zip(content.explanations, content.maps, strict=True):
        values = torch.from_numpy(maps[row])
        scaled = scale(values[None], SCALINGS[0])
        method = one.method.rpartition("/")[2]
        image = content.images[row] / 255
        alt = f"{one.method} of {one.model}, explained: {one.target_name(row)}"
        if len(content.explanations) == 1:
            yield _figure("map", color(scaled.values[0]), alt, float(scaled.limits[0]))
            title = "map over image"
        else:
            title = f"{method}\nexplains {one.target_name(row)}"
        mixed = np.rint(255 * overlay(image, values)).astype(np.uint8)
        limit = None if len(content.explanations) == 1 else float(scaled.limits[0])
        yield _figure(title, mixed, alt, limit)
    yield "</div>"


def _figure(title: str, image: NDArray[np.uint8], alt: str, limit: float | None = None) -> str:
    """An image under its title; with a limit, a color bar with true values under it."""
    height, width = image.shape[:2]
    wide = min(_SIDE, round(_SIDE * width / height))
    grain = "pixelated" if width < _SIDE else "auto"
    bar = ""
    if limit is not None:
        ramp = data_uri(Image.fromarray(color(np.linspace(-1, 1, 64)[None], DIVERGING)))
        ticks = "".join(
            f"<div>{tick}</div>"
            for tick in ((number(-limit), "0", number(limit)) if limit else ("zero everywhere",))
        )
        bar = (
            f'<img alt="" src="{ramp}" style="width:100%;height:7px;margin:5px 0 0;display:block">'
            f'<div style="display:flex;justify-content:space-between;font-size:11px;{_FAINT}">'
            f"{ticks}</div>"
        )
    return (
        f'<div style="width:{max(wide, 96)}px"><div style="{_FAINT};font-size:12px;white-space:pre;'
        f'overflow:hidden;text-overflow:ellipsis">{escape(title)}</div>'
        f'<img alt="{escape(alt, quote=True)}" src="{data_uri(Image.fromarray(image))}" '
        f'style="width:{wide}px;image-rendering:{grain};display:block;margin:0;border-radius:3px">'
        f"{bar}</div>"
    )


def _facts(one: "Explanation", alone: bool) -> str:
    """What was run; beside others only what tells them apart."""
    known = facts(one)
    count = len(one)
    known["images"] = f"{count}" + ("" if count <= MOST else f", {MOST} shown")
    known["explained"] = ", ".join(
        dict.fromkeys(one.target_name(i) for i in range(min(count, MOST)))
    )
    known |= {name: ", ".join(values[:MOST]) for name, values in per_image(one).items()}
    known["scaling"] = Scaling.parse(SCALINGS[0]).title
    order = ["method", "parameters", "model", "explained", "score", "images"]
    names = [*order, *sorted(known.keys() - {*order, "versions", "scaling"}), "scaling", "versions"]
    if not alone:
        names = ["method", "parameters"]
    rows = [_row(name, known[name]) for name in names if name in known]
    rows += [_row("warning", text) for text in one.diagnostics.get("warnings", [])]
    style = "margin:6px 0 0;border:0;color:inherit;font-size:inherit"
    return f'<table style="{style}">{"".join(rows)}</table>'


def _row(name: str, value: str) -> str:
    return (
        f'<tr style="background:none"><th style="{_CELL};{_FAINT};font-weight:500;'
        f'white-space:nowrap">{escape(name)}</th>'
        f'<td style="{_CELL};overflow-wrap:anywhere">{escape(str(value))}</td></tr>'
    )
