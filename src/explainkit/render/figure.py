"""Figures of explanations, drawn without touching matplotlib's global state."""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from explainkit.errors import RenderError
from explainkit.render.heatmap import SEQUENTIAL, Scaling, colour, masked, picture, scale
from explainkit.storage import write_atomically
from explainkit.types import Explanation, Reduce

INK, FAINT, RIGHT, WRONG, BAR = "#1c1c28", "#6b6b7b", "#1b7f4b", "#b3261e", "#c9ccd8"

TALL = 1.55
"""Height of a picture in inches."""

_GAP, _MARGIN, _HEAD, _FOOT = 0.28, 0.25, 0.62, 0.22
_BARS, _LABELS, _SCALE = 1.75, 0.62, 0.55


class _Sheet:
    """A figure of rows and columns, placed in inches, so that everything lines up."""

    def __init__(self, rows: int, widths: Sequence[float]) -> None:
        self.widths = widths
        self.step = TALL + 0.42
        self.width = sum(widths) + _GAP * (len(widths) - 1) + 2 * _MARGIN
        self.height = _HEAD + rows * self.step + _FOOT
        self.figure = Figure(figsize=(self.width, self.height), dpi=150, facecolor="white")
        FigureCanvasAgg(self.figure)

    def axes(self, row: int, column: int, width: float | None = None, shift: float = 0) -> Axes:
        """Axes in a cell, as wide as its column or as said."""
        left = _MARGIN + sum(self.widths[:column]) + _GAP * column + shift
        top = _HEAD + row * self.step + 0.26
        wide = self.widths[column] if width is None else width
        return self.figure.add_axes(
            (
                left / self.width,
                1 - (top + TALL) / self.height,
                wide / self.width,
                TALL / self.height,
            )
        )

    def heading(self, title: str, subtitle: str) -> None:
        """Two lines at the top left."""
        x = _MARGIN / self.width
        self.figure.text(
            x,
            1 - 0.2 / self.height,
            _plain(title),
            size=10.5,
            weight="bold",
            color=INK,
            va="center",
        )
        self.figure.text(
            x, 1 - 0.42 / self.height, _plain(subtitle), size=7.5, color=FAINT, va="center"
        )

    def note(self, text: str) -> None:
        """A line at the bottom left."""
        self.figure.text(
            _MARGIN / self.width, 0.1 / self.height, _plain(text), size=6.5, color=FAINT
        )


