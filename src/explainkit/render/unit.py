"""A card for one unit: its synthetic image, optimization trace, quality and real images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from explainkit.render.captions import MEASURES, doubts, headline, measured, unit_name
from explainkit.render.heatmap import to_pixels
from explainkit.render.sheet import BAR, FAINT, INK, RIGHT, WRONG, Page, fit, house_style, show

if TYPE_CHECKING:
    from explainkit.activation_maximization.exemplars import Box, Exemplars, ReceptiveFields
    from explainkit.results.visualization import Visualization

_BOX = "#e8a020"
_MARGIN, _HEAD, _SIDE, _GAP, _THUMB = 0.3, 0.66, 2.35, 0.45, 0.72
_TRACE = 1.75
_WIDE = 2 * _MARGIN + 9 * _THUMB + 8 * 0.09
_BAR = 0.17


@dataclass(frozen=True, eq=False)
class Example:
    """A real image and a unit's activation on it.

    Attributes:
        image: ``[channel, height, width]`` in model-input space.
        box: Receptive field at the extreme activation.
        text: Caption below the image.
    """

    image: Tensor
    box: "Box"
    text: str


@dataclass(frozen=True)
class Bar:
    """A bar with its error bar, and a tick at the control that it should exceed."""

    label: str
    value: float
    interval: tuple[float, float]
    control: float


@dataclass(frozen=True)
class Bars:
    """A bar chart on a unit card, with a dashed line at a reference value, the mark."""

    title: str
    note: str
    rows: Sequence[Bar]
    mark: float


def examples(
    found: "Exemplars", row: int, images: Tensor, fields: "ReceptiveFields"
) -> tuple[list[Example], list[Example]]:
    """The real images with a unit's highest and lowest activations."""
    sides = (
        (found.top, found.top_value, found.top_place),
        (found.bottom, found.bottom_value, found.bottom_place),
    )
    most, least = (
        [
            Example(images[number], fields.at(*position), f"{value:.3g}")
            for number, value, position in zip(
                numbers[row].tolist(), values[row].tolist(), positions[row].tolist(), strict=True
            )
        ]
        for numbers, values, positions in sides
    )
    return most, least


@house_style()
def unit_card(
    visualization: "Visualization",
    index: int,
    most: Sequence[Example] = (),
    least: Sequence[Example] = (),
    bars: Bars | None = None,
) -> Figure:
    """One unit's synthetic image, trace and quality; below them real images and a bar chart.

    Nine real images fit in a row. A box on each marks the receptive field; the crops are shown
    below it.
    """
    most, least = most[:9], least[:9]
    rows = _rows(most, least)
    shape = visualization.images.shape
    tall = _THUMB * min(shape[2] / shape[3], 2)
    top = _HEAD + _SIDE + 0.3
    height = top + sum(0.3 + tall + (0 if crop else 0.13) for *_, crop in rows)
    height += (0.54 + _BAR * len(bars.rows) + 0.12 if bars else 0) + 0.1
    page = Page(_WIDE, height)
    name = unit_name(visualization, index)
    title, about = f"unit {name}" if name.isdecimal() else name, headline(visualization)
    page.write_line(_MARGIN, 0.22, title, 11, weight="bold")
    page.write_line(_MARGIN, 0.36, about, 7.5, color=FAINT, va="top")
    _image(page, visualization, index)
    _trace(page, visualization, index)
    _measures(page, visualization, index)
    for heading, images, crop in rows:
        page.write(_MARGIN, top + 0.18, heading, 7.5, weight="bold")
        for column, example in enumerate(images):
            axes = page.box(_MARGIN + column * (_THUMB + 0.09), top + 0.25, _THUMB, tall)
            _thumbnail(axes, example, visualization, crop=crop)
            if not crop:
                axes.set_title(example.text, y=-0.02, va="top", size=6, color=FAINT, pad=0)
        top += 0.3 + tall + (0 if crop else 0.13)
    if bars:
        _bars(page, bars, top + 0.1)
    return page.figure


def _rows(
    most: Sequence[Example], least: Sequence[Example]
) -> list[tuple[str, Sequence[Example], bool]]:
    """For each row: heading, images, and whether to crop them, then without captions."""
    found: list[tuple[str, Sequence[Example], bool]] = []
    if most:
        found.append(("real images with the highest activation, and where it occurs", most, False))
        if any(_is_part(example) for example in most):
            found.append(("receptive field crops", most, True))
    # after a rectifier all of them may be zero, and their order means nothing
    if len({example.text for example in least}) > 1:
        found.append(("real images with the lowest activation", least, False))
    return found


