"""Figures of explanations, drawn without touching matplotlib's global state."""

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from explainkit.errors import RenderError
from explainkit.files import write_atomically
from explainkit.render.heatmap import (
    SEQUENTIAL,
    Reduce,
    Scaled,
    Scaling,
    color,
    masked,
    most_relevant,
    over_images,
    scale,
    to_pixels,
)
from explainkit.render.sheet import (
    BAR,
    FAINT,
    INK,
    RIGHT,
    TALL,
    WRONG,
    Sheet,
    fit,
    fit_name,
    house_style,
    page,
    show,
)

if TYPE_CHECKING:
    from explainkit.results.explanation import Explanation

_BARS, _LABELS, _SCALE = 1.88, 0.75, 0.55
_MOST_BARS = 7


@house_style()
def study_figure(
    explanation: "Explanation",
    *,
    labels: Sequence[int | None] | None = None,
    scalings: Sequence[Scaling | str] = ("max", "percentile:97"),
    reduce: Reduce = "sum",
    keep: float = 0.2,
) -> Figure:
    """One row per image: image, probabilities, the map under each scaling, what matters most.

    Args:
        explanation: What to draw.
        labels: True class of each image; None or −1 where it isn't known.
        scalings: How values become colors, one heatmap each; the color bars carry true values.
        reduce: How channels become one.
        keep: Share of the pixels that stay as they are in the last column: those of the largest
            |a|; fewer where fewer are not zero.

    Raises:
        RenderError: A scaling that doesn't exist, a share outside [0, 1], labels that aren't one
            per image, or a normalization of other channels.
    """
    rows = _Rows(explanation, labels)
    maps = over_images(explanation, reduce)
    scaled = [(Scaling.parse(rule), scale(maps, rule)) for rule in scalings]
    width = rows.cell
    widths = [width, _BARS, *[width + _SCALE] * len(scaled), width]
    sheet = rows.sheet(widths, [found for _, found in scaled])
    last = len(widths) - 1
    for row, image in enumerate(rows.images):
        rows.draw(sheet, row)
        for column, (rule, found) in enumerate(scaled, 2):
            _draw_map(sheet, row, column, rows.size, found, rule)
        kept = most_relevant(maps[row].abs(), keep)
        axes = sheet.axes(row, last, *rows.size)
        show(axes, masked(image, kept))
        sheet.title(axes, last, _kept(kept, keep))
    return sheet.figure


@house_style()
def plot(
    explanation: "Explanation", *, scaling: Scaling | str = "percentile", reduce: Reduce = "sum"
) -> Figure:
    """One row per image: image, probabilities, heatmap, and the heatmap over the image.

    Args:
        explanation: What to draw.
        scaling: How values become colors; the color bar carries true values.
        reduce: How channels become one.

    Raises:
        RenderError: A scaling that doesn't exist, or a normalization of other channels.
    """
    rule = Scaling.parse(scaling)
    rows = _Rows(explanation, None)
    maps = over_images(explanation, reduce)
    scaled = scale(maps, rule)
    sheet = rows.sheet([rows.cell, _BARS, rows.cell + _SCALE, rows.cell], [scaled])
    for row, image in enumerate(rows.images):
        rows.draw(sheet, row)
        _draw_map(sheet, row, 2, rows.size, scaled, rule)
        axes = sheet.axes(row, 3, *rows.size)
        show(axes, overlay(image, maps[row], rule))
        sheet.title(axes, 3, "map over image")
    return sheet.figure


def overlay(
    image: NDArray[np.float64], values: torch.Tensor, scaling: Scaling | str = "percentile"
) -> NDArray[np.float64]:
    """A map over its gray image: the stronger the value, the more its color covers.

    The opacity of a pixel is 0.85 · |s|^0.7, where s is the scaled value in [−1, 1]: weak values
    show a little more than in proportion, and the image shines through even the strongest.

    Args:
        image: ``[height, width]`` or ``[height, width, 3]`` in [0, 1].
        values: ``[height, width]`` in the method's own unit.
        scaling: How values become colors.

    Returns:
        RGB ``[height, width, 3]`` in [0, 1].
    """
    rule = Scaling.parse(scaling)
    strength = scale(values[None], rule).values[0]
    gray = (image.mean(-1) if image.ndim == 3 else image)[..., None]
    opacity = 0.85 * np.abs(strength)[..., None] ** 0.7
    mixed: NDArray[np.float64] = (1 - opacity) * gray + opacity * color(strength, rule.colors) / 255
    return mixed


def parameters(params: Mapping[str, Any]) -> str:
    """Hyper-parameters in one line, those of nested methods in brackets."""
    return ", ".join(f"{key}={_short(value)}" for key, value in params.items())


