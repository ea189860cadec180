"""The report's page: static HTML that shows its images, and data for the script."""

import base64
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from explainkit.catalog.synonyms import bare_name
from explainkit.render.evaluation_page import evaluation_html
from explainkit.render.heatmap import DIVERGING, SEQUENTIAL, Scaling, color, scale
from explainkit.render.legend import legend
from explainkit.render.report.content import (
    SCALINGS,
    Content,
    explained_class,
    facts,
    limits,
    number,
    per_image,
)
from explainkit.render.report.record import UNSEALED, record_of, sealed
from explainkit.render.report.reproduce import call
from explainkit.render.report.sheets import ROOM, Packed, SheetGrid, data_uri, pack
from explainkit.render.scorecard import verdict_kind
from explainkit.render.shown_image import ShownImage, to_bytes
from explainkit.render.slices import profile
from explainkit.render.templates import fill, inline

if TYPE_CHECKING:
    from explainkit.results.evaluation import Evaluation

_PACKAGE = "explainkit.render.report"

_FEW = 16
"""Largest number of images for which the index needs no scroll bar."""

_SMALL = 40_000
"""Largest number of pixels for which the overlays shown without scripts are lossless."""


def page(content: Content, command: str | None, evaluation: "Evaluation | None" = None) -> str:
    """The whole file."""
    first = content.explanations[0]
    height, width = (max(one.size[axis] for one in content.shown) for axis in (0, 1))
    grid = SheetGrid.of(len(content.shown), width, height)
    size = sum(maps.size for maps in content.maps) * 4
    packed = [pack(maps, "f4" if size <= ROOM else "i2") for maps in content.maps]
    classes = {c for c in content.labels if c is not None}
    classes |= {c for found in content.readings[0].predicted for c in found}
    text = fill(
        _PACKAGE, "report.html",
        style=inline(_PACKAGE, "report.css"),
        script=inline(_PACKAGE, "report.js"),
        title=_title(content),
        subtitle=_subtitle(content),
        content=content,
        many=len(first) > 1,
        noun="Images" if content.depth is None else "Volumes",
        photos=first.geometries is not None,
        few=len(first) <= _FEW,
        labeled=any(label is not None for label in content.labels),
        outcomes=[_outcome(content, i) for i in range(len(first))],
        classes=[(c, content.class_name(c)) for c in sorted(classes)],
        targets={explained_class(one, 0) for one in content.explanations},
        score=number(float(first.score[0])),
        panels=list(_panels(content, grid)),
        ramp=data_uri(Image.fromarray(color(np.linspace(-1, 1, 256)[None], DIVERGING))),
        legend=legend(content.explanations),
        limit=Scaling.parse(SCALINGS[0]).limit,
        card_notes=list(dict.fromkeys(note for card in content.cards for note in card.notes)),
        scalings=[(rule, Scaling.parse(rule).limit) for rule in SCALINGS],
        warnings=[
            (bare_name(one.method), text)
            for one in content.explanations
            for text in one.diagnostics.get("warnings", [])
        ],
        records=[(one, facts(one), call(one)) for one in content.explanations],
        command=command,
        evaluation=None if evaluation is None else evaluation_html(evaluation),
        evaluated=None if evaluation is None else f"{len(evaluation):,} images",
        data=_data(content, grid, packed),
        receipts=[record_of(one, content.reduce) for one in content.explanations],
        seal=UNSEALED,
        packed=packed,
    )  # fmt: skip
    return sealed(text)


def _title(content: Content) -> str:
    methods = list(dict.fromkeys(bare_name(one.method) for one in content.explanations))
    models = list(dict.fromkeys(one.model for one in content.explanations))
    shown = ", ".join(methods) if len(methods) < 4 else f"{len(methods)} methods"
    return f"{shown} of {' and '.join(models)}"


def _subtitle(content: Content) -> str:
    count = len(content.names)
    outcomes = [_outcome(content, i) for i in range(count)]
    correct, wrong = outcomes.count("correct"), outcomes.count("wrong")
    noun = "images" if content.depth is None else "volumes"
    parts = [f"{count:,} {noun}"] if count > 1 else []
    parts.append(_sizes(content))
    if correct + wrong > 1:
        parts.append(f"{correct:,} of {correct + wrong:,} predicted correctly")
    return " · ".join([*parts, *content.notes])


def _sizes(content: Content) -> str:
    """The sizes of the images, and that of the model's inputs if it is another."""
    height, width = content.maps[0].shape[1:]
    size = f"{width} × {height // (content.depth or 1)} pixels"
    if content.depth is not None:
        return f"{content.depth} slices of {size}"
    geometries = content.explanations[0].geometries
    if geometries is None:
        return size
    found = dict.fromkeys(one.original for one in geometries)
    originals = " and ".join(f"{w} × {h}" for h, w in found) if len(found) < 3 else "several sizes"
    return f"{originals}, seen by the model at {size}"


def _outcome(content: Content, row: int) -> str:
    """Whether an image's prediction is correct, wrong or unknown."""
    return {None: "unknown", True: "correct", False: "wrong"}[content.correct(row)]


