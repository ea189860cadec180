"""Charts of the study: training curves, recalls, and what falls on the parts of faces."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from explainkit.render.sheet import FAINT, INK, Page, fit_name, house_style
from explainkit_fer_hw3.faces import PARTS
from explainkit_fer_hw3.study.curves import Curve
from explainkit_fer_hw3.study.detectors import Detectors
from explainkit_fer_hw3.study.parts import PartShares
from explainkit_fer_hw3.study.predictions import Predictions

COLORS = ("#5b4b9a", "#d9822b", "#2a7f8e", "#a33b5c")
"""One per network or run; distinguishable in gray and for color-blind readers."""

_GRID = "#e6e7ee"

_DOTS = 40
"""Curves with more values have no dots, which would hide the dashes."""


@house_style()
def curves_figure(
    curves: Sequence[Curve],
    *what: str,
    title: str = "",
    note: str = "dashed: training; solid: validation",
) -> Figure:
    """Training (dashed) and validation (solid) over the epochs, one panel per run and quantity."""
    panels = [(curve, k, one) for k, curve in enumerate(curves) for one in what]
    wide, high, left, gap, head, foot = 2.9, 1.9, 0.55, 0.5, 0.8, 0.5
    width = left + len(panels) * wide + (len(panels) - 1) * gap + 0.25
    height = head + high + foot
    page = _page(width, height, title or f"{' and '.join(what)} over the epochs", note)
    for column, (curve, k, one) in enumerate(panels):
        axes = _axes(page, left + column * (wide + gap), head, wide, high, grid="y")
        for key, dashes in ((one, (0, (3, 2))), (f"validation_{one}", "solid")):
            values = curve.values.get(key)
            if values is None:
                continue
            shown = np.array([np.nan if v is None else v for v in values])
            axes.plot(
                curve.epochs, shown, color=COLORS[k % len(COLORS)], linewidth=1.5,
                linestyle=dashes, marker="o", markersize=2.2, markevery=_dots(shown),
                label=key.replace("_", " "),
            )  # fmt: skip
        axes.set_xlim(0, 1.02 * max(*curve.epochs, 2))
        axes.set_ylim(0, 1 if one == "accuracy" else None)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
        axes.set_xlabel("epoch", size=7, color=FAINT)
        name = curve.name if len(what) == 1 else f"{curve.name}: {one}"
        axes.set_title(fit_name(name, wide, 7.5), size=7.5, color=INK, loc="left", pad=4)
    return page.figure


def _dots(values: np.ndarray) -> list[int]:
    """Indices that get a dot: all of a short curve, else isolated values that no line reaches."""
    known = np.isfinite(values)
    if known.sum() <= _DOTS:
        return [int(i) for i in np.flatnonzero(known)]
    beside = np.pad(known, 1)
    return [int(i) for i in np.flatnonzero(known & ~beside[:-2] & ~beside[2:])]


@house_style()
def recalls_figure(predictions: Sequence[Predictions], models: Sequence[str]) -> Figure:
    """Recall per class and overall accuracy of each network, with 95 % Wilson intervals."""
    from explainkit_fer_hw3.scores import wilson

    names = predictions[0].class_names
    wide, row, left, head, foot = 4.2, 0.34, 1.15, 0.5, 0.4
    high = row * (len(names) + 1)
    page = _page(
        left + wide + 0.3, head + high + foot,
        "recall per class, and accuracy", "bars: 95 % Wilson intervals",
    )  # fmt: skip
    axes = _axes(page, left, head, wide, high, grid="x")
    step = 0.5 / max(len(predictions), 2)
    for k, (one, model) in enumerate(zip(predictions, models, strict=True)):
        counts = one.counts
        correct = [*counts.diag().tolist(), int(counts.diag().sum())]
        of = [*counts.sum(1).tolist(), len(one)]
        rows = np.arange(len(of)) + (k - (len(predictions) - 1) / 2) * step
        for y, hits, n in zip(rows, correct, of, strict=True):
            if not n:
                continue
            interval = wilson(hits, n)
            color = COLORS[k % len(COLORS)]
            axes.plot(interval, [y, y], color=color, linewidth=1.6, alpha=0.55)
            axes.plot([hits / n], [y], "o", color=color, markersize=4, clip_on=False)
        axes.plot([], [], "o-", color=COLORS[k % len(COLORS)], markersize=4, label=model)
    axes.axhline(len(names) - 0.5, color=FAINT, linewidth=0.6)
    axes.set_yticks(
        range(len(names) + 1), [*(fit_name(name, left, 7) for name in names), "all images"]
    )
    axes.set(xlim=(0, 1), ylim=(len(names) + 0.5, -0.5))
    # above the plot: beside it, its dots would pass for recalls
    axes.legend(
        loc="lower right", bbox_to_anchor=(1.02, 0.98), ncols=len(models), frameon=False,
        fontsize=7, labelcolor=INK,
    )  # fmt: skip
    return page.figure


@house_style()
def shares_figure(shares: Sequence[PartShares], title: str) -> Figure:
    """Share of |a| on the expressive parts of each class, beside its three controls."""
    wide, row, left, head, foot = 4.2, 0.36, 1.15, 0.5, 0.4
    high = row * len(shares)
    page = _page(left + wide + 1.35, head + high + foot, title, "lines: 95 % bootstrap intervals")
    axes = _axes(page, left, head, wide, high, grid="x")
    axes.set_axisbelow(True)
    rows = np.arange(len(shares))
    axes.barh(
        rows, [s.share.value for s in shares], height=0.5, color=COLORS[0], alpha=0.75,
        label="this face's map",
    )  # fmt: skip
    for y, s in zip(rows, shares, strict=True):
        axes.plot(s.share.interval, [y, y], color=INK, linewidth=1.2)
    marks = (
        ("area", "|", INK, [s.area for s in shares]),
        ("noise", "x", FAINT, [s.noise for s in shares]),
        ("another face's map", "D", COLORS[1], [s.other.value for s in shares]),
    )
    for label, marker, color, values in marks:
        axes.plot(
            values, rows, marker, color=color, label=label, linestyle="none",
            markersize=9 if marker == "|" else 4, markeredgewidth=1.6 if marker == "|" else 1,
        )  # fmt: skip
    axes.set_yticks(rows, [s.class_name for s in shares])
    axes.set(xlim=(0, 1), ylim=(len(shares) - 0.5, -0.5))
    axes.legend(
        loc="upper left", bbox_to_anchor=(1.0, 1.02), frameon=False, fontsize=6.5, labelcolor=INK
    )
    return page.figure


@house_style()
def detectors_figure(found: Detectors, names: Sequence[str], title: str) -> Figure:
    """The enrichment of each part in what activates each unit; outlined: what the unit detects."""
    side, left = 0.5, 1.15
    wide, high, head = side * len(PARTS), 0.3 * len(names), 1.0
    page = _page(
        left + wide + 0.2, head + high + 0.15, title,
        "a part's share of the most activated pixels over its share of all pixels; outlined: the "
        "part that is significantly above chance (1) and another face",
    )  # fmt: skip
    axes = _axes(page, left, head, wide, high, grid="x")
    axes.grid(visible=False)
    values = found.enrichment.nan_to_num(0).numpy()
    # each doubling is a step of the same size; 1, chance, is white
    axes.imshow(
        np.log2(np.maximum(values, 1)), cmap="Purples", vmin=0, vmax=np.log2(12), aspect="auto"
    )
    for unit in range(len(names)):
        part = found.part(unit)
        for code in range(len(PARTS)):
            value = values[unit, code]
            ink = "white" if value > 4 else INK if value >= 1 else "#b8b8c4"
            axes.text(code, unit, f"{value:.1f}", size=6.5, color=ink, ha="center", va="center")
        if part is not None:
            axes.add_patch(
                Rectangle((PARTS.index(part) - 0.5, unit - 0.5), 1, 1, fill=False, ec=INK, lw=1.2)
            )
    axes.set_yticks(range(len(names)), [fit_name(name, left, 7) for name in names])
    axes.set_xticks(range(len(PARTS)), PARTS, rotation=30, ha="left", rotation_mode="anchor")
    axes.xaxis.tick_top()
    return page.figure


def _page(width: float, height: float, title: str, under: str) -> Page:
    page = Page(width, height)
    page.write_line(0.15, 0.18, title, 9.5, weight="bold", va="center")
    page.write_line(0.15, 0.3, under, 7, 2, color=FAINT, va="top")
    return page


def _axes(
    page: Page, left: float, top: float, width: float, height: float, *, grid: Literal["x", "y"]
) -> Axes:
    axes = page.box(left, top, width, height)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=7, labelcolor=INK)
    axes.grid(axis=grid, color=_GRID, linewidth=0.6)
    return axes
