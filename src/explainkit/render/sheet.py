"""Layout of figures: one style, text that fits its space, cells measured in inches."""

import textwrap
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

INK, FAINT, RIGHT, WRONG, BAR = "#1c1c28", "#6b6b7b", "#1b7f4b", "#b3261e", "#c9ccd8"

TALL = 1.55
"""Height of a cell in inches."""

_GAP, _MARGIN, _HEAD, _FOOT = 0.28, 0.25, 0.62, 0.22
_TITLE, _SUBTITLE, _NOTE = 10.5, 7.5, 6.5
_NOTES = 60  # inches of notes, of all lines together

_LOCK = threading.RLock()


@contextmanager
def house_style() -> Iterator[None]:
    """Draws with matplotlib's default settings and restores the caller's; used as a decorator.

    Dollar signs in names are plain text, not math.
    """
    # settings are global: without the lock, two threads would restore each other's
    with _LOCK, style.context(["default", {"text.parse_math": False}]):
        yield


class Page:
    """A figure, without pyplot, on which positions are inches from its upper left corner."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
        FigureCanvasAgg(self.figure)

    def box(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes that fill a rectangle."""
        bottom = 1 - (top + height) / self.height
        return self.figure.add_axes(
            (left / self.width, bottom, width / self.width, height / self.height)
        )

    def write(self, left: float, top: float, text: str, size: float, **how: Any) -> None:
        """Writes a text, in ink unless told otherwise."""
        at = left / self.width, 1 - top / self.height
        self.figure.text(*at, text, **{"size": size, "color": INK, **how})

    def write_line(
        self, left: float, top: float, text: str, size: float, lines: int = 1, **how: Any
    ) -> None:
        """Writes a text into as many lines as fit between equal margins."""
        # bold letters are wider
        wide = (self.width - 2 * left) / (1.25 if how.get("weight") == "bold" else 1)
        self.write(left, top, fit(text, wide, size, lines), size, **how)


def fit(text: str, inches: float, size: float, lines: int = 1) -> str:
    """Wraps text of a size in points; what doesn't fit into the lines ends in an ellipsis."""
    most = _letters(inches, size)
    found = textwrap.wrap(_printable(text), most, break_on_hyphens=False)
    if len(found) > lines:
        found[lines - 1 :] = [found[lines - 1][: most - 1] + "…"]
    return "\n".join(found)


def fit_name(name: str, inches: float, size: float) -> str:
    """A name on one line; a name that is too long is shortened in its middle."""
    most, name = _letters(inches, size), _printable(name)
    if len(name) <= most:
        return name
    end = (most - 1) // 3
    return f"{name[: most - 1 - end]}…{name[len(name) - end :]}"


def _letters(inches: float, size: float) -> int:
    """The number of characters of average width that fit in a line."""
    return max(4, int(inches * 72 / (0.58 * size)))


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def balanced(count: int, most: int) -> int:
    """Cells per row: as few rows as possible, about equally full.

    Examples:
        >>> balanced(5, 4), balanced(8, 6)
        (3, 4)
    """
    rows = -(-count // most)
    return -(-count // rows)


def fit_image(size: tuple[int, int]) -> tuple[float, float]:
    """Width and height in inches of an image of a height and width, in a cell."""
    height, width = size
    inch = min(TALL / height, 2.4 / width)
    return width * inch, height * inch


def show(axes: Axes, image: NDArray[Any], smooth: bool = False) -> None:
    """Shows an image ``[height, width]`` or ``[height, width, 3]`` at the top left of its cell.

    Its pixels are squares; those of a smooth image are averaged where the figure has fewer.
    """
    how = "antialiased" if smooth else "nearest"
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation=how, aspect="equal")
    axes.set_anchor("NW")
    axes.set(xticks=[], yticks=[])
    # a white image needs an edge on a white page
    axes.spines[:].set(visible=True, color=FAINT, linewidth=0.25)


class Sheet(Page):
    """A page of rows and columns, positioned in inches so that everything is aligned.

    Args:
        rows: Number of rows.
        widths: Width of each column in inches.
        title: The first line, bold.
        subtitle: Below the title, up to three lines.
        notes: At the bottom, all of them: the narrower the page, the more lines.
    """

    def __init__(
        self, rows: int, widths: Sequence[float], title: str, subtitle: str, notes: str
    ) -> None:
        self.widths = widths
        self.step = TALL + 0.42
        inner = sum(widths) + _GAP * (len(widths) - 1)
        subtitle = fit(subtitle, inner, _SUBTITLE, 3)
        notes = fit(notes, inner, _NOTE, max(4, round(_NOTES / inner)))
        self.head = _HEAD + 0.13 * subtitle.count("\n")
        height = self.head + rows * self.step + _FOOT + 0.12 * notes.count("\n")
        super().__init__(inner + 2 * _MARGIN, height)
        self.write_line(_MARGIN, 0.2, title, _TITLE, va="center", weight="bold")
        self.write(_MARGIN, 0.36, subtitle, _SUBTITLE, va="top", color=FAINT)
        self.write(_MARGIN, height - 0.08, notes, _NOTE, va="bottom", color=FAINT)

    def axes(
        self,
        row: int,
        column: int,
        width: float | None = None,
        height: float = TALL,
        shift: float = 0,
    ) -> Axes:
        """Axes at the top of a cell, as wide as its column unless a width is given."""
        left = _MARGIN + sum(self.widths[:column]) + _GAP * column + shift
        top = self.head + row * self.step + 0.26
        return self.box(left, top, self.widths[column] if width is None else width, height)

    def title(self, axes: Axes, column: int, text: str, ink: str = FAINT) -> None:
        """A title above axes, at the left of a column, in up to two lines."""
        axes.set_title(
            fit(text, self.widths[column] + _GAP / 2, 7, 2), size=7, color=ink, loc="left", pad=4,
            linespacing=1.1,
        )  # fmt: skip
