"""Figures and animations of activation maximization."""

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from explainkit.errors import RenderError
from explainkit.files import write_file
from explainkit.render.captions import headline, unit_name
from explainkit.render.figure import png_text
from explainkit.render.heatmap import to_pixels
from explainkit.render.parameters import parameters
from explainkit.render.sheet import FAINT, WRONG, Page, balanced, fit, fit_name, house_style, show
from explainkit.render.templates import fill

if TYPE_CHECKING:
    from explainkit.results.visualization import Visualization

MOST = 32
"""Units of a large layer that a notebook shows."""

_CELL, _GAP, _MARGIN, _HEAD, _LINE = 1.5, 0.18, 0.25, 0.62, 0.125
_LINES, _MEASURED = 2, 7
"""Lines of a caption, without and with quality measures."""

_SMALLEST = 96
"""Minimum length in pixels of an image's shorter side in an animation."""


@house_style()
def grid(
    visualization: "Visualization", *, columns: int | None = None, most: int | None = 64
) -> Figure:
    """The images of all units in a grid, each with its number above and its caption below."""
    for name, value in (("columns", columns), ("most", most)):
        if value is not None and value < 1:
            raise RenderError(f"{name}: expected at least 1, got {value}")
    units = len(visualization)
    count = min(units, most or units)
    wide = min(count, columns or balanced(count, max(4, math.ceil(math.sqrt(1.6 * count)))))
    rows = -(-count // wide)
    height, width = visualization.images.shape[2:]
    tall = min(_CELL * height / width, 3 * _CELL)
    lines = _MEASURED if visualization.quality else _LINES
    step = 0.18 + tall + lines * _LINE + _GAP
    inner = max(wide * (_CELL + _GAP) - _GAP, 4.5)
    page = Page(inner + 2 * _MARGIN, _HEAD + rows * step + _MARGIN)
    shown = [
        to_pixels(image, visualization.mean, visualization.std)
        for image in visualization.images[:count]
    ]
    notes = dict.fromkeys(note for _, note in shown if note)
    amount = f"{units} unit{'s' if units > 1 else ''}"
    about = "; ".join([amount if count == units else f"first {count} of {amount}", *notes])
    page.write_line(_MARGIN, 0.2, headline(visualization), 10.5, weight="bold")
    page.write_line(_MARGIN, 0.34, about, 6.5, 2, color=FAINT, va="top")
    for unit, (image, _) in enumerate(shown):
        left = _MARGIN + (unit % wide) * (_CELL + _GAP)
        top = _HEAD + (unit // wide) * step + 0.18
        name = fit_name(unit_name(visualization, unit), _CELL, 8)
        page.write(left, top - 0.04, name, 8, weight="bold", va="bottom")
        axes = page.box(left, top, _CELL, tall)
        if bool(visualization.dead[unit]):
            axes.set_axis_off()
            axes.text(0.5, 0.5, "dead", ha="center", va="center", size=8, color=WRONG)
        else:
            show(axes, image)
        caption = fit(visualization.caption(unit), _CELL + _GAP / 2, 7, lines)
        page.write(left, top + tall + 0.04, caption, 7, va="top")
    return page.figure


@house_style()
def traces(visualization: "Visualization") -> Figure:
    """Each unit's objective at every step, under the maximizer's random transforms."""
    figure = Page(6.4, 3.4).figure
    few = len(visualization) <= 10
    axes = figure.add_axes((0.11, 0.14, 0.7 if few else 0.86, 0.76))
    values = visualization.trace.detach().double().cpu().numpy()
    for unit in range(len(visualization)):
        if not bool(visualization.dead[unit]):
            label = fit_name(unit_name(visualization, unit), 0.8, 6.5) if few else None
            axes.plot(values[:, unit], lw=1.2 if few else 0.6, alpha=1 if few else 0.5, label=label)
    if few and axes.lines:
        axes.legend(fontsize=6.5, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("step", size=7.5)
    axes.set_ylabel("objective", size=7.5)
    axes.tick_params(labelsize=6.5)
    axes.spines[["top", "right"]].set_visible(False)
    title = headline(visualization)
    axes.set_title(fit(title, 5.2, 8.5), size=8.5, loc="left")
    return figure


def animate(visualization: "Visualization", path: Path, *, milliseconds: int = 100) -> Path:
    """Writes the frames as an animation, all units side by side; returns the path."""
    if not len(visualization.frames):
        raise RenderError("expected frames to animate, got none: call maximize(…, frames=24)")
    if milliseconds < 1:
        raise RenderError(f"milliseconds: expected at least 1, got {milliseconds}")
    kinds = {".gif": "GIF", ".png": "PNG"}
    if path.suffix.lower() not in kinds:
        raise RenderError(f"expected a file that ends in .gif or .png, got {path.name!r}")
    stills = [Image.fromarray(frame) for frame in _frames(visualization)]
    durations = [milliseconds] * (len(stills) - 1) + [10 * milliseconds]
    buffer = io.BytesIO()
    stills[0].save(
        buffer, kinds[path.suffix.lower()], save_all=True, append_images=stills[1:],
        duration=durations, loop=0,
    )  # fmt: skip
    return write_file(path, buffer.getvalue(), RenderError)


def _frames(visualization: "Visualization") -> list[NDArray[np.uint8]]:
    """Each frame as one image; all frames of a unit use the value range of its final image."""
    alive = [unit for unit in range(len(visualization)) if not bool(visualization.dead[unit])]
    if not alive:
        raise RenderError("expected at least one unit that is not dead, got none")
    frames = visualization.frames[:, alive].detach().double().cpu()
    if visualization.mean is None or visualization.std is None:
        last = visualization.images[alive].detach().double().cpu()
        low, high = last.amin((1, 2, 3), keepdim=True), last.amax((1, 2, 3), keepdim=True)
        frames = ((frames - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    zoom = -(-_SMALLEST // min(frames.shape[3:]))
    wide = math.ceil(math.sqrt(len(alive)))
    found = []
    for frame in frames:
        cells = [
            np.atleast_3d(to_pixels(image, visualization.mean, visualization.std)[0])
            for image in frame
        ]
        blank = np.ones_like(cells[0])
        cells += [blank] * (-len(cells) % wide)
        cells = [np.pad(cell.repeat(zoom, 0).repeat(zoom, 1), ((2, 2), (2, 2), (0, 0)),
                        constant_values=1.0) for cell in cells]  # fmt: skip
        lines = [np.concatenate(cells[i : i + wide], 1) for i in range(0, len(cells), wide)]
        sheet = np.concatenate(lines)
        found.append((sheet.repeat(3 // sheet.shape[2], 2) * 255).round().astype(np.uint8))
    return found


def to_html(visualization: "Visualization") -> str:
    """The notebook view: images, and how they were computed; all text is escaped."""
    shown = visualization if len(visualization) <= MOST else visualization[:MOST]
    dead = [name for name, d in zip(shown.objective, shown.dead, strict=True) if bool(d)]
    facts = {
        "maximizer": visualization.maximizer,
        "parameters": parameters(visualization.params) or "none",
        "model": visualization.model,
        "units": f"{len(visualization)}" + ("" if shown is visualization else f", {MOST} shown"),
        "converged": f"{int(visualization.converged.sum())} of {len(visualization)}",
        "dead": ", ".join(dead) or "none",
        "versions": ", ".join(f"{k} {v}" for k, v in visualization.versions.items()),
    }
    return fill(
        "explainkit.render", "visualization.html",
        alt=repr(visualization), data=png_text(grid(shown)), rows=facts.items(),
    )  # fmt: skip
