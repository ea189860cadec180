"""Concepts as HTML: a table for notebooks, and a page with a card for each."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from explainkit.errors import RenderError
from explainkit.files import write_file
from explainkit.render.concept_captions import amount, cosine, meaning, stability
from explainkit.render.concepts import (
    AGAINST,
    FOR,
    concepts_figure,
    exemplar_images,
    largest,
    smooth,
    titles_of,
)
from explainkit.render.figure import png_text
from explainkit.render.heatmap import to_pixels
from explainkit.render.report.sheets import data_uri
from explainkit.render.shown_image import to_bytes
from explainkit.render.templates import fill, inline

if TYPE_CHECKING:
    from explainkit.results.concepts import Concepts
    from explainkit.results.visualization import Visualization

CLASSES = 10
"""Classes whose importance a card lists."""

MOST = 10
"""Concepts that a notebook draws."""


def to_html(found: "Concepts") -> str:
    """The notebook view: how far to trust the concepts, and a figure; all text is escaped."""
    return fill(
        "explainkit.render", "concepts_notebook.html",
        overview=_overview(found, titles_of(found, None), links=False),
        alt=f"Exemplars and importance of the concepts of layer {found.layer} of {found.model}",
        data=png_text(concepts_figure(found, most=MOST)),
    )  # fmt: skip


def concepts_report(
    found: "Concepts",
    path: Path,
    names: Sequence[str] | None,
    maximized: "Visualization | None",
    command: str | None,
) -> Path:
    """Writes concepts as one self-contained HTML file, atomically; see `Concepts.report`."""
    titles = titles_of(found, names)
    if maximized is not None and maximized.objective != tuple(map(str, found)):
        raise RenderError(
            f"maximized: expected an image for each of these {len(found)} concepts: "
            "ek.maximize(model, list(concepts))"
        )
    facts = {
        "model": found.model,
        "layer": found.layer,
        "images": f"{found.count:,}",
        "factorization": "none: the directions were given"
        if found.kind == "given"
        else f"{found.kind.upper()}, {len(found)} concepts, seed {found.seed}",
        "versions": ", ".join(f"{name} {of}" for name, of in found.versions.items()),
    }
    text = fill(
        "explainkit.render.report", "concepts.html",
        style=inline("explainkit.render.report", "report.css"),
        title=f"{len(found)} concepts of layer {found.layer}",
        about=[f"{found.model}, {found.count:,} images"],
        overview=_overview(found, titles, links=True),
        cards=(_card(found, k, titles[k], maximized) for k in range(len(found))),
        meaning=meaning(found, "each value" if found.task == "regression" else "each score"),
        command=command,
        facts=facts.items(),
    )  # fmt: skip
    return write_file(path, text.encode(), RenderError)


def _overview(found: "Concepts", titles: Sequence[str], *, links: bool) -> Markup:
    """The notes, and a row for each concept."""
    rows = []
    for k, title in enumerate(titles):
        best = found.strongest(k)
        rows.append(
            {
                "title": title,
                "class": found.class_name(best),
                **_importance(found, k, best),
                "stability": stability(found, k) or "–",
                "p": f"{float(found.p[k]):.2g}",
                "failures": found.failures(k),
            }
        )
    text = fill(
        "explainkit.render", "concepts.html",
        rows=rows, notes=found.notes, links=links,
        meaning=meaning(found, "the score of the most affected class"),
    )  # fmt: skip
    return Markup(text)  # noqa: S704 - the template has escaped it


def _card(
    found: "Concepts", k: int, title: str, maximized: "Visualization | None"
) -> dict[str, Any]:
    """One concept as the template needs it."""
    exemplars = []
    for one in found.exemplars(k):
        mixed, crop = exemplar_images(found, one)
        exemplars.append({"name": one.name, "map": _panel(mixed), "crop": _panel(crop)})
    return {
        "title": title[0].upper() + title[1:],
        "failures": found.failures(k),
        "exemplars": exemplars,
        "maximized": None if maximized is None else _maximized(maximized, k),
        "classes": list(_classes(found, k)),
        "left_out": max(found.importance.shape[1] - CLASSES, 0),
        "stability": stability(found, k),
        "splits": ", ".join(map(cosine, found.stability[:, k].tolist())),
        "random": "" if found.random_stability != found.random_stability
        else f"{found.random_stability:.2f}",
        "p": f"{float(found.p[k]):.2g}",
    }  # fmt: skip


def _maximized(maximized: "Visualization", k: int) -> dict[str, Any]:
    """The image that maximizes a concept; none if the concept is dead."""
    if bool(maximized.dead[k]):
        return {"image": None, "caption": maximized.caption(k)}
    pixels = to_pixels(maximized.images[k], maximized.mean, maximized.std)[0]
    return {"image": _panel(pixels), "caption": maximized.caption(k)}


def _classes(found: "Concepts", k: int) -> Iterator[dict[str, Any]]:
    """The most affected classes, each with a bar from zero; all bars of a card have one scale."""
    classes = largest(found, k, CLASSES)
    values = found.importance[k, classes].double().numpy()
    errors = 2 * np.nan_to_num(found.standard_error[k, classes].double().numpy())
    low = min(float((values - errors).min()), 0.0)
    high = max(float((values + errors).max()), 0.0)
    wide = (high - low) or 1.0

    def place(value: float) -> float:
        return 100 * (value - low) / wide

    for c, value, error in zip(classes, values.tolist(), errors.tolist(), strict=True):
        start, end = sorted((place(0.0), place(value)))
        yield {
            "name": found.class_name(c),
            **_importance(found, k, c),
            "start": f"{start:.2f}",
            "width": f"{end - start:.2f}",
            "fill": FOR if value > 0 else AGAINST,
            "zero": f"{place(0.0):.2f}",
            "low": f"{place(value - error):.2f}",
            "span": f"{place(value + error) - place(value - error):.2f}",
        }


def _importance(found: "Concepts", k: int, c: int) -> dict[str, str]:
    return dict(zip(("importance", "error"), amount(found, k, c), strict=True))


def _panel(image: NDArray[np.float64]) -> dict[str, Any]:
    """An image in [0, 1] as data; a large one is compressed."""
    return {
        "source": data_uri(Image.fromarray(to_bytes(image)), exact=not smooth(image)),
        "smooth": smooth(image),
    }
