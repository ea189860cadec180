"""Grids of a layer's channels: what comes out of them beside the filters that made it."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from explainkit.render.heatmap import SEQUENTIAL, Scaling, color, scale, to_pixels
from explainkit.render.sheet import FAINT, INK, fit, house_style, page
from explainkit_fer_hw3.models import MEAN, STD
from explainkit_fer_hw3.study.activations import Activations

MOST = 128
"""Channels drawn at most: those with the largest outputs where there are more."""

_COLUMNS, _MAP, _FILTER = 16, 0.62, 0.24
_WIDE, _TALL = _FILTER + _MAP + 0.1, _MAP + 0.2


@house_style()
def activations_figure(found: Activations, image: Tensor, title: str) -> Figure:
    """The image, then each channel: its filter, and what comes out of the layer.

    Each output and filter is scaled by itself to its maximum, symmetric about zero where it has a
    sign; the number after a channel's own is what full color stands for in the output.

    Args:
        found: The outputs and the filters.
        image: The image, ``[1, 48, 48]``, normalized.
        title: The headline.
    """
    outputs = found.outputs
    peaks = outputs.abs().amax((1, 2))
    shown = sorted(peaks.argsort(descending=True, stable=True)[:MOST].tolist())
    columns = min(_COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    margin, head = 0.2, 0.55
    left = margin + 1.5 + 0.2
    width, height = left + columns * _WIDE + margin, head + max(rows * _TALL, 1.7) + 0.25
    figure = page(width, height)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    of = f" of {len(outputs)}, those with the largest outputs" if len(shown) < len(outputs) else ""
    squares = "" if found.signed else ", root mean square over their input channels"
    under = (
        f"{len(shown)} channels{of}; small: the kernels of layer {found.filters_of}{squares}; each "
        "map scaled to its own maximum, the number at its right"
    )
    axes.text(margin, 0.18, fit(title, (width - 0.4) / 1.25, 10), size=10, weight="bold", color=INK)
    axes.text(margin, 0.38, fit(under, width - 0.4, 7), size=7, color=FAINT)
    gray = to_pixels(image, (MEAN,), (STD,))[0]
    _place(axes, color(gray, "gray"), margin, head + 0.14, 1.5)
    signed = bool((outputs < 0).any())
    maps = scale(outputs[shown], Scaling("max", sign="signed" if signed else "positive"))
    kernels = scale(found.filters[shown], Scaling("max", sign="signed"))
    for place, channel in enumerate(shown):
        x = left + (place % columns) * _WIDE
        y = head + (place // columns) * _TALL + 0.14
        axes.text(x, y - 0.03, str(channel), size=5.5, color=INK)
        limit = f"{'±' if signed else ''}{maps.limits[place]:.2g}"
        axes.text(x + _FILTER + _MAP, y - 0.03, limit, size=4.5, color=FAINT, ha="right")
        kernel = color(kernels.values[place], *([] if found.signed else ["gray"]))
        _place(axes, kernel, x, y, _FILTER - 0.03)
        rgb = color(maps.values[place], *([] if signed else [SEQUENTIAL]))
        _place(axes, rgb, x + _FILTER, y, _MAP)
    axes.set(xlim=(0, width), ylim=(height, 0))
    return figure


def _place(axes: Axes, rgb: NDArray[Any], x: float, y: float, side: float) -> None:
    axes.imshow(rgb, extent=(x, x + side, y + side, y), interpolation="nearest", aspect="auto")
