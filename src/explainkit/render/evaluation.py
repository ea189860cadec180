"""Draws evaluations: shares of verdicts as bars, and the mean statistic with its interval."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from explainkit.catalog.synonyms import model_title
from explainkit.render.sheet import BAR, FAINT, INK, Page, fit, fit_name, house_style
from explainkit.render.verdicts import FILLS, HATCHED, SHORT, ink_on

if TYPE_CHECKING:
    from explainkit.results.evaluation import Evaluation

_NAME, _BARS, _MEAN, _GAP, _MARGIN = 1.9, 4.0, 2.1, 0.25, 0.25
_ROW, _HEAD, _AXIS = 0.3, 0.95, 0.42
_WIDTH = 2 * _MARGIN + _NAME + _BARS + _MEAN + 2 * _GAP

_LEAST = 0.06
"""Share of a bar from which its number fits into it."""


@house_style()
def evaluation_figure(found: "Evaluation") -> Figure:
    """One row per method: shares of the verdicts as a bar, and the mean of the first test."""
    rows, counts = found.table(), found.verdicts()
    notes = fit(" ".join(found.notes), _WIDTH - 2 * _MARGIN, 6.5, 6)
    tall = _ROW * len(rows)
    page = Page(_WIDTH, _HEAD + tall + _AXIS + 0.2 + 0.11 * (notes.count("\n") + 1))
    title = f"{model_title(found.model)}: {len(found)} images"
    page.write_line(_MARGIN, 0.2, title, 10.5, va="center", weight="bold")
    left = _MARGIN + _NAME + _GAP
    bars = page.box(left, _HEAD, _BARS, tall)
    _draw_bars(bars, counts, len(found))
    _draw_means(page.box(left + _BARS + _GAP, _HEAD, _MEAN, tall), rows)
    for i, row in enumerate(rows):
        name = fit_name(str(row["method"]), _NAME + _GAP, 8)
        page.write(left - 0.1, _HEAD + (i + 0.5) * _ROW, name, 8, ha="right", va="center")
    _write_key(page, left, list(counts[0]))
    page.write(left + _BARS + _GAP, _HEAD - 0.1, "predicts: mean and 95 % interval", 7, color=FAINT)
    page.write(_MARGIN, page.height - 0.08, notes, 6.5, va="bottom", color=FAINT)
    return page.figure


def _draw_bars(axes: Axes, counts: list[dict[str, int]], total: int) -> None:
    """Stacked shares, each with its percentage where that fits."""
    for i, row in enumerate(counts):
        start = 0.0
        for verdict, count in row.items():
            if not count:
                continue
            share = count / total
            _draw_bar(axes, i, start, share, 0.74, verdict)
            if share >= _LEAST:
                axes.text(
                    start + share / 2, i, f"{100 * share:.0f}", ha="center", va="center_baseline",
                    size=7, color=ink_on(FILLS[verdict]),
                )  # fmt: skip
            start += share
    axes.set_xlim(0, 1)
    _finish(axes, len(counts), [0, 0.25, 0.5, 0.75, 1.0], ["0", "25", "50", "75", "100 %"])


def _draw_bar(axes: Axes, row: float, left: float, wide: float, tall: float, verdict: str) -> None:
    """A part of a bar in the color of a verdict; hatched where it says nothing about the map."""
    hatched = verdict in HATCHED
    axes.barh(
        row, wide, tall, left=left, linewidth=0.5, facecolor=FILLS[verdict],
        edgecolor=FAINT if hatched else BAR, hatch="/////" if hatched else None,
    )  # fmt: skip


def _draw_means(axes: Axes, rows: list[dict[str, object]]) -> None:
    """The mean of the first test and its interval, on a scale that has 0."""
    keys = ("predicts", "predicts_low", "predicts_high")
    values = np.array([[row[key] for key in keys] for row in rows], dtype=float)
    for i, (mean, low, high) in enumerate(values):
        if np.isfinite(mean):
            axes.plot([low, high], [i, i], color=INK, linewidth=1.1, solid_capstyle="butt")
            axes.plot(mean, i, "o", color=INK, markersize=3.6)
    known = values[np.isfinite(values)]
    low = min(-0.1, known.min(initial=0) - 0.05)
    axes.set_xlim(low, max(0.5, known.max(initial=0) + 0.05))
    axes.axvline(0, color=BAR, linewidth=0.8, zorder=0)
    ticks = [tick for tick in (-1, -0.5, 0, 0.5, 1) if axes.get_xlim()[0] <= tick]
    ticks = [tick for tick in ticks if tick <= axes.get_xlim()[1]]
    _finish(axes, len(rows), ticks, [f"{tick:g}".replace("-", "−") for tick in ticks])


def _finish(axes: Axes, count: int, ticks: list[float], labels: list[str]) -> None:
    axes.set_ylim(count - 0.5, -0.5)
    axes.set_yticks([])
    axes.set_xticks(ticks, labels)
    axes.tick_params(labelsize=6.5, colors=FAINT, length=2, pad=2)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set(color=FAINT, linewidth=0.5)


def _write_key(page: Page, left: float, verdicts: list[str]) -> None:
    """The verdicts in their colors, in as many lines as they need."""
    across, top = left, _HEAD - 0.36
    for verdict in verdicts:
        wide = 0.15 + 0.058 * len(SHORT[verdict]) + 0.13
        if across + wide > left + _BARS:
            across, top = left, top + 0.17
        box = page.box(across, top - 0.05, 0.1, 0.1)
        box.set(xlim=(0, 1), ylim=(-0.5, 0.5))
        box.set_axis_off()
        _draw_bar(box, 0, 0, 1, 1, verdict)
        page.write(across + 0.15, top, SHORT[verdict], 7, va="center", color=INK)
        across += wide
