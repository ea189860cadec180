"""Figures of volumes and clips: maps over a row of slices, and where these cut the volume."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from explainkit.catalog.synonyms import bare_name
from explainkit.errors import RenderError
from explainkit.render.compare import headline, map_title, prediction_title
from explainkit.render.heatmap import Reduce, Scaling, scale
from explainkit.render.legend import joined, legend
from explainkit.render.report.content import gather
from explainkit.render.sheet import BAR, FAINT, INK, TALL, Sheet, fit_image, house_style, show
from explainkit.render.shown_image import OPACITY, ShownImage, check_opacity
from explainkit.render.slices import Slices, chosen, profile

if TYPE_CHECKING:
    from explainkit.results.explanation import Explanation

_SIDE = 1.9
"""Width in inches of the column that shows where the slices are."""

_CUT = "#e09f00"

_LEFT = (
    "Left: the volume from the side, its mean over the width, with the slices shown; below, the "
    "share of each slice in Σ|a|"
)


@house_style()
def volume_figure(
    explanations: "Sequence[Explanation]",
    *,
    slices: Slices = "even",
    labels: Sequence[int | None] | None = None,
    scaling: Scaling | str = "percentile",
    reduce: Reduce = "sum",
    cmap: str | None = None,
    alpha: float = OPACITY,
) -> Figure:
    """Slices of each volume in a row, and below them one row of maps per explanation.

    All slices of a map have one scale. The first column shows where they are: on the volume seen
    from the side (its mean over the width), and on the share of every slice in Σ|a|. Arguments
    are those of `Explanations.plot`.

    Raises:
        RenderError: Explanations of different volumes or classes, labels that do not fit, no such
            slice, an unknown scaling or color map, or an opacity outside [0, 1].
    """
    check_opacity(alpha)
    content = gather(explanations, labels, None, reduce)
    rule = Scaling.parse(scaling)
    depth = explanations[0].inputs.shape[2]
    shares = [profile(maps, depth) for maps in content.maps]
    scaled = [scale(torch.from_numpy(maps), rule) for maps in content.maps]
    cuts = [chosen(slices, np.mean(rows, 0)) for rows in zip(*shares, strict=True)]
    wide, tall = fit_image(content.shown[0].size)
    layers = {one.layer for one in explanations}
    layer = layers.pop() if len(layers) == 1 else None
    sheet = Sheet(
        len(cuts) * (1 + len(explanations)),
        [_SIDE, *[max(1.0, wide)] * max(map(len, cuts))],
        headline(explanations, f" at {layer}" if layer else ""),
        f"Each map has one scale for all slices ({rule.limit}); ± is the value at full color.",
        joined([*[legend(explanations, cmap)] * (rule.sign == "signed"), *content.notes, _LEFT]),
    )
    for i, shown in enumerate(cuts):
        row = i * (1 + len(explanations))
        axes = _draw_side(sheet, row, content.shown[i * depth : (i + 1) * depth], shown)
        sheet.title(axes, 0, *prediction_title(content, i))
        for column, index in enumerate(shown, 1):
            axes = sheet.axes(row, column, wide, tall)
            show(axes, content.shown[i * depth + index].pixels)
            sheet.title(axes, column, f"slice {index}")
        for m, one in enumerate(explanations):
            axes = _draw_profile(sheet, row + 1 + m, shares[m][i], shown)
            sheet.title(axes, 0, map_title(content, one, i, scaled[m].limits[i]))
            strength = scaled[m].values[i].reshape(depth, *content.shown[0].size)
            for column, index in enumerate(shown, 1):
                axes = sheet.axes(row + 1 + m, column, wide, tall)
                image = content.shown[i * depth + index]
                colors = cmap or rule.colors
                show(axes, image.overlaid(strength[index], colors, rule.sign == "signed", alpha))
                sheet.title(axes, column, f"{100 * shares[m][i][index]:.3g}% of Σ|a|")
    return sheet.figure


def draw_strongest(
    explanation: "Explanation",
    axes: Axes,
    *,
    scaling: Scaling | str = "percentile",
    reduce: Reduce = "sum",
    cmap: str | None = None,
    alpha: float = OPACITY,
) -> Figure:
    """Draws the map over the slice with the largest Σ|a| into axes; of one volume.

    Raises:
        RenderError: As in `volume_figure`, or several volumes.
    """
    check_opacity(alpha)
    if len(explanation) != 1:
        raise RenderError(
            f"ax: expected one volume, got {len(explanation)}: plot explanation[i] instead"
        )
    content, rule = gather([explanation], None, None, reduce), Scaling.parse(scaling)
    depth = explanation.inputs.shape[2]
    index = int(profile(content.maps[0], depth)[0].argmax())
    scaled = scale(torch.from_numpy(content.maps[0]), rule)
    image = content.shown[index]
    strength = scaled.values[0].reshape(depth, *image.size)[index]
    show(axes, image.overlaid(strength, cmap or rule.colors, rule.sign == "signed", alpha))
    limit = f"±{scaled.limits[0]:.2g}" if scaled.limits[0] else "zero everywhere"
    title = f"{bare_name(explanation.method)}, slice {index} of {depth}, {limit}"
    axes.set_title(title, size=8, color=INK, loc="left")
    return axes.figure.figure  # of a subfigure, too


def _draw_side(sheet: Sheet, row: int, slices: Sequence[ShownImage], shown: Sequence[int]) -> Axes:
    """A volume from the side, and where it is cut."""
    side = np.stack([one.pixels.mean(1) for one in slices], 1)
    axes = sheet.axes(row, 0, _SIDE - 0.15)
    extent = (-0.5, len(slices) - 0.5, len(side) - 0.5, -0.5)
    axes.imshow(side, cmap="gray", vmin=0, vmax=1, aspect="auto", extent=extent)
    for index in shown:
        axes.axvline(index, color=_CUT, linewidth=0.9)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=True, color=FAINT, linewidth=0.25)
    return axes


def _draw_profile(
    sheet: Sheet, row: int, shares: NDArray[np.float64], shown: Sequence[int]
) -> Axes:
    """The share of each slice in a map, as bars; those of the slices shown are darker."""
    axes = sheet.axes(row, 0, _SIDE - 0.15, TALL - 0.12)
    depth = len(shares)
    colors = [_CUT if index in shown else BAR for index in range(depth)]
    axes.bar(range(depth), shares, width=1.0 if depth > 40 else 0.8, color=colors)
    axes.set(xlim=(-0.5, depth - 0.5), ylim=(0, float(shares.max()) * 1.05 or 1.0), yticks=[])
    axes.set_xticks([shown[0], shown[-1]] if len(shown) > 1 else shown)
    axes.tick_params(labelsize=6, length=2, width=0.5, color=FAINT, labelcolor=FAINT, pad=2)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set(linewidth=0.4, edgecolor=FAINT)
    return axes
