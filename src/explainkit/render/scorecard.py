"""Draws scorecards: effects against attributions, and the verdicts in words."""

from html import escape
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from explainkit.catalog.synonyms import bare_name
from explainkit.errors import RenderError
from explainkit.render.sheet import BAR, FAINT, INK, RIGHT, TALL, WRONG, Sheet, house_style

if TYPE_CHECKING:
    from explainkit.results.scorecard import Scorecard

_WIDE, _MOST = 2.1, 24
_TESTS = ("predicts", "beyond the image", "this class")


def verdict_ink(verdict: str) -> str:
    """The color of a verdict: green for maps that are supported, red for those that are not."""
    if verdict in ("supported", "partly supported"):
        return RIGHT
    return WRONG if verdict.startswith("not") else FAINT


@house_style()
def scorecard_figure(card: "Scorecard", columns: int = 3) -> Figure:
    """One panel per image: the effect of hiding each cell against the map's sum in it.

    Args:
        card: The scorecard.
        columns: Panels side by side.

    Raises:
        RenderError: No columns.
    """
    if columns < 1:
        raise RenderError(f"columns: expected at least 1, got {columns}")
    shown = min(len(card), _MOST)
    across = min(columns, shown)
    rest = f" (the first {shown} of {len(card)} images)" if shown < len(card) else ""
    sheet = Sheet(
        -(-shown // across),
        [_WIDE] * across,
        f"{bare_name(card.method or 'a map')} of {card.model}: hiding against the map{rest}",
        "A dot is a cell of the image: across, the map's sum in it; up, how much hiding it lowers "
        "the score. Band: the lines of 90 % of the map's shifted and flipped copies.",
        card.caveat,
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
    several = f" P-values are adjusted for {card.methods} methods (Holm)." * (card.methods > 1)
    return (
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        f"<p><small>{escape(card.caveat)}{several}</small></p>"
    )
