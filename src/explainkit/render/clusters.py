"""Draws clusters of maps: a figure with one row per cluster, and an HTML report."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from explainkit.catalog.synonyms import bare_name, model_title
from explainkit.errors import RenderError
from explainkit.files import write_file
from explainkit.render.heatmap import color, over_images, scale
from explainkit.render.index import thumbnails
from explainkit.render.report.sheets import data_uri
from explainkit.render.sheet import BAR, FAINT, INK, Page, fit, fit_name, house_style, show
from explainkit.render.shown_image import overlay, shown_images
from explainkit.render.templates import fill, inline

if TYPE_CHECKING:
    from explainkit.results.clusters import Clusters

MOST = 12
"""Clusters that a figure draws."""

LISTED = 500
"""Images of a cluster whose ids a report lists."""

_TEXT, _CELL, _GAP, _MARGIN, _HEAD = 1.9, 1.0, 0.12, 0.25, 0.75
_STEP, _CURVE = _CELL + 0.32, 0.8


@house_style()
def clusters_figure(found: "Clusters") -> Figure:
    """One row per cluster, and below them the eigenvalues by which their number is judged.

    Args:
        found: The clusters.
    """
    rows = min(len(found), MOST)
    across = max(map(len, found.closest))
    left = _MARGIN + _TEXT + _GAP
    width = left + (across + 1) * (_CELL + _GAP) + _GAP + _MARGIN
    more = [f"The {rows} largest of {len(found)} clusters are shown."] * (rows < len(found))
    notes = fit(" ".join([*more, *found.notes]), width - 2 * _MARGIN, 6.5, 6)
    bottom = _HEAD + rows * _STEP
    page = Page(width, bottom + _CURVE + 0.75 + 0.11 * (notes.count("\n") + 1))
    page.write_line(_MARGIN, 0.2, _title(found), 10.5, va="center", weight="bold")
    about = "mean map in cells, and the maps closest to it; each is normalized separately"
    page.write(left, _HEAD - 0.27, about, 7, color=FAINT)
    for k, row in enumerate(found.table()[:rows]):
        top = _HEAD + k * _STEP
        page.write(_MARGIN, top, f"cluster {k}", 8, va="top", weight="bold")
        page.write(_MARGIN, top + 0.17, "\n".join(_facts(row)), 7, va="top", linespacing=1.35)
        show(page.box(left, top, _CELL, _CELL), _mean(found, k) / 255)
        for column, one in enumerate(found.exemplars(k), 1):
            axes = page.box(left + _GAP + column * (_CELL + _GAP), top, _CELL, _CELL)
            [image] = shown_images(one)
            show(axes, overlay(image, over_images(one)[0].cpu()), one.geometries is not None)
            name = fit_name(one.names[0], _CELL, 6)
            axes.set_title(name, size=6, color=FAINT, loc="left", pad=2)
    _draw_eigenvalues(page.box(left, bottom + 0.15, 3 * _CELL, _CURVE), found)
    words = fit("smallest eigenvalues: a gap after the k-th suggests k clusters", _TEXT, 7, 4)
    page.write(_MARGIN, bottom + 0.15, words, 7, va="top", color=FAINT)
    page.write(_MARGIN, page.height - 0.08, notes, 6.5, va="bottom", color=FAINT)
    return page.figure


def clusters_report(found: "Clusters", path: Path) -> Path:
    """Writes clusters as one self-contained HTML file, atomically."""
    clusters = [
        {
            "number": k,
            "facts": _facts(row),
            "mean": data_uri(Image.fromarray(_mean(found, k))),
            "exemplars": [(one.names[0], thumbnails([one])) for one in found.exemplars(k)],
            "members": found.members(k)[:LISTED],
            "left_out": max(row["images"] - LISTED, 0),
        }
        for k, row in enumerate(found.table())
    ]
    facts = {
        "method": found.method,
        "nearest neighbors": str(found.neighbors),
        "cells": " × ".join(map(str, found.means.shape[1:])),
        "eigenvalues": ", ".join(f"{value:.3f}" for value in found.eigenvalues.tolist()),
        "seed": str(found.seed),
        "plan of the store": found.plan,
    }
    text = fill(
        "explainkit.render.report", "clusters.html",
        style=inline("explainkit.render.report", "report.css"),
        title=_title(found),
        about=found.notes,
        clusters=clusters,
        command=None,
        facts=facts.items(),
    )  # fmt: skip
    return write_file(path, text.encode(), RenderError)


def _title(found: "Clusters") -> str:
    many = "1 cluster" if len(found) == 1 else f"{len(found)} clusters"
    maps = f"{bare_name(found.method)} of {model_title(found.model)}"
    return f"{many} of {len(found.ids):,} maps: {maps}"


def _facts(row: dict[str, Any]) -> list[str]:
    """A row of the table as short lines."""
    lines = [f"{row['images']:,} images, {100 * row['share']:.0f} %"]
    for name, words in (("predicted", "predicted"), ("label", "true class")):
        if row[name] is not None:
            lines.append(f"{words} {row[name]}: {100 * row[f'{name}_share']:.0f} %")
    if row["wrong"] is not None:
        wrong, low, high = (100 * row[name] for name in ("wrong", "wrong_low", "wrong_high"))
        lines.append(f"wrong: {wrong:.0f} % [{low:.0f}, {high:.0f}]")
    return lines


def _mean(found: "Clusters", k: int) -> NDArray[np.uint8]:
    """The mean map of a cluster in color."""
    return color(scale(found.means[k : k + 1], "max").values[0])


def _draw_eigenvalues(axes: Axes, found: "Clusters") -> None:
    values = found.eigenvalues.tolist()
    places = range(1, len(values) + 1)
    axes.plot(places, values, "o-", color=INK, markersize=2.6, linewidth=0.6)
    axes.axvline(len(found) + 0.5, color=BAR, linewidth=0.8)
    axes.set_xlim(0.5, len(values) + 0.5)
    axes.locator_params(axis="x", integer=True)
    axes.set_ylim(bottom=min(0, *values))
    axes.tick_params(labelsize=6.5, colors=FAINT, length=2, pad=2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set(color=FAINT, linewidth=0.5)
