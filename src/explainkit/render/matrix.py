"""The figure of a confusion matrix."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from explainkit.errors import RenderError
from explainkit.render.sheet import FAINT, INK, Page, fit, fit_name, house_style


@house_style()
def matrix_figure(
    counts: NDArray[np.int64], class_names: Sequence[str], title: str = "confusion matrix"
) -> Figure:
    """A confusion matrix: the share of each row as color and percentage, counts in small print."""
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
    page = Page(width, bottom + side + top)
    axes = page.box(left, top, side, side)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Purples", vmin=0, vmax=1)
    for i in range(n):
        for j in range(n):
            ink = "white" if shares[i, j] > 0.55 else INK if shares[i, j] >= 0.005 else "#b8b8c4"
            weight = "bold" if i == j else "normal"
            how: dict[str, Any] = {"color": ink, "ha": "center", "va": "center"}
            axes.text(j, i - 0.062 * inch, f"{shares[i, j]:.0%}", size=8, weight=weight, **how)
            axes.text(j, i + 0.155 * inch, str(counts[i, j]), size=5.5, **how)
    axes.set_xticks(range(n), names, size=7, color=INK, rotation=90 if upright else 0)
    axes.set_yticks(range(n), names, size=7, color=INK)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(n + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(n + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)
    about = "rows: true class; columns: predicted class; percentages of each row"
    page.write(0.12, head, title, 9.5, weight="bold", va="bottom")
    page.write(0.12, head + 0.15, about, 7, color=FAINT, va="center")
    return page.figure
