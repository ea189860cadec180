"""Figures that hold images against each other: several explanations, or any images."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from explainkit.errors import RenderError
from explainkit.render.figure import overlay
from explainkit.render.heatmap import Reduce, Scaling, color, scale
from explainkit.render.report.content import Content, gather
from explainkit.render.sheet import FAINT, INK, RIGHT, WRONG, Sheet, fit, house_style, page, show

if TYPE_CHECKING:
    from explainkit.results.explanation import Explanation

_CELL, _GAP, _MARGIN = 1.3, 0.16, 0.25
_ACROSS, _BESIDE = 6, 4


@house_style()
def comparison_figure(
    explanations: "Sequence[Explanation]",
    *,
    labels: Sequence[int | None] | None = None,
    scaling: Scaling | str = "percentile",
    reduce: Reduce = "sum",
) -> Figure:
    """The images in a row, and under them one row of maps per explanation.

    After six images the next block begins. A single image has its maps beside it instead,
    four in a row. Every map is scaled by itself, as units differ; its title says what full color
    stands for.

    Args:
        explanations: Of the same images.
        labels: True class of each image; None or −1 where it isn't known.
        scaling: How values become colors.
        reduce: How channels become one.

    Raises:
        RenderError: Explanations of different images or classes, or labels that don't fit.
    """
    content = gather(explanations, labels, None, reduce)
    rule = Scaling.parse(scaling)
    height, width = content.maps[0].shape[1:]
    inch = min(1.55 / height, 2.4 / width)
    size = width * inch, height * inch
    methods = list(dict.fromkeys(_short(one.method) for one in explanations))
    models = list(dict.fromkeys(one.model for one in explanations))
    title = f"{methods[0] if len(methods) == 1 else f'{len(methods)} methods'} of "
    places = _places(len(content.images), len(explanations))
    rows, columns = (max(place[axis] for place in places.values()) + 1 for axis in (0, 1))
    sheet = Sheet(
        rows,
        [max(size[0], 1.4)] * columns,
        title + " and ".join(models),
        f"each map scaled by itself {rule.title}; ±: what full color stands for",
        "red speaks for the explained class, blue against it" if rule.sign == "signed" else "",
    )
    scaled = [scale(torch.from_numpy(maps), rule) for maps in content.maps]
    for (i, m), (row, column) in places.items():
        axes = sheet.axes(row, column, *size)
        image = content.images[i] / 255
        if m is None:
            show(axes, image)
            sheet.title(axes, column, *_verdict(content, i))
            continue
        show(axes, overlay(image, torch.from_numpy(content.maps[m][i]), rule))
        title = _title(explanations, explanations[m], i, scaled[m].limits[i])
        sheet.title(axes, column, title)
    return sheet.figure


def _places(images: int, maps: int) -> dict[tuple[int, int | None], tuple[int, int]]:
    """Row and column of every image (None) and of its maps."""
    places: dict[tuple[int, int | None], tuple[int, int]] = {}
    if images == 1:
        columns = min(maps, _BESIDE)
        for m in range(maps):
            places[0, m] = m // columns, m % columns + 1
        return places | {(0, None): (0, 0)}
    for i in range(images):
        block, column = divmod(i, _ACROSS)
        first = block * (maps + 1)
        places[i, None] = first, column
        for m in range(maps):
            places[i, m] = first + 1 + m, column
    return places


def _short(name: str) -> str:
    return name.rpartition("/")[2].rpartition(".")[2]


def _title(
    explanations: "Sequence[Explanation]", one: "Explanation", row: int, limit: float
) -> str:
    """What tells a map from the others, and its scale."""
    words = [_short(one.method)] if len({other.method for other in explanations}) > 1 else []
    if len({other.model for other in explanations}) > 1:
        words.append(_short(one.model))
    if len({other.target_name(row) for other in explanations}) > 1 or not words:
        words.append(f"for {one.target_name(row)}")
    return ", ".join(words) + ", " + (f"±{limit:.2g}" if limit else "zero everywhere")


def _verdict(content: Content, row: int) -> tuple[str, str]:
    """What an image was read as, and the ink that says whether it is right."""
    reading, label = content.readings[0], content.labels[row]
    if reading.confidence[row] is None:
        return content.names[row], INK
    seen = content.class_name(reading.read[row])
    if label is None:
        return f"read as {seen}", INK
    if label == reading.read[row]:
        return f"{seen}, read rightly", RIGHT
    return f"{content.class_name(label)}, read as {seen}", WRONG


@house_style()
def images_figure(
    images: Sequence[NDArray[np.float64]],
    titles: Sequence[str] = (),
    *,
    columns: int = 7,
    title: str = "",
    subtitle: str = "",
) -> Figure:
    """Images in rows under their titles.

    Args:
        images: Each gray ``[height, width]`` or RGB ``[height, width, 3]`` in [0, 1].
        titles: One for each, or none.
        columns: How many stand in a row.
        title: The headline.
        subtitle: Under it.

    Raises:
        RenderError: No images, or titles that aren't one for each.
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
    width = columns * (_CELL + _GAP) - _GAP + 2 * _MARGIN
    height = head + rows * step + 0.15
    figure = page(width, height)

    def write(top: float, text: str, size: float, **how: Any) -> None:
        figure.text(_MARGIN / width, 1 - top / height, text, size=size, va="center", **how)

    write(0.25, fit(title, (width - 0.5) / 1.25, 10.5), 10.5, weight="bold", color=INK)
    write(0.48, fit(subtitle, width - 0.5, 7.5), 7.5, color=FAINT)
    for i, one in enumerate(images):
        row, column = divmod(i, columns)
        high = _CELL * one.shape[0] / one.shape[1]
        left = _MARGIN + column * (_CELL + _GAP)
        top = head + row * step + (0.2 if titles else 0)
        axes = figure.add_axes(
            (left / width, 1 - (top + high) / height, _CELL / width, high / height)
        )
        show(axes, one)
        if titles:
            axes.set_title(fit(titles[i], _CELL, 7), size=7, color=INK, loc="left", pad=3)
    return figure


def colored(maps: Tensor, scaling: Scaling | str = "percentile") -> list[NDArray[np.float64]]:
    """Maps ``[n, height, width]`` as RGB images in [0, 1], each scaled by itself."""
    rule = Scaling.parse(scaling)
    return [color(values, rule.colors) / 255 for values in scale(maps, rule).values]
