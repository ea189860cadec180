"""Figures of explanations. Matplotlib's global state is never changed."""

import base64
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from explainkit.catalog.synonyms import bare_name, model_title
from explainkit.errors import RenderError
from explainkit.files import write_file
from explainkit.render.heatmap import (
    Reduce,
    Scaled,
    Scaling,
    color,
    masked,
    most_relevant,
    over_images,
    scale,
)
from explainkit.render.legend import joined, legend
from explainkit.render.parameters import changed_parameters, parameters
from explainkit.render.report.content import explained_class, gather
from explainkit.render.scorecard import explained, write_verdict
from explainkit.render.sheet import (
    BAR,
    FAINT,
    INK,
    RIGHT,
    TALL,
    WRONG,
    Sheet,
    fit_image,
    fit_name,
    house_style,
    show,
)
from explainkit.render.shown_image import OPACITY, ShownImage, overlay

if TYPE_CHECKING:
    from explainkit.results.explanation import Explanation
    from explainkit.results.scorecard import Scorecard

_BARS, _LABELS, _SCALE = 1.88, 0.75, 0.55
_APART = 0.35


@house_style()
def study_figure(
    explanation: "Explanation",
    *,
    labels: Sequence[int | None] | None = None,
    scalings: Sequence[Scaling | str] = ("max", "percentile:97"),
    reduce: Reduce = "sum",
    keep: float = 0.2,
    beside: "Explanation | None" = None,
    cards: "Sequence[Scorecard]" = (),
    notes: Sequence[str] = (),
) -> Figure:
    """One row per image: image, probabilities, the map under each scaling, most relevant pixels.

    Args:
        explanation: The maps to draw.
        labels: True class of each image; None or −1 where it is unknown.
        scalings: How values become colors; one heatmap each, with the true scale on its color bar.
        reduce: How channels are reduced to one.
        keep: Fraction of the pixels that the last column keeps: those with the largest |a|, or
            fewer if fewer are nonzero.
        beside: Another explanation of the same images, in a column of its own, with the last of
            the scalings.
        cards: Their scorecards, in this order, whose verdicts stand below the maps.
        notes: What else to say at the bottom.

    Raises:
        RenderError: An unknown scaling, a fraction outside [0, 1], labels that are not one per
            image, or a mean and std that do not fit the channels.
    """
    maps = over_images(explanation, reduce)
    rows = _Rows(explanation, labels, [*notes, *explained(cards)])
    scaled = [(Scaling.parse(rule), scale(maps, rule)) for rule in scalings]
    widths = [rows.cell, _BARS, *[rows.cell + _SCALE] * len(scaled), rows.cell]
    signed = all(rule.sign == "signed" for rule, _ in scaled)
    last = len(widths) - 1
    other = None
    if beside is not None:
        rule = Scaling.parse(scalings[-1])
        other = scale(over_images(beside, reduce), rule)
        widths.append(rows.cell + _SCALE)
    sheet = rows.sheet(len(explanation), widths, [found for _, found in scaled], signed)
    for row, image in enumerate(rows.images):
        rows.draw(sheet, row, row)
        for column, (rule, found) in enumerate(scaled, 2):
            _draw_map(sheet, row, column, rows.sizes[row], image, found, row, rule)
        kept = most_relevant(maps[row].abs(), keep)
        axes = sheet.axes(row, last, *rows.sizes[row])
        show(axes, masked(image.pixels, image.place(kept.astype(float)) > 0.5), rows.smooth)
        sheet.title(axes, last, _kept(kept, keep))
        if beside is not None and other is not None:
            named = beside.method.rpartition("/")[2]
            _draw_map(
                sheet, row, last + 1, rows.sizes[row], image, other, row, rule, named=named
            )  # fmt: skip
        for card, column in zip(cards, (2, last + 1), strict=False):
            write_verdict(sheet, row, column, (widths[column], TALL), card.verdict[row])
    return sheet.figure


