"""Draws concepts: exemplars with maps and crops, captions, and importance as bars."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from explainkit.catalog.synonyms import model_title
from explainkit.errors import RenderError
from explainkit.render.concept_captions import meaning
from explainkit.render.heatmap import to_pixels
from explainkit.render.sheet import FAINT, INK, WRONG, Page, fit, fit_name, house_style, show
from explainkit.render.shown_image import overlay

if TYPE_CHECKING:
    from explainkit.results.concepts import Concepts
    from explainkit.results.exemplar import Exemplar

FOR, AGAINST = "#b2182b", "#2166ac"
"""Colors of importance above and below zero: those of maps."""

BARS = 5
"""Classes whose importance is drawn."""

EXEMPLARS = 7

SMALL = 96
"""Pixels of an image's shorter side up to which each can be told apart."""

_BOX = "#e8a020"
_THUMB, _GAP, _MARGIN, _SIDE, _LABEL = 0.82, 0.08, 0.25, 2.1, 0.95
_WIDTH = 2 * _MARGIN + EXEMPLARS * (_THUMB + _GAP) + _SIDE + 0.1


@house_style()
def concepts_figure(
    found: "Concepts", names: Sequence[str] | None = None, most: int | None = None
) -> Figure:
    """One block per concept: exemplars under its map, crops, importance; see `Concepts.plot`."""
    if most is not None and most < 1:
        raise RenderError(f"most: expected at least 1, got {most}")
    titles = titles_of(found, names)
    count = min(len(found), most or len(found))
    height, width = found.images.shape[2:]
    tall = _THUMB * min(height / width, 2)
    step = 0.3 + tall + 0.05 + _THUMB + 0.22
    left = f"; the first {count}" if count < len(found) else ""
    about = fit(" ".join(found.notes), _WIDTH - 2 * _MARGIN, 7, 6)
    head = 0.52 + 0.12 * (about.count("\n") + 1)
    page = Page(_WIDTH, head + count * step + 0.28)
    title = f"{len(found)} concepts of layer {found.layer} of {model_title(found.model)}{left}"
    page.write_line(_MARGIN, 0.2, title, 10.5, va="center", weight="bold")
    page.write(_MARGIN, 0.36, about, 7, va="top", color=FAINT)
    limits = _limits(found, count)
    for k in range(count):
        top = head + k * step
        _write_caption(page, found, k, titles[k], top)
        for column, one in enumerate(found.exemplars(k)[:EXEMPLARS]):
            across = _MARGIN + column * (_THUMB + _GAP)
            mixed, crop = exemplar_images(found, one)
            _draw_exemplar(page.box(across, top + 0.3, _THUMB, tall), mixed, one.box)
            show(page.box(across, top + 0.35 + tall, _THUMB, _THUMB), crop, smooth(crop))
        beside = _WIDTH - _MARGIN - _SIDE
        axes = page.box(beside + _LABEL, top + 0.3, _SIDE - _LABEL, tall + _THUMB)
        _draw_importance(axes, found, k, limits)
    note = (
        "Above: exemplars with the concept's weights, most active first; below: crops where it is "
        f"most active. Bars: {meaning(found, 'the score')}; lines: 2 standard errors."
    )
    note = fit(note, _WIDTH - 2 * _MARGIN, 6.5, 2)
    page.write(_MARGIN, page.height - 0.08, note, 6.5, va="bottom", color=FAINT)
    return page.figure


def titles_of(found: "Concepts", names: Sequence[str] | None) -> list[str]:
    """A title for each concept: ``concept 3``, or ``concept 3: mouth`` if they have names.

    Raises:
        RenderError: Another number of names than of concepts.
    """
    if names is None:
        return [f"concept {k}" for k in range(len(found))]
    if isinstance(names, str) or len(names) != len(found):
        raise RenderError(
            f"names: expected one for each of {len(found)} concepts, got {names!r:.80}"
        )
    return [f"concept {k}: {name}" if name else f"concept {k}" for k, name in enumerate(names)]


def exemplar_images(
    found: "Concepts", one: "Exemplar"
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """An exemplar under its map, RGB in [0, 1], and its crop."""
    pixels = to_pixels(one.image, found.mean, found.std)[0]
    top, left, bottom, right = one.box
    return overlay(pixels, one.upsampled), pixels[top:bottom, left:right]


def smooth(image: NDArray[np.float64]) -> bool:
    """Whether an image is large enough that its pixels need not be told apart."""
    return bool(min(image.shape[:2]) > SMALL)


def largest(found: "Concepts", k: int, most: int) -> list[int]:
    """The classes whose scores a concept changes most, from what it raises to what it lowers."""
    values = found.importance[k]
    chosen: list[int] = values.abs().argsort(descending=True, stable=True)[:most].tolist()
    return sorted(chosen, key=lambda c: -float(values[c]))


def _write_caption(page: Page, found: "Concepts", k: int, title: str, top: float) -> None:
    """The concept's name in bold, and beside it how far to trust it; red if it fails."""
    failed = bool(found.failures(k))
    name = fit_name(title, 2.6, 8)
    page.write(_MARGIN, top + 0.2, name, 8, weight="bold")
    rest = found.caption(k).partition(": ")[2]
    beside = _MARGIN + 0.1 + 0.074 * len(name)
    page.write(
        beside, top + 0.2, fit(rest, (_WIDTH - _MARGIN - beside) * 1.1, 6.5), 6.5,
        color=WRONG if failed else FAINT,
    )  # fmt: skip


def _draw_exemplar(axes: Axes, image: NDArray[np.float64], box: tuple[int, int, int, int]) -> None:
    """An exemplar under its map, with the outline of its crop."""
    show(axes, image, smooth(image))
    top, left, bottom, right = box
    axes.add_patch(
        Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, ec=_BOX, lw=1)
    )


def _limits(found: "Concepts", count: int) -> tuple[float, float]:
    """The range of importance over all drawn concepts, so that their bars can be compared."""
    values, errors = found.importance[:count], found.standard_error[:count].nan_to_num(0)
    low = min(float((values - 2 * errors).min()), 0.0)
    high = max(float((values + 2 * errors).max()), 0.0)
    wide = (high - low) or 1.0
    return low - 0.02 * wide, high + 0.02 * wide


def _draw_importance(axes: Axes, found: "Concepts", k: int, limits: tuple[float, float]) -> None:
    """A concept's importance for the classes that it affects most."""
    classes = largest(found, k, BARS)
    values = [float(found.importance[k, c]) for c in classes]
    errors = [2 * float(found.standard_error[k, c]) for c in classes]
    rows = range(len(classes))
    axes.barh(rows, values, height=0.62, color=[FOR if v > 0 else AGAINST for v in values])
    for y, (value, error) in enumerate(zip(values, errors, strict=True)):
        if np.isfinite(error):
            axes.plot([value - error, value + error], [y, y], color=INK, lw=0.9)
    axes.axvline(0, color=FAINT, lw=0.6)
    names = [fit_name(found.class_name(c), _LABEL, 6.5) for c in classes]
    axes.set_yticks(rows, names, size=6.5, color=INK)
    axes.set_ylim(max(BARS, len(classes)) - 0.5, -0.5)
    axes.set_xlim(*limits)
    axes.locator_params(axis="x", nbins=4)
    axes.tick_params(axis="y", length=0, pad=3)
    axes.tick_params(axis="x", length=2, labelsize=6, labelcolor=FAINT, color=FAINT, pad=2)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set(color=FAINT, linewidth=0.5)
