"""Figures of images beside their attribution maps."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from explainkit.render.heatmap import Scaling, color, scale, to_pixels
from explainkit.render.legend import joined, legend
from explainkit.render.sheet import INK, RIGHT, TALL, WRONG, Sheet, house_style, show
from explainkit.render.shown_image import overlay
from explainkit.results.explanation import Explanation
from explainkit_fer_hw3.study.confusions import Examples

SCALING = Scaling()
"""By the 99th percentile of the absolute values, signed."""


@house_style()
def confusion_figure(found: Examples, beside: Examples | None = None, reason: str = "") -> Figure:
    """One row per image: image, maps for the true and for the predicted class, their difference.

    The three maps of a row share one scale; the last column overlays the difference on the image.

    Args:
        found: The images, explained by one method.
        beside: The same, explained by another, whose difference stands in a column of its own.
        reason: Why that method was chosen, in one line.
    """
    one, confusion = found.true, found.confusion
    sheet = Sheet(
        len(one),
        [TALL] * (6 if beside else 5),
        f"{confusion.true} predicted as {confusion.predicted}: {confusion.count} of {confusion.of}",
        f"{_name(one)} of {one.model}. The three maps of a row share one scale ({SCALING.limit}); "
        "± is the value at full color.",
        f"{legend([one])}; difference: red favors {confusion.predicted} over {confusion.true}"
        + (f"; {reason}" if reason else ""),
    )
    for row in range(len(one)):
        image = _image(one, row)
        axes = sheet.axes(row, 0)
        show(axes, image)
        sheet.title(axes, 0, f"#{found.indices[row]}: {_prediction(found.predicted, row)}", WRONG)
        maps = [one.heatmap()[row], found.predicted.heatmap()[row], found.difference[row]]
        titles = [
            f"for {confusion.true}",
            f"for {confusion.predicted}",
            f"{confusion.predicted} − {confusion.true}",
        ]
        _draw_maps(sheet, row, 1, maps, titles)
        axes = sheet.axes(row, 4)
        show(axes, overlay(image, maps[2], SCALING))
        sheet.title(axes, 4, "difference overlaid")
        if beside:
            axes = sheet.axes(row, 5)
            show(axes, overlay(image, beside.difference[row], SCALING))
            sheet.title(axes, 5, f"the same by {_name(beside.true)}")
    return sheet.figure


@house_style()
def comparison_figure(
    explanations: Sequence[Explanation],
    models: Sequence[str],
    labels: Sequence[int],
    reasons: Sequence[str] = (),
) -> Figure:
    """The same images explained in several networks, one row per image.

    One column per explanation: its map, normalized separately and overlaid on the image.

    Args:
        explanations: Of the same images, by one method or several.
        models: The network of each.
        labels: True class of each image.
        reasons: Why methods were chosen, in one line each.
    """
    one = explanations[0]
    methods = list(dict.fromkeys(map(_name, explanations)))
    sheet = Sheet(
        len(one),
        [TALL] * (1 + len(models)),
        f"{', '.join(methods)} in {' and '.join(dict.fromkeys(models))}",
        "Each map explains the network's prediction and is normalized separately "
        f"({SCALING.limit}); ± is the value at full color.",
        joined([legend(explanations), *reasons]),
    )
    for row in range(len(one)):
        image = _image(one, row)
        axes = sheet.axes(row, 0)
        show(axes, image)
        sheet.title(axes, 0, one.class_names[labels[row]], INK)
        for column, (explanation, model) in enumerate(zip(explanations, models, strict=True), 1):
            values = explanation.heatmap()[row]
            limit = scale(values[None], SCALING).limits[0]
            correct = int(explanation.logits[row].argmax()) == labels[row]
            axes = sheet.axes(row, column)
            show(axes, overlay(image, values, SCALING))
            named = f"{model}, {_name(explanation)}" if len(methods) > 1 else model
            title = f"{named}: {_prediction(explanation, row)} (±{limit:.2g})"
            sheet.title(axes, column, title, RIGHT if correct else WRONG)
    return sheet.figure


def _draw_maps(
    sheet: Sheet, row: int, column: int, maps: Sequence[Tensor], titles: Sequence[str]
) -> None:
    """Draws maps on one scale, side by side; the first title has the value at full color."""
    scaled = scale(torch.stack(list(maps)), SCALING, shared=True)
    for k, title in enumerate(titles):
        axes = sheet.axes(row, column + k)
        show(axes, color(scaled.values[k], SCALING.colors))
        text = title if k else f"{title} (±{scaled.limits[0]:.2g})"
        sheet.title(axes, column + k, text)


def _image(explanation: Explanation, row: int) -> NDArray[np.float64]:
    return to_pixels(explanation.inputs[row], explanation.mean, explanation.std)[0]


def _name(explanation: Explanation) -> str:
    return explanation.method.rpartition("/")[2]


def _prediction(explanation: Explanation, row: int) -> str:
    """The predicted class and its probability."""
    probabilities = explanation.logits[row].softmax(0)
    best = int(probabilities.argmax())
    return f"{explanation.class_names[best]} {float(probabilities[best]):.2f}"
