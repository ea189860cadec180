"""Draws scorecards: effects against attributions, and the verdicts in words."""

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from explainkit.catalog.synonyms import bare_name, model_title
from explainkit.errors import RenderError
from explainkit.render.sheet import (
    BAR,
    FAINT,
    INK,
    RIGHT,
    TALL,
    WRONG,
    Sheet,
    fit_name,
    house_style,
)

if TYPE_CHECKING:
    from explainkit.results.scorecard import Scorecard

_WIDE, _MOST = 2.1, 24
_TEXT = 5.6
"""Inches that the title and the notes need, however few panels there are."""

_TESTS = ("predicts", "beyond the image", "this class")


def explained(cards: "Sequence[Scorecard]") -> list[str]:
    """What the verdicts of scorecards mean, once each, and what to know about all of them."""
    meanings = dict(pair for card in cards for pair in card.meanings)
    notes = dict.fromkeys(note for card in cards for note in card.notes)
    said = [f"{verdict}: {meaning}" for verdict, meaning in meanings.items()]
    return [text.rstrip(".") for text in (*said, *notes)]


def write_verdict(
    sheet: Sheet, row: int, column: int, size: tuple[float, float], verdict: str
) -> None:
    """A verdict below a map of a width and height in inches, at the left of its column."""
    axes = sheet.axes(row, column, *size)
    axes.set_axis_off()
    axes.text(
        0, -0.05 / size[1], fit_name(verdict, size[0], 7), size=7, color=verdict_ink(verdict),
        va="top", transform=axes.transAxes,
    )  # fmt: skip


def verdict_ink(verdict: str) -> str:
    """The color of a verdict: green for maps that are supported, red for those that are not."""
    return {"correct": RIGHT, "wrong": WRONG, "unknown": FAINT}[verdict_kind(verdict)]


def verdict_kind(verdict: str) -> str:
    """Whether a verdict supports a map, ``"correct"``, rejects it, ``"wrong"``, or neither."""
    if verdict in ("supported", "partly supported"):
        return "correct"
    return "wrong" if verdict.startswith("not") else "unknown"


@house_style()
def scorecard_figure(card: "Scorecard", columns: int = 3) -> Figure:
    """One panel per image: the effect of hiding each cell against the map's sum in it."""
    if columns < 1:
        raise RenderError(f"columns: expected at least 1, got {columns}")
    shown = min(len(card), _MOST)
    across = min(columns, shown)
    rest = f" (the first {shown} of {len(card)} images)" if shown < len(card) else ""
    sheet = Sheet(
        -(-shown // across),
        [max(_WIDE, _TEXT / across)] * across,
        f"{bare_name(card.method or 'a map')} of {model_title(card.model)}: "
        f"hiding against the map{rest}",
        "A dot is a cell of the image: across, the map's sum in it; up, how much hiding it lowers "
        "the score. Band: the lines of 90 % of the map's shifted and flipped copies.",
        " ".join(card.notes),
    )
    for i in range(shown):
        row, column = divmod(i, across)
        axes = sheet.axes(row, column, _WIDE - 0.35, TALL - 0.15, shift=0.3)
        _draw(axes, card, i)
        predicts = float(card.p[i, 0])
        p = "" if np.isnan(predicts) else f", p = {predicts:.2g}"
        sheet.title(axes, column, card.verdict[i] + p, verdict_ink(card.verdict[i]))
    return sheet.figure


def _draw(axes: Axes, card: "Scorecard", i: int) -> None:
    """The cells of one image, with the band of the copies around the mean."""
    sums, effects = card.sums[i].numpy(), card.effects[i].numpy()
    axes.tick_params(labelsize=5.5, colors=FAINT, length=2, pad=1.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set(color=FAINT, linewidth=0.5)
    axes.ticklabel_format(scilimits=(-2, 3))
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_offset_text().set(size=5, color=FAINT)
    if not (np.isfinite(sums).all() and np.isfinite(effects).all()):
        return
    if not card.band[i].isnan().any():
        ends = np.array([sums.min(), sums.max()])
        steep = card.band[i].numpy() * effects.std() / sums.std()
        lines = effects.mean() + np.outer(steep, ends - sums.mean())
        axes.fill_between(ends, lines.min(0), lines.max(0), color=BAR, alpha=0.55, linewidth=0)
    axes.axhline(0, color=FAINT, linewidth=0.4, zorder=0)
    axes.scatter(sums, effects, s=7, color=INK, linewidths=0)


def scorecard_html(card: "Scorecard") -> str:
    """The verdicts, their sentences and p-values as a table; all text is escaped."""
    head = "".join(f"<th>{escape(name)}</th>" for name in ("image", "verdict", *_TESTS))
    rows = []
    for i, verdict in enumerate(card.verdict):
        p = "".join(
            f"<td>{'–' if np.isnan(value) else f'p = {value:.2g}'}</td>"
            for value in card.p[i].tolist()
        )
        name = escape(f"{i}, {card.target[i]}")
        rows.append(
            f'<tr><td>{name}</td><td style="text-align:left"><b style="color:'
            f'{verdict_ink(verdict)}">{escape(verdict)}</b><br>{escape(card.sentence(i))}</td>'
            f"{p}</tr>"
        )
    return (
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        f"<p><small>{escape(' '.join(card.notes))}</small></p>"
    )