def _short(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"tensor {list(value.shape)}"
    if isinstance(value, Mapping) and "method" in value:
        own = parameters({name: inner for name, inner in value.items() if name != "method"})
        return str(value["method"]).rpartition("/")[2] + (f"({own})" if own else "")
    return str(value)


class _Rows:
    """What the rows of every figure have in common: the images and what the model made of them.

    Attributes:
        images: Each image as it looks.
        size: Width and height of an image in inches.
        cell: Width of a column of images, wide enough for a title.
    """

    def __init__(self, explanation: "Explanation", labels: Sequence[int | None] | None) -> None:
        self.explanation = explanation
        if labels is not None and len(labels) != len(explanation):
            raise RenderError(f"expected {len(explanation)} labels, got {len(labels)}")
        known = labels if labels is not None else [None] * len(explanation)
        self.labels = [None if label is None or label < 0 else int(label) for label in known]
        classes = explanation.logits.shape[1]
        if beyond := [label for label in self.labels if label is not None and label >= classes]:
            raise RenderError(f"labels: expected classes below {classes}, got {beyond[0]}")
        drawn = [to_pixels(one, explanation.mean, explanation.std) for one in explanation.inputs]
        self.images = [image for image, _ in drawn]
        self._remarks = list(dict.fromkeys(remark for _, remark in drawn if remark))
        high, wide = explanation.inputs.shape[-2:]
        inch = min(TALL / high, 2.4 / wide)
        self.size = wide * inch, high * inch
        self.cell = max(self.size[0], 1.4)

    def sheet(self, widths: Sequence[float], maps: Sequence[Scaled]) -> Sheet:
        """The empty page, with headline and remarks."""
        found: dict[str, list[int]] = {}
        for scaled in maps:
            for row, note in enumerate(scaled.notes, 1):
                if note and row not in found.setdefault(note, []):
                    found[note].append(row)
        remarks = [
            f"the map of row {rows[0]} is {note}"
            if len(rows) == 1
            else f"the maps of rows {', '.join(map(str, rows))} are {note}"
            for note, rows in found.items()
        ]
        one = self.explanation
        layer = f" at {one.layer}" if one.layer else ""
        return Sheet(
            len(one),
            widths,
            f"{one.method.rpartition('/')[2]}{layer} of {one.model}{self._explained()}",
            parameters(one.params) or "no parameters",
            "; ".join([*self._remarks, *remarks]),
        )

    def _explained(self) -> str:
        """What the maps are of, where that is not each image's predicted class."""
        one = self.explanation
        if one.expression is None and torch.equal(one.target, one.logits.argmax(1)):
            return ""
        names = list(dict.fromkeys(one.target_name(i) for i in range(len(one))))
        return f" for {', '.join(names[:3])}" + (", …" if len(names) > 3 else "")

    def draw(self, sheet: Sheet, row: int) -> None:
        """The first two columns: the image and the probabilities."""
        axes = sheet.axes(row, 0, *self.size)
        show(axes, self.images[row])
        label, read = self.labels[row], int(self.explanation.logits[row].argmax())
        seen = fit_name(self._name(read), 0.85, 7)
        if label is None:
            sheet.title(axes, 0, f"read as {seen}", INK)
        elif label == read:
            sheet.title(axes, 0, f"{seen}, read rightly", RIGHT)
        else:
            true = fit_name(self._name(label), 0.85, 7)
            sheet.title(axes, 0, f"{true}, read as {seen}", WRONG)
        self._draw_bars(sheet, row)

    def _name(self, label: int) -> str:
        names = self.explanation.class_names
        return names[label] if names else f"class {label}"

    def _draw_bars(self, sheet: Sheet, row: int) -> None:
        """Softmax probabilities of the likeliest classes, in the order of the classes.

        The explained and the true class are always among them.
        """
        axes = sheet.axes(row, 1, _BARS - _LABELS, shift=_LABELS)
        logits = self.explanation.logits[row].double()
        if len(logits) == 1:
            axes.set_axis_off()
            score = float(self.explanation.score[row])
            axes.text(0, 0.5, f"score {score:.3g}", size=8, color=INK)
            return
        probabilities = logits.softmax(0)
        # an expression explains no class
        by_class = self.explanation.expression is None
        target = int(self.explanation.target[row]) if by_class else None
        label = self.labels[row]
        likeliest = probabilities.argsort(descending=True, stable=True).tolist()
        first = [one for one in (target, label) if one is not None]
        shown = sorted(list(dict.fromkeys([*first, *likeliest]))[:_MOST_BARS])
        values = [float(probabilities[i]) for i in shown]
        axes.barh(
            range(len(shown)),
            values,
            height=0.62,
            color=[INK if i == target else BAR for i in shown],
        )
        for place, value in enumerate(values):
            axes.text(value + 0.03, place, f"{value:.2f}", size=6, color=FAINT, va="center")
        names = [fit_name(self._name(i), _LABELS, 6.5) for i in shown]
        axes.set_yticks(range(len(shown)), names)
        for tick, i in zip(axes.get_yticklabels(), shown, strict=True):
            tick.set(
                size=6.5,
                color=RIGHT if i == label else INK,
                weight="bold" if i == target else "normal",
            )
        axes.set(xlim=(0, 1.22), ylim=(len(shown) - 0.4, -0.6), xticks=[])
        axes.tick_params(length=0, pad=3)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
        axes.spines["left"].set_color(BAR)
        axes.set_title("probabilities", size=7, color=FAINT, loc="left", pad=4)


def _kept(kept: NDArray[np.bool_], keep: float) -> str:
    """What the pixels that stay are, in words."""
    count = int(kept.sum())
    if count < round(keep * kept.size):
        return f"the {count} pixels where |a| > 0" if count else "no pixel is relevant"
    return f"most relevant {100 * keep:.3g}% by |a|"


def _draw_map(
    sheet: Sheet,
    row: int,
    column: int,
    size: tuple[float, float],
    scaled: Scaled,
    rule: Scaling,
) -> None:
    axes = sheet.axes(row, column, *size)
    show(axes, color(scaled.values[row], rule.colors))
    sheet.title(axes, column, f"map, scaled {rule.title}")
    limit = float(scaled.limits[row])
    bar = sheet.axes(row, column, 0.09, size[1], shift=size[0] + 0.08)
    low = 0 if rule.colors == SEQUENTIAL else -1
    # drawn from -1 to 1 and labeled in the map's unit: a span of 2e308 is no float
    ramp = np.linspace(1, low, 256) if limit else np.zeros(256)
    bar.imshow(
        color(ramp[:, None], rule.colors), aspect="auto", extent=(0, 1, low if limit else -1, 1)
    )
    ticks = sorted({low, 0, 1}) if limit else [0]
    bar.set_yticks(ticks, [f"{limit * tick:.2g}".replace("-", "−") for tick in ticks])
    bar.yaxis.tick_right()
    bar.set_xticks([])
    bar.tick_params(labelsize=6, length=2, width=0.5, color=FAINT, labelcolor=FAINT, pad=2)
    bar.spines[:].set(linewidth=0.4, edgecolor=FAINT)


@house_style()
def matrix_figure(
    counts: NDArray[np.int64], class_names: Sequence[str], title: str = "confusion matrix"
) -> Figure:
    """A confusion matrix: each row's shares as color and per cent, its counts in small print.

    Args:
        counts: ``[true, predicted]``.
        class_names: In the order of both axes.
        title: What it is.

    Raises:
        RenderError: ``counts`` isn't square, with a row per class.
    """
    n = len(class_names)
    if counts.shape != (n, n) or not n:
        raise RenderError(f"expected counts {n} × {n} for {n} classes, got {list(counts.shape)}")
    side = max(0.62 * n, 2.6)
    inch = n / side
    names = [fit_name(name, 1.4, 7) for name in class_names]
    longest = 0.056 * max(map(len, names))
    upright = longest * inch > 1
    bottom, right = 0.35, 0.3
    left = max(0.95, longest + 0.15)
    width = left + side + right
    title = fit(title, (width - 0.3) / 1.25, 9.5, 2)
    head = 0.26 + 0.16 * title.count("\n")
    top = head + (0.4 + longest if upright else 0.6)
    height = bottom + side + top
    figure = page(width, height)
    axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Purples", vmin=0, vmax=1)
    for i in range(n):
        for j in range(n):
            ink = "white" if shares[i, j] > 0.55 else INK if shares[i, j] >= 0.005 else "#b8b8c4"
            weight = "bold" if i == j else "normal"
            axes.text(
                j, i - 0.062 * inch, f"{shares[i, j]:.0%}", size=8, color=ink, weight=weight,
                ha="center", va="center",
            )  # fmt: skip
            axes.text(
                j,
                i + 0.155 * inch,
                str(counts[i, j]),
                size=5.5,
                color=ink,
                ha="center",
                va="center",
            )
    axes.set_xticks(range(n), names, size=7, color=INK, rotation=90 if upright else 0)
    axes.set_yticks(range(n), names, size=7, color=INK)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(n + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(n + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)
    figure.text(
        0.12 / width, 1 - head / height, title, size=9.5, weight="bold", color=INK, va="bottom"
    )
    figure.text(
        0.12 / width, 1 - (head + 0.15) / height,
        "rows: true class; columns: read as; shares of each row",
        size=7, color=FAINT, va="center",
    )  # fmt: skip
    return figure


@house_style()
def png(figure: Figure) -> bytes:
    """The figure as PNG, the same bytes for the same figure."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # a name in a script that the font lacks is drawn as boxes, which is seen
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Writes a figure as PNG; the file appears whole or not at all.

    Raises:
        RenderError: The file can't be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, png(figure))
    except OSError as error:
        raise RenderError(f"can't write the image {path}: {error.strerror or error}") from error
    return path