def _plain(text: str) -> str:
    """Text on one line that matplotlib doesn't read as mathematics."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    return printable.replace("$", r"\$")


def study_figure(
    explanation: Explanation,
    *,
    labels: Sequence[int | None] | None = None,
    scalings: Sequence[Scaling | str] = ("max", "percentile:97"),
    reduce: Reduce = "sum",
    keep: float = 0.2,
) -> Figure:
    """One row per picture: picture, probabilities, the map under each scaling, what matters most.

    Args:
        explanation: What to draw.
        labels: True class of each picture, None where it isn't known.
        scalings: How values become colours, one heatmap each; the colour bars carry true values.
        reduce: How channels become one.
        keep: Share of the pixels that stay bright in the last column: those of the largest |a|.

    Raises:
        RenderError: A scaling that doesn't exist.
    """
    rules = [Scaling.parse(text) for text in scalings]
    wide = _width(explanation)
    sheet = _Sheet(len(explanation), [wide, _BARS, *[wide + _SCALE] * len(rules), wide])
    sheet.heading(*_headline(explanation))
    maps = explanation.heatmap(reduce)
    notes: list[str] = []
    for row in range(len(explanation)):
        image = _draw_picture(sheet.axes(row, 0), explanation, row, labels, notes)
        _draw_bars(sheet.axes(row, 1, _BARS - _LABELS, shift=_LABELS), explanation, row, labels)
        for column, rule in enumerate(rules, 2):
            _draw_map(sheet, row, column, wide, maps[row], rule, notes)
        axes = sheet.axes(row, len(rules) + 2)
        _show(axes, masked(image, maps[row].abs(), keep))
        _title(axes, f"most relevant {keep:.0%} of pixels")
    sheet.note("; ".join(dict.fromkeys(notes)))
    return sheet.figure


def plot(
    explanation: Explanation, *, scaling: Scaling | str = "percentile", reduce: Reduce = "sum"
) -> Figure:
    """One row per picture: picture, probabilities, heatmap, and the heatmap over the picture.

    Args:
        explanation: What to draw.
        scaling: How values become colours; the colour bar carries true values.
        reduce: How channels become one.

    Raises:
        RenderError: A scaling that doesn't exist.
    """
    rule = Scaling.parse(scaling)
    wide = _width(explanation)
    sheet = _Sheet(len(explanation), [wide, _BARS, wide + _SCALE, wide])
    sheet.heading(*_headline(explanation))
    maps = explanation.heatmap(reduce)
    notes: list[str] = []
    for row in range(len(explanation)):
        image = _draw_picture(sheet.axes(row, 0), explanation, row, None, notes)
        _draw_bars(sheet.axes(row, 1, _BARS - _LABELS, shift=_LABELS), explanation, row, None)
        _draw_map(sheet, row, 2, wide, maps[row], rule, notes)
        axes = sheet.axes(row, 3)
        _show(axes, overlay(image, maps[row], rule))
        _title(axes, "map over picture")
    sheet.note("; ".join(dict.fromkeys(notes)))
    return sheet.figure


def overlay(
    image: NDArray[np.float64], values: torch.Tensor, scaling: Scaling | str = "percentile"
) -> NDArray[np.float64]:
    """A map over its grey picture: the stronger the value, the more its colour covers.

    Args:
        image: ``[height, width]`` or ``[height, width, 3]`` in [0, 1].
        values: ``[height, width]`` in the method's own unit.
        scaling: How values become colours.

    Returns:
        RGB ``[height, width, 3]`` in [0, 1].
    """
    rule = Scaling.parse(scaling)
    strength = scale(values[None], rule).values[0]
    grey = (image.mean(-1) if image.ndim == 3 else image)[..., None]
    opacity = 0.85 * np.abs(strength)[..., None] ** 0.7
    mixed: NDArray[np.float64] = (1 - opacity) * grey + opacity * colour(
        strength, rule.colours
    ) / 255
    return mixed


def _width(explanation: Explanation) -> float:
    height, width = explanation.inputs.shape[-2:]
    return float(np.clip(TALL * width / height, 0.8, 2.4))


def _headline(explanation: Explanation) -> tuple[str, str]:
    method = explanation.method.rpartition("/")[2]
    params = ", ".join(f"{key}={_short(value)}" for key, value in explanation.params.items())
    layer = f" at {explanation.layer}" if explanation.layer else ""
    return f"{method}{layer} of {explanation.model}", params or "no parameters"


def _short(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"tensor {list(value.shape)}"
    if isinstance(value, dict) and "method" in value:
        return str(value["method"]).rpartition("/")[2]
    return str(value)


def _title(axes: Axes, text: str, ink: str = FAINT) -> None:
    axes.set_title(_plain(text), size=7, color=ink, loc="left", pad=4)


def _show(axes: Axes, image: NDArray[Any]) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest", aspect="equal")
    axes.set_axis_off()


def _draw_picture(
    axes: Axes,
    explanation: Explanation,
    row: int,
    labels: Sequence[int | None] | None,
    notes: list[str],
) -> NDArray[np.float64]:
    image, note = picture(explanation.inputs[row], explanation.mean, explanation.std)
    if note:
        notes.append(note)
    _show(axes, image)
    label = labels[row] if labels is not None else None
    read = int(explanation.logits[row].argmax())
    if label is None:
        _title(axes, f"read as {_name(explanation, read)}", INK)
    elif label == read:
        _title(axes, f"{_name(explanation, label)}, read rightly", RIGHT)
    else:
        _title(axes, f"{_name(explanation, label)}, read as {_name(explanation, read)}", WRONG)
    return image


def _name(explanation: Explanation, label: int, most: int = 16) -> str:
    name = explanation.class_names[label] if explanation.class_names else f"class {label}"
    return name if len(name) <= most else name[: most - 1] + "…"


def _draw_bars(
    axes: Axes, explanation: Explanation, row: int, labels: Sequence[int | None] | None
) -> None:
    """Softmax probabilities of the likeliest classes, in the order of the classes."""
    logits = explanation.logits[row].double()
    if len(logits) == 1:
        axes.set_axis_off()
        axes.text(0, 0.5, f"score {float(explanation.score[row]):.3g}", size=8, color=INK)
        return
    probabilities = logits.softmax(0)
    shown = sorted(probabilities.topk(min(7, len(logits))).indices.tolist())
    values = [float(probabilities[i]) for i in shown]
    target = int(explanation.target[row])
    axes.barh(
        range(len(shown)),
        values,
        height=0.62,
        color=[INK if i == target else BAR for i in shown],
    )
    for place, value in enumerate(values):
        axes.text(value + 0.03, place, f"{value:.2f}", size=6, color=FAINT, va="center")
    axes.set_yticks(range(len(shown)), [_plain(_name(explanation, i, 12)) for i in shown])
    for tick, i in zip(axes.get_yticklabels(), shown, strict=True):
        known = labels is not None and labels[row] == i
        tick.set(
            size=6.5, color=RIGHT if known else INK, weight="bold" if i == target else "normal"
        )
    axes.set(xlim=(0, 1.22), ylim=(len(shown) - 0.4, -0.6), xticks=[])
    axes.tick_params(length=0, pad=3)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color(BAR)
    axes.set_title("probabilities", size=7, color=FAINT, loc="right", pad=4)


def _draw_map(
    sheet: _Sheet,
    row: int,
    column: int,
    wide: float,
    values: torch.Tensor,
    rule: Scaling,
    notes: list[str],
) -> None:
    scaled = scale(values[None], rule)
    axes = sheet.axes(row, column, wide)
    _show(axes, colour(scaled.values[0], rule.colours))
    _title(axes, f"map, scaled {rule.title}")
    if scaled.notes[0]:
        notes.append(f"the map of row {row + 1} is {scaled.notes[0]}")
    limit = float(scaled.limits[0])
    bar = sheet.axes(row, column, 0.09, shift=wide + 0.08)
    low = 0.0 if rule.colours == SEQUENTIAL else -limit
    sheet.figure.colorbar(
        ScalarMappable(Normalize(low, limit or 1.0), rule.colours),
        cax=bar,
        ticks=sorted({low, 0.0, limit}),
    )
    bar.set_yticklabels([f"{tick:.2g}" for tick in sorted({low, 0.0, limit})])
    bar.tick_params(labelsize=6, length=2, width=0.5, colors=FAINT, pad=2)
    bar.spines["outline"].set(linewidth=0.4, edgecolor=FAINT)


def matrix_figure(
    counts: NDArray[np.int64], class_names: Sequence[str], title: str = "confusion matrix"
) -> Figure:
    """A confusion matrix: each row's shares as colour and per cent, its counts in small print.

    Args:
        counts: ``[true, predicted]``.
        class_names: In the order of both axes.
        title: What it is.
    """
    n = len(class_names)
    side = max(0.62 * n, 2.4)
    left, bottom, top, right = 0.95, 0.35, 0.85, 0.3
    width, height = left + side + right, bottom + side + top
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Purples", vmin=0, vmax=1)
    for i in range(n):
        for j in range(n):
            ink = "white" if shares[i, j] > 0.55 else INK if shares[i, j] >= 0.005 else "#b8b8c4"
            weight = "bold" if i == j else "normal"
            axes.text(
                j, i - 0.1, f"{shares[i, j]:.0%}", size=8, color=ink, weight=weight,
                ha="center", va="center",
            )  # fmt: skip
            axes.text(j, i + 0.25, str(counts[i, j]), size=5.5, color=ink, ha="center", va="center")
    names = [_plain(name) for name in class_names]
    axes.set_xticks(range(n), names, size=7, color=INK)
    axes.set_yticks(range(n), names, size=7, color=INK)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(n + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(n + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)
    figure.text(
        0.12 / width,
        1 - 0.2 / height,
        _plain(title),
        size=9.5,
        weight="bold",
        color=INK,
        va="center",
    )
    figure.text(
        0.12 / width, 1 - 0.42 / height, "rows: true class; columns: read as; shares of each row",
        size=7, color=FAINT, va="center",
    )  # fmt: skip
    return figure


def png(figure: Figure) -> bytes:
    """The figure as PNG, the same bytes for the same figure."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # a name in a script that the font lacks is drawn as boxes, which is seen
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def save_figure(figure: Figure, path: Path) -> Path:
    """Writes a figure as PNG; the file appears whole or not at all.

    Raises:
        RenderError: The file can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, png(figure))
    except OSError as error:
        raise RenderError(f"can't write the picture {path}: {error.strerror or error}") from error
    return path
