"""Figures that compare images: several explanations of them, or any images."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from explainkit.catalog.synonyms import bare_name, model_title
from explainkit.errors import RenderError
from explainkit.render.figure import prediction
from explainkit.render.heatmap import Reduce, Scaling, color, scale
from explainkit.render.legend import joined, legend
from explainkit.render.report.content import Content, gather
from explainkit.render.scorecard import explained, write_verdict
from explainkit.render.sheet import (
    FAINT,
    INK,
    Page,
    Sheet,
    balanced,
    fit,
    fit_image,
    house_style,
    show,
)
from explainkit.render.shown_image import overlay

if TYPE_CHECKING:
    from explainkit.results.explanation import Explanation
    from explainkit.results.scorecard import Scorecard

_CELL, _GAP, _MARGIN = 1.3, 0.16, 0.25
_ACROSS, _BESIDE = 6, 4


@house_style()
def comparison_figure(
    explanations: "Sequence[Explanation]",
    *,
    labels: Sequence[int | None] | None = None,
    scaling: Scaling | str = "percentile",
    reduce: Reduce = "sum",
    cmap: str | None = None,
    alpha: float = 0.85,
    columns: int | None = None,
    cards: "Sequence[Scorecard]" = (),
) -> Figure:
    """The images in a row, and below them one row of maps per explanation.

    More than six images are split into blocks of equal width. A single image has its maps beside
    it instead, at most four in a row; where one of them would be alone in the last row, the image
    is the first panel of the grid. Each map is normalized separately, because units differ
    between methods; its title gives the value at full color.

    Args:
        explanations: Of the same images.
        labels: True class of each image; None or −1 where it is unknown.
        scaling: How values become colors.
        reduce: How channels are reduced to one.
        cmap: Name of a matplotlib color map; None: red and blue for signed values.
        alpha: Opacity of the strongest values over the image.
        columns: Images side by side; of a single image, its maps side by side.
        cards: The scorecards of the explanations, whose verdicts stand below their maps; or none.

    Raises:
        RenderError: Explanations of different images or classes, labels that do not fit, an
            unknown scaling or color map, an opacity outside [0, 1], or no columns.
    """
    if columns is not None and columns < 1:
        raise RenderError(f"columns: expected at least 1, got {columns}")
    content = gather(explanations, labels, None, reduce)
    rule = Scaling.parse(scaling)
    smooth = content.explanations[0].geometries is not None
    sizes = [fit_image(one.size) for one in content.shown]
    cells = _cells(len(content.shown), len(explanations), columns)
    rows, across = (max(cell[axis] for cell in cells.values()) + 1 for axis in (0, 1))
    sheet = Sheet(
        rows,
        [max(1.4, *(width for width, _ in sizes))] * across,
        headline(explanations),
        f"Each map is normalized separately ({rule.limit}); ± is the value at full color.",
        joined(
            [
                *[legend(explanations, cmap)] * (rule.sign == "signed"),
                *content.notes,
                *explained(cards),
            ]
        ),
    )
    scaled = [scale(torch.from_numpy(maps), rule) for maps in content.maps]
    for (i, m), (row, column) in cells.items():
        axes = sheet.axes(row, column, *sizes[i])
        if m is None:
            show(axes, content.shown[i].pixels, smooth)
            sheet.title(axes, column, *prediction_title(content, i))
            continue
        values = torch.from_numpy(content.maps[m][i])
        show(axes, overlay(content.under[m][i], values, rule, cmap=cmap, alpha=alpha), smooth)
        title = map_title(content, explanations[m], i, scaled[m].limits[i])
        sheet.title(axes, column, title)
        if cards:
            size = sheet.widths[column], sizes[i][1]
            write_verdict(sheet, row, column, size, cards[m].verdict[i])
    return sheet.figure


def _cells(
    images: int, maps: int, columns: int | None
) -> dict[tuple[int, int | None], tuple[int, int]]:
    """Row and column of every image (None) and of its maps."""
    cells: dict[tuple[int, int | None], tuple[int, int]] = {}
    if images == 1:
        across = columns or balanced(maps, _BESIDE)
        cells[0, None] = 0, 0
        one_is_alone = maps > across and maps % across == 1
        for m in range(maps):
            row, column = divmod(m + one_is_alone, across)
            cells[0, m] = row, column + (not one_is_alone)
        return cells
    across = columns or balanced(images, _ACROSS)
    for i in range(images):
        block, column = divmod(i, across)
        first = block * (maps + 1)
        cells[i, None] = first, column
        for m in range(maps):
            cells[i, m] = first + 1 + m, column
    return cells


def headline(explanations: "Sequence[Explanation]", place: str = "") -> str:
    """The methods, or how many they are, what is said of their place, and their models."""
    methods = list(dict.fromkeys(bare_name(one.method) for one in explanations))
    models = list(dict.fromkeys(model_title(one.model) for one in explanations))
    what = methods[0] if len(methods) == 1 else f"{len(methods)} methods"
    return f"{what}{place} of {' and '.join(models)}"


def map_title(content: Content, one: "Explanation", row: int, limit: float) -> str:
    """What distinguishes a map from the others, and its value at full color."""
    explanations = content.explanations
    words = [bare_name(one.method)] if len({other.method for other in explanations}) > 1 else []
    if len({other.model for other in explanations}) > 1:
        words.append(bare_name(one.model))
    if place := content.place(one):
        words.append(place.strip())
    if len({other.target_name(row) for other in explanations}) > 1 or not words:
        words.append(f"for {one.target_name(row)}")
    return ", ".join(words) + ", " + (f"±{limit:.2g}" if limit else "zero everywhere")


def prediction_title(content: Content, row: int) -> tuple[str, str]:
    """The title of an image or volume, and its color."""
    label = content.labels[row]
    if content.readings[0].confidence[row] is None:
        return content.names[row], INK
    title, ink = prediction(
        content.predicted(row),
        None if label is None else content.class_name(label),
        bool(content.correct(row)),
    )
    one = content.explanations[0]
    of_predicted = one.expression is None and int(one.target[row]) in one.predicted_classes(row)
    if not of_predicted and len({other.target_name(row) for other in content.explanations}) == 1:
        title += f", explained: {one.target_name(row)}"
    return title, ink


@house_style()
def images_figure(
    images: Sequence[NDArray[np.float64]],
    titles: Sequence[str] = (),
    *,
    columns: int = 7,
    title: str = "",
    subtitle: str = "",
) -> Figure:
    """Images in rows, with titles.

    Args:
        images: Each gray ``[height, width]`` or RGB ``[height, width, 3]`` in [0, 1].
        titles: One per image, or none.
        columns: Images per row.
        title: The headline.
        subtitle: The line below it.

    Raises:
        RenderError: No images, or titles that are not one per image.
    """
    if not len(images) or (titles and len(titles) != len(images)):
        raise RenderError(
            f"expected images and a title for each, got {len(images)} and {len(titles)}"
        )
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    head = 0.15 + (0.28 if title else 0) + (0.2 if subtitle else 0)
    step = _CELL * max(one.shape[0] / one.shape[1] for one in images)
    step += 0.3 if titles else _GAP
    page = Page(columns * (_CELL + _GAP) - _GAP + 2 * _MARGIN, head + rows * step + 0.15)
    page.write_line(_MARGIN, 0.25, title, 10.5, va="center", weight="bold")
    page.write_line(_MARGIN, 0.48, subtitle, 7.5, va="center", color=FAINT)
    for i, one in enumerate(images):
        row, column = divmod(i, columns)
        high = _CELL * one.shape[0] / one.shape[1]
        left = _MARGIN + column * (_CELL + _GAP)
        top = head + row * step + (0.2 if titles else 0)
        axes = page.box(left, top, _CELL, high)
        show(axes, one)
        if titles:
            axes.set_title(fit(titles[i], _CELL, 7), size=7, color=INK, loc="left", pad=3)
    return page.figure


def colored(maps: Tensor, scaling: Scaling | str = "percentile") -> list[NDArray[np.float64]]:
    """Maps ``[n, height, width]`` as RGB images in [0, 1], each normalized separately."""
    rule = Scaling.parse(scaling)
    return [color(values, rule.colors) / 255 for values in scale(maps, rule).values]