@house_style()
def plot(
    explanation: "Explanation",
    *,
    scaling: Scaling | str = "percentile",
    reduce: Reduce = "sum",
    ax: Axes | None = None,
    cmap: str | None = None,
    alpha: float = OPACITY,
    columns: int = 1,
    card: "Scorecard | None" = None,
) -> Figure:
    """Each image with its probabilities, its heatmap, and the heatmap over the image.

    Args:
        explanation: The maps to draw.
        scaling: How values become colors; the color bar shows the true scale.
        reduce: How channels are reduced to one.
        ax: Draw only the heatmap over the image, into these axes; for one image.
        cmap: Name of a matplotlib color map; None: red and blue for signed values.
        alpha: Opacity of the strongest values over the image.
        columns: Images side by side.
        card: The scorecard of these maps, whose verdicts stand below them.

    Returns:
        The new figure, or the one that ``ax`` belongs to.

    Raises:
        RenderError: An unknown scaling or color map, a mean and std that do not fit the channels,
            an opacity outside [0, 1], no columns, or several images for one ``ax``.
    """
    rule = Scaling.parse(scaling)
    maps = over_images(explanation, reduce)
    rows = _Rows(explanation, None, explained([] if card is None else [card]))
    scaled = scale(maps, rule)
    if ax is not None:
        if len(explanation) != 1:
            raise RenderError(
                f"ax: expected one image, got {len(explanation)}: plot explanation[i] instead"
            )
        drawn = overlay(rows.images[0], maps[0], rule, cmap=cmap, alpha=alpha)
        show(ax, drawn, rows.smooth)
        limit = f"±{scaled.limits[0]:.2g}" if scaled.limits[0] else "zero everywhere"
        ax.set_title(f"{rows.headline()}, {limit}", size=8, color=INK, loc="left")
        return ax.figure.figure  # of a subfigure, too
    if columns < 1:
        raise RenderError(f"columns: expected at least 1, got {columns}")
    columns = min(columns, len(explanation))
    block = [rows.cell, _BARS, rows.cell + _SCALE, rows.cell]
    apart = [*block[:-1], rows.cell + _APART] * (columns - 1)
    lines = -(-len(explanation) // columns)
    sheet = rows.sheet(lines, [*apart, *block], [scaled], rule.sign == "signed", cmap)
    for i, image in enumerate(rows.images):
        row, column = i // columns, 4 * (i % columns)
        rows.draw(sheet, i, row, column)
        _draw_map(sheet, row, column + 2, rows.sizes[i], image, scaled, i, rule, cmap)
        axes = sheet.axes(row, column + 3, *rows.sizes[i])
        show(axes, overlay(image, maps[i], rule, cmap=cmap, alpha=alpha), rows.smooth)
        sheet.title(axes, column + 3, "map over image")
        if card is not None:
            wide = sheet.widths[column + 2]
            write_verdict(sheet, row, column + 2, (wide, rows.sizes[i][1]), card.verdict[i])
    return sheet.figure


class _Rows:
    """What the figures of one explanation share: the images and the model's predictions.

    Attributes:
        content: The explanation, ready to be shown.
        images: Each image for display.
        sizes: Width and height of each image in inches.
        smooth: Whether the images are photos, whose pixels need not be told apart.
        cell: Width of a column of images, wide enough for a title.
    """

    def __init__(
        self, explanation: "Explanation", labels: Sequence[int | None] | None, more: Sequence[str]
    ) -> None:
        self.content = gather([explanation], labels, None, "sum")
        self.explanation = explanation
        self.images = self.content.shown
        self._notes = [*self.content.notes, *more]
        self.smooth = explanation.geometries is not None
        self.sizes = [fit_image(one.size) for one in self.images]
        self.cell = max(1.4, *(width for width, _ in self.sizes))

    def sheet(
        self,
        rows: int,
        widths: Sequence[float],
        maps: Sequence[Scaled],
        signed: bool,
        cmap: str | None = None,
    ) -> Sheet:
        """The empty page with its headline, the legend, and what to know about single maps."""
        found: dict[str, list[int]] = {}
        for scaled in maps:
            for number, note in enumerate(scaled.notes, 1):
                if note and number not in found.setdefault(note, []):
                    found[note].append(number)
        about = [
            f"the map of image {numbers[0]} is {note}"
            if len(numbers) == 1
            else f"the maps of images {', '.join(map(str, numbers))} are {note}"
            for note, numbers in found.items()
        ]
        one = self.explanation
        colors = [legend([one], cmap)] if signed else []
        return Sheet(
            rows,
            widths,
            f"{self.headline()} of {model_title(one.model)}{self._explained()}",
            parameters(changed_parameters(one.method, one.params)) or "default parameters",
            joined([*colors, *self._notes, *about]),
        )

    def headline(self) -> str:
        """The method, and the layer where it uses one."""
        one = self.explanation
        layer = f" at {one.layer}" if one.layer else ""
        return bare_name(one.method) + layer

    def _explained(self) -> str:
        """The explained classes, unless they are the predicted ones."""
        one = self.explanation
        if one.expression is None and (one.classes == 1 or self._of_predicted()):
            return ""
        names = list(dict.fromkeys(one.target_name(i) for i in range(len(one))))
        return f" for {', '.join(names[:3])}" + (", …" if len(names) > 3 else "")

    def _of_predicted(self) -> bool:
        """Whether the predicted class of each image was explained, or its most probable label."""
        probabilities = self.explanation.probabilities
        if probabilities is None:
            return False
        return torch.equal(self.explanation.target, probabilities.argmax(1))

    def draw(self, sheet: Sheet, i: int, row: int, column: int = 0) -> None:
        """Image ``i`` and its probabilities, in a row, from a column on."""
        axes = sheet.axes(row, column, *self.sizes[i])
        show(axes, self.images[i].pixels, self.smooth)
        content, label = self.content, self.content.labels[i]
        if self.explanation.task != "regression":
            text, ink = prediction(
                fit_name(content.predicted(i), 0.85, 7),
                None if label is None else fit_name(content.class_name(label), 0.85, 7),
                bool(content.correct(i)),
            )
            sheet.title(axes, column, text, ink)
        self._draw_bars(sheet, i, row, column + 1)

    def _draw_bars(self, sheet: Sheet, i: int, row: int, column: int) -> None:
        """Probabilities of the most probable classes, in class order.

        The explained class and the true class are always included.
        """
        axes = sheet.axes(row, column, _BARS - _LABELS, shift=_LABELS)
        if not (top := self.content.readings[0].top[i]):
            axes.set_axis_off()
            score = float(self.explanation.score[i])
            axes.text(0, 0.5, f"score {score:.3g}", size=8, color=INK)
            return
        shown, values = zip(*top, strict=True)
        target, label = explained_class(self.explanation, i), self.content.labels[i]
        axes.barh(
            range(len(shown)),
            values,
            height=0.62,
            color=[INK if k == target else BAR for k in shown],
        )
        for y, value in enumerate(values):
            axes.text(value + 0.03, y, f"{value:.2f}", size=6, color=FAINT, va="center")
        names = [fit_name(self.content.class_name(k), _LABELS, 6.5) for k in shown]
        axes.set_yticks(range(len(shown)), names)
        for tick, k in zip(axes.get_yticklabels(), shown, strict=True):
            tick.set(
                size=6.5,
                color=RIGHT if k == label else INK,
                weight="bold" if k == target else "normal",
            )
        axes.set(xlim=(0, 1.22), ylim=(len(shown) - 0.4, -0.6), xticks=[])
        axes.tick_params(length=0, pad=3)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
        axes.spines["left"].set_color(BAR)
        axes.set_title("probabilities", size=7, color=FAINT, loc="left", pad=4)


def prediction(predicted: str, label: str | None, correct: bool) -> tuple[str, str]:
    """The title of an image, and its color: the predicted class and whether it is correct.

    Args:
        predicted: Name of the predicted class.
        label: Name of the true class; None where it is unknown.
        correct: Whether both are the same class.
    """
    if label is None:
        return f"predicted: {predicted}", INK
    if correct:
        return f"predicted: {predicted} (correct)", RIGHT
    return f"predicted: {predicted} (true: {label})", WRONG


def _kept(kept: NDArray[np.bool_], keep: float) -> str:
    """Which pixels the last column shows."""
    count = int(kept.sum())
    if count < round(keep * kept.size):
        return f"the {count} pixels where |a| > 0" if count else "no relevant pixels"
    return f"most relevant {100 * keep:.3g}% by |a|"


def _draw_map(
    sheet: Sheet,
    row: int,
    column: int,
    size: tuple[float, float],
    image: ShownImage,
    scaled: Scaled,
    i: int,
    rule: Scaling,
    cmap: str | None = None,
    named: str = "map",
) -> None:
    """Map ``i`` with its color bar."""
    signed, colors = rule.sign == "signed", cmap or rule.colors
    axes = sheet.axes(row, column, *size)
    show(axes, image.colored(scaled.values[i], colors, signed), image.geometry is not None)
    sheet.title(axes, column, f"{named}, scaled {rule.title}")
    limit = float(scaled.limits[i])
    bar = sheet.axes(row, column, 0.09, size[1], shift=size[0] + 0.08)
    low = -1 if signed else 0
    # the extent is -1 to 1, labeled in the map's unit: a range of 2e308 overflows a float
    ramp = np.linspace(1, low, 256) if limit else np.zeros(256)
    bar.imshow(
        color(ramp[:, None], colors, signed=signed),
        aspect="auto",
        extent=(0, 1, low if limit else -1, 1),
    )
    ticks = sorted({low, 0, 1}) if limit else [0]
    bar.set_yticks(ticks, [f"{limit * tick:.2g}".replace("-", "−") for tick in ticks])
    bar.yaxis.tick_right()
    bar.set_xticks([])
    bar.tick_params(labelsize=6, length=2, width=0.5, color=FAINT, labelcolor=FAINT, pad=2)
    bar.spines[:].set(linewidth=0.4, edgecolor=FAINT)


@house_style()
def png(figure: Figure) -> bytes:
    """The figure as PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # characters that the font lacks are drawn as boxes, so the reader sees it anyway
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def png_text(figure: Figure) -> str:
    """The same in base64, for a page that contains the figure."""
    return base64.b64encode(png(figure)).decode("ascii")


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Writes a figure as PNG, atomically; returns the path.

    Raises:
        RenderError: The file cannot be written.
    """
    return write_file(path, png(figure), RenderError)
