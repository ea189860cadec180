"""Figures of images beside the maps that explain them."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from explainkit.render.figure import overlay, parameters
from explainkit.render.heatmap import Scaling, color, scale, to_pixels
from explainkit.render.sheet import INK, RIGHT, TALL, WRONG, Sheet, house_style, show
from explainkit.results.explanation import Explanation
from explainkit_fer_hw3.study.confusions import Examples

SCALING = Scaling()
"""To percentile 99 of the sizes, signed."""


@house_style()
def confusion_figure(found: Examples) -> Figure:
    """One row per image: image, map for the true class, for the read one, their difference.

    The three maps of a row share one scale; the last column lays the difference over the image.
    """
    one, confusion = found.true, found.confusion
    sheet = Sheet(
        len(one),
        [TALL] * 5,
        f"{confusion.true} read as {confusion.predicted}: {confusion.count} of {confusion.of}",
        f"{_name(one)} of {one.model}; {parameters(one.params) or 'no parameters'}; the maps of a "
        f"row share one scale, {SCALING.title}; ±: what full color stands for",
        "red speaks for a class, blue against it; in the difference red speaks for "
        f"{confusion.predicted} rather than {confusion.true}",
    )
    for row in range(len(one)):
        image = _image(one, row)
        axes = sheet.axes(row, 0)
        show(axes, image)
        sheet.title(axes, 0, f"#{found.indices[row]}: {_sure(found.predicted, row)}", WRONG)
        maps = [one.heatmap()[row], found.predicted.heatmap()[row], found.difference[row]]
        titles = [
            f"for {confusion.true}",
            f"for {confusion.predicted}",
            f"{confusion.predicted} − {confusion.true}",
        ]
        _draw_maps(sheet, row, 1, maps, titles)
        axes = sheet.axes(row, 4)
        show(axes, overlay(image, maps[2], SCALING))
        sheet.title(axes, 4, "difference over image")
    return sheet.figure


@house_style()
def comparison_figure(
    explanations: Sequence[Explanation], models: Sequence[str], labels: Sequence[int]
) -> Figure:
    """The same images explained in several networks, one row per image.

    Of each network: its map, scaled by itself, as units differ, and the map over the image.

    Args:
        explanations: One per network, of the same images.
        models: What the networks are called.
        labels: True class of each image.
    """
    one = explanations[0]
    sheet = Sheet(
        len(one),
        [TALL] * (1 + 2 * len(models)),
        f"{_name(one)} in {' and '.join(models)}",
        f"explained: the class that the network reads; each map scaled by itself {SCALING.title}; "
        "±: what full color stands for",
        "red speaks for the class, blue against it",
    )
    for row in range(len(one)):
        image = _image(one, row)
        axes = sheet.axes(row, 0)
        show(axes, image)
        sheet.title(axes, 0, one.class_names[labels[row]], INK)
        for k, (explanation, model) in enumerate(zip(explanations, models, strict=True)):
            column = 1 + 2 * k
            values = explanation.heatmap()[row]
            read = int(explanation.logits[row].argmax())
            ink = RIGHT if read == labels[row] else WRONG
            _draw_maps(sheet, row, column, [values], [f"{model}: {_sure(explanation, row)}"], ink)
            axes = sheet.axes(row, column + 1)
            show(axes, overlay(image, values, SCALING))
            sheet.title(axes, column + 1, "map over image")
    return sheet.figure


def _draw_maps(
    sheet: Sheet,
    row: int,
    column: int,
    maps: Sequence[Tensor],
    titles: Sequence[str],
    ink: str | None = None,
) -> None:
    """Maps on one scale, side by side; the last title tells what full color stands for."""
    scaled = scale(torch.stack(list(maps)), SCALING, shared=True)
    for k, title in enumerate(titles):
        axes = sheet.axes(row, column + k)
        show(axes, color(scaled.values[k], SCALING.colors))
        text = title if k else f"{title} (±{scaled.limits[0]:.2g})"
        sheet.title(axes, column + k, text, *([ink] if ink else []))


def _image(explanation: Explanation, row: int) -> NDArray[np.float64]:
    return to_pixels(explanation.inputs[row], explanation.mean, explanation.std)[0]


def _name(explanation: Explanation) -> str:
    return explanation.method.rpartition("/")[2]


def _sure(explanation: Explanation, row: int) -> str:
    """What the network reads, and its probability."""
    probabilities = explanation.logits[row].softmax(0)
    best = int(probabilities.argmax())
    return f"{explanation.class_names[best]} {float(probabilities[best]):.2f}"