def _is_part(example: Example) -> bool:
    return 0 < example.box.crop(example.image[0]).numel() < example.image[0].numel()


def _image(page: Page, visualization: "Visualization", index: int) -> None:
    axes = page.box(_MARGIN, _HEAD, _SIDE, _SIDE)
    if bool(visualization.dead[index]):
        axes.set_axis_off()
        axes.text(0.5, 0.5, "dead", ha="center", va="center", size=10, color=WRONG)
        return
    show(axes, to_pixels(visualization.images[index], visualization.mean, visualization.std)[0])


def _trace(page: Page, visualization: "Visualization", index: int) -> None:
    axes = page.box(_MARGIN + _SIDE + _GAP, _HEAD + 0.16, _TRACE, _SIDE - 0.32)
    values = visualization.trace[:, index].detach().double().cpu().numpy()
    axes.plot(values, color="#5b4b9a", lw=1)
    axes.set_title("objective over the steps", size=7.5, weight="bold", loc="left", color=INK)
    axes.tick_params(length=0, labelsize=6, labelcolor=FAINT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(BAR)
    axes.set_xlim(0, max(len(values) - 1, 1))
    axes.locator_params(nbins=4)


def _measures(page: Page, visualization: "Visualization", index: int) -> None:
    left = _MARGIN + _SIDE + _GAP + _TRACE + 0.3
    width, top = _WIDE - _MARGIN - left, _HEAD + 0.1
    page.write(left, top, "quality", 7.5, weight="bold")
    if bool(visualization.dead[index]):
        page.write(left, top + 0.2, "dead: no image activates it", 6.5, color=WRONG)
        return
    lines = [("score", f"{float(visualization.score[index]):.3g}", "objective at this image", INK)]
    for name, value in measured(visualization, index).items():
        one = MEASURES[name]
        ink = INK if one.fine is None else RIGHT if one.fine(value) else WRONG
        lines.append((one.label, one.text.format(value), one.note, ink))
    for label, text, note, ink in lines:
        top += 0.17
        page.write(left, top, label, 6.5)
        page.write(left + width, top, text, 6.5, color=ink, weight="bold", ha="right")
        top += 0.1
        page.write(left, top, fit(note, width * 1.1, 5), 5, color=FAINT)
    for reason in doubts(visualization, index):
        top += 0.17
        page.write(left, top, fit(reason, width, 6), 6, color=WRONG, weight="bold")


def _thumbnail(axes: Axes, example: Example, shown: "Visualization", *, crop: bool) -> None:
    image, box = to_pixels(example.image, shown.mean, shown.std)[0], example.box
    if crop:
        image = image[box.top : box.bottom, box.left : box.right]
    if not image.size:
        axes.set_axis_off()
        return
    show(axes, image)
    if crop or not _is_part(example):
        return
    corner, wide, tall = (box.left - 0.5, box.top - 0.5), box.right - box.left, box.bottom - box.top
    axes.add_patch(Rectangle(corner, wide, tall, fill=False, ec=_BOX, lw=1.3, clip_on=False))


def _bars(page: Page, bars: Bars, top: float) -> None:
    page.write(_MARGIN, top + 0.14, bars.title, 7.5, weight="bold")
    page.write(_MARGIN, top + 0.25, fit(bars.note, 7.6, 6), 6, color=FAINT)
    label = 0.85
    high = _BAR * len(bars.rows)
    axes = page.box(_MARGIN + label, top + 0.34, _WIDE - 2 * _MARGIN - label - 0.4, high)
    positions = range(len(bars.rows))
    axes.barh(positions, [row.value for row in bars.rows], height=0.62, color="#b9b2d8")
    for y, row in zip(positions, bars.rows, strict=True):
        axes.plot(row.interval, [y, y], color=INK, lw=0.9)
        axes.plot([row.control], [y], "|", color="#d9822b", markersize=8, markeredgewidth=1.6)
        axes.annotate(
            f"{row.value:.2f}", (max(row.interval[1], row.value, row.control), y), (4, 0),
            textcoords="offset points", size=6, color=FAINT, va="center",
            bbox={"fc": "white", "ec": "none", "pad": 0.6},
        )  # fmt: skip
    axes.axvline(bars.mark, color=FAINT, lw=0.8, ls=(0, (3, 2)))
    axes.set_yticks(positions, [row.label for row in bars.rows])
    axes.set_ylim(len(bars.rows) - 0.5, -0.5)
    axes.set_xlim(0, None)
    axes.set_xticks([])
    axes.tick_params(length=0, labelsize=6.5, labelcolor=INK)
    axes.spines[["top", "right", "bottom", "left"]].set_visible(False)
