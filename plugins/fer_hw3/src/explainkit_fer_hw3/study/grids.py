"""Grids of a layer's output channels beside the filters that produced them."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from explainkit.render.heatmap import SEQUENTIAL, Scaling, color, scale, to_pixels
from explainkit.render.sheet import FAINT, INK, Page, house_style
from explainkit_fer_hw3.models import MEAN, STD
from explainkit_fer_hw3.study.activations import Activations

MOST = 128
"""Maximum number of channels shown; of more, those with the largest outputs."""

_COLUMNS, _MAP, _FILTER = 16, 0.62, 0.24
_WIDE, _TALL = _FILTER + _MAP + 0.1, _MAP + 0.2


@house_style()
def activations_figure(found: Activations, image: Tensor, title: str) -> Figure:
    """The image, then each channel: its filter and its output.

    Each output and filter is normalized separately by its maximum, symmetrically about zero if it
    is signed. The number at the right of a channel is the value at full color.
    """
    outputs = found.outputs
    peaks = outputs.abs().amax((1, 2))
    shown = sorted(peaks.argsort(descending=True, stable=True)[:MOST].tolist())
    columns = min(_COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    margin, head = 0.2, 0.55
    left = margin + 1.5 + 0.2
    width, height = left + columns * _WIDE + margin, head + max(rows * _TALL, 1.7) + 0.25
    page = Page(width, height)
    axes = page.box(0, 0, width, height)
    axes.set_axis_off()
    of = f" of {len(outputs)} (largest outputs)" if len(shown) < len(outputs) else ""
    squares = "" if found.signed else ", root mean square over their input channels"
    under = (
        f"{len(shown)} channels{of}; small: kernels of layer {found.filters_of}{squares}; each map "
        "is normalized separately; number: the value at full color"
    )
    page.write_line(margin, 0.18, title, 10, weight="bold")
    page.write_line(margin, 0.38, under, 7, color=FAINT)
    gray = to_pixels(image, (MEAN,), (STD,))[0]
    _show(axes, color(gray, "gray"), margin, head + 0.14, 1.5)
    signed = bool((outputs < 0).any())
    maps = scale(outputs[shown], Scaling("max", sign="signed" if signed else "positive"))
    kernels = scale(found.filters[shown], Scaling("max", sign="signed"))
    for k, channel in enumerate(shown):
        x = left + (k % columns) * _WIDE
        y = head + (k // columns) * _TALL + 0.14
        axes.text(x, y - 0.03, str(channel), size=6.5, color=INK)
        limit = f"{'±' if signed else ''}{maps.limits[k]:.2g}"
        axes.text(x + _FILTER + _MAP, y - 0.03, limit, size=5.5, color=FAINT, ha="right")
        kernel = color(kernels.values[k], *([] if found.signed else ["gray"]))
        _show(axes, kernel, x, y, _FILTER - 0.03)
        rgb = color(maps.values[k], *([] if signed else [SEQUENTIAL]))
        _show(axes, rgb, x + _FILTER, y, _MAP)
    axes.set(xlim=(0, width), ylim=(height, 0))
    return page.figure


def _show(axes: Axes, rgb: NDArray[Any], x: float, y: float, side: float) -> None:
    axes.imshow(rgb, extent=(x, x + side, y + side, y), interpolation="nearest", aspect="auto")
