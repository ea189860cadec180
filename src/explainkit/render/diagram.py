"""Diagram of a network: layers as blocks, with output shapes and parameter counts."""

from collections.abc import Sequence
from math import log2, prod

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from explainkit.errors import RenderError
from explainkit.render.sheet import FAINT, INK, Page, fit, fit_name, house_style

Row = tuple[str, str, tuple[int, ...], int]
"""A layer's name, kind, output shape without the batch axis, and number of parameters."""

_COLORS = {
    "convolution": "#3f6fb5", "linear": "#7a4fa3", "pooling": "#c77d2e", "dropout": "#c9ccd8",
    "flatten": "#5d6b78",
}  # fmt: skip

_UNIT, _ROW, _PER_LINE = 1.02, 2.55, 9


@house_style()
def architecture_figure(rows: Sequence[Row], title: str) -> Figure:
    """Draws layers as blocks from left to right; height grows with the log of the output's size.

    Layers of the kind "ReLU" without parameters are omitted: they do not change the shape.
    """
    drawn = [row for row in rows if row[1] != "ReLU" or row[3]]
    if not drawn:
        raise RenderError(f"expected layers to draw, got none among {len(rows)}")
    lines = -(-len(drawn) // _PER_LINE)
    per_line = -(-len(drawn) // lines)
    width, height = 0.5 + per_line * _UNIT, 0.55 + lines * _ROW
    width = max(width, 3.0)
    page = Page(width, height)
    page.write_line(0.25, 0.27, title, 10.5, weight="bold", va="center")
    axes = page.box(0, 0, width, height)
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    largest = max(_size(shape) for _, _, shape, _ in drawn) or 1.0
    for number, row in enumerate(drawn):
        line, column = divmod(number, per_line)
        x = 0.25 + (column + 0.5) * _UNIT
        y = height - 0.55 - line * _ROW - 0.95
        _draw_block(axes, x, y, row, largest)
        if number + 1 == len(drawn):
            break
        if column + 1 < per_line:
            axes.annotate(
                "", (x + _UNIT - 0.36, y), (x + 0.36, y),
                arrowprops={"arrowstyle": "-|>", "color": "#b8b8c4", "lw": 0.8},
            )  # fmt: skip
        else:
            between, first = y - 1.5, 0.25 + 0.5 * _UNIT
            axes.plot(
                [x + 0.36, x + 0.46, x + 0.46, first - 0.48, first - 0.48],
                [y, y, between, between, y - _ROW], color="#b8b8c4", lw=0.8,
            )  # fmt: skip
            axes.annotate(
                "", (first - 0.33, y - _ROW), (first - 0.48, y - _ROW),
                arrowprops={"arrowstyle": "-|>", "color": "#b8b8c4", "lw": 0.8,
                            "shrinkA": 0, "shrinkB": 0},
            )  # fmt: skip
    return page.figure


def _size(shape: tuple[int, ...]) -> float:
    return log2(max(prod(shape), 1))


def _draw_block(axes: Axes, x: float, y: float, row: Row, largest: float) -> None:
    name, kind, shape, parameters = row
    color = next((c for word, c in _COLORS.items() if word in kind.lower()), "#5d6b78")
    tall = 0.35 + 1.2 * _size(shape) / largest
    axes.add_patch(
        FancyBboxPatch(
            (x - 0.3, y - tall / 2), 0.6, tall, boxstyle="round,pad=0,rounding_size=0.07",
            facecolor=color, edgecolor="none",
        )
    )  # fmt: skip
    light = "dropout" not in kind.lower()
    axes.text(
        x, y, " × ".join(map(str, shape)), size=7, rotation=90, ha="center", va="center",
        color="white" if light else INK, weight="bold",
    )  # fmt: skip
    words = (
        fit(kind, 1.6, 6.5).replace(", padded", "\npadded").replace(" convolution", "\nconvolution")
    )
    below = words.replace(" max pooling", "\nmax pooling").replace(" 0", "\n0")
    axes.text(x, y - 0.9, below, size=6.5, color=INK, ha="center", va="top", linespacing=1.15)
    if parameters:
        axes.text(x, y - 1.36, f"{parameters:,}", size=6, color=FAINT, ha="center", va="center")
    axes.text(
        x, y + 0.86, fit_name(name, 0.95, 5.5), size=5.5, color=FAINT, ha="center", va="center"
    )