def _panels(content: Content, grid: SheetGrid) -> Iterator[dict[str, Any]]:
    """The image, then each map over it."""
    count = len(content.names)
    noun = "images" if content.depth is None else "volumes"
    what = f"{count} {noun}" if count > 1 else content.names[0]
    small = sum(one.size[0] * one.size[1] for one in content.shown) <= _SMALL
    plain = [to_bytes(one.pixels) for one in content.shown]
    exact = small or content.explanations[0].geometries is None
    if content.depth is None:
        yield _panel("image", "Image", grid, plain, f"The image: {what}", exact=exact)
    else:
        alt = f"All slices, row by row: {what}"
        yield _panel("image", "Slice", grid, plain, alt, exact=exact)
    several = len({one.model for one in content.explanations}) > 1
    for m, one in enumerate(content.explanations):
        title = bare_name(one.method) + content.place(one)
        title += f" of {bare_name(one.model)}" if several else ""
        alt = f"{title} over the image, scaled {Scaling.parse(SCALINGS[0]).title}: {what}"
        ticks = ["−", "0", "+"]
        if count == 1:
            full = float(scale(torch.from_numpy(content.maps[m]), SCALINGS[0]).limits[0])
            ticks = [number(tick) for tick in (-full, 0.0, full)] if full else ["zero everywhere"]
        yield _panel(
            f"map-{m}", title, grid, content.overlays(m), alt, exact=small,
            target=one.target_name(0) if count == 1 else None, ticks=ticks,
            card=_verdicts(content, m),
        )  # fmt: skip


def _verdicts(content: Content, m: int) -> list[tuple[str, str, str]]:
    """The verdict on each image's map, what it means, and its kind; empty without a scorecard."""
    if not content.cards:
        return []
    card = content.cards[m]
    return [(v, card.sentence(i), verdict_kind(v)) for i, v in enumerate(card.verdict)]


def _panel(
    name: str, title: str, grid: SheetGrid, images: Sequence[NDArray[np.uint8]], alt: str,
    *, exact: bool = True, target: str | None = None, ticks: Sequence[str] = (),
    card: Sequence[tuple[str, str, str]] = (),
) -> dict[str, Any]:  # fmt: skip
    sheets = [
        {"width": sheet.width, "height": sheet.height, "source": data_uri(sheet, exact=exact)}
        for sheet in grid.sheets(images)
    ]
    return {
        "id": name, "title": title, "target": target, "alt": alt, "sheets": sheets, "ticks": ticks,
        "card": card,
    }  # fmt: skip


def _data(content: Content, grid: SheetGrid, packed: Sequence[Packed]) -> dict[str, Any]:
    """The data of the script."""
    ramp = np.linspace(0, 1, 256)
    return {
        "count": len(content.names),
        "depth": content.depth,
        "grid": vars(grid),
        "input": content.maps[0].shape[1:],
        "shown": [
            _shown(one, i, content) for i, one in enumerate(content.shown[:: content.depth or 1])
        ],
        "names": content.names,
        "labels": content.labels,
        "classes": {
            str(c): content.class_name(c)
            for c in sorted(
                {c for one in content.readings for row in one.top for c, _ in row}
                | {c for one in content.readings for row in one.predicted for c in row}
                | {c for c in content.labels if c is not None}
                | {int(c) for one in content.explanations for c in one.target if not one.expression}
            )
        },
        "predictions": [
            {
                "predicted": one.predicted,
                "confidence": [c if c is None else round(c, 4) for c in one.confidence],
                "top": [[[c, round(p, 6)] for c, p in row] for row in one.top],
            }
            for one in content.readings
        ],
        "maps": [
            {
                "name": bare_name(one.method) + content.place(one),
                "target": [explained_class(one, i) for i in range(len(one))],
                "expression": one.expression and one.target_name(0),
                "one": one.classes == 1,
                "numbers": per_image(one),
                "card": _verdicts(content, m),
                "limits": limits(content.maps[m]),
                "profile": None
                if content.depth is None
                else profile(content.maps[m], content.depth).round(6).tolist(),
                "kind": packed[m].kind,
                "length": packed[m].length,
                "units": packed[m].units,
            }
            for m, one in enumerate(content.explanations)
        ],
        "colors": {
            "signed": _ramp(color(2 * ramp[None] - 1, DIVERGING)),
            "sequential": _ramp(color(ramp[None], SEQUENTIAL)),
        },
    }


def _shown(image: ShownImage, row: int, content: Content) -> dict[str, Any]:
    """The size of an image as it is shown and of its original, and where the input lies in it."""
    height, width = image.size
    geometries = content.explanations[0].geometries
    return {
        "height": height,
        "width": width,
        "original": image.size if geometries is None else geometries[row].original,
        "geometry": None if image.geometry is None else image.geometry.to_dict(),
    }


def _ramp(rgb: Any) -> str:
    return base64.b64encode(rgb.tobytes()).decode("ascii")
