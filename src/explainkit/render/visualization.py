"""Figures and animations of activation maximization."""

import base64
import io
import math
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from explainkit.errors import RenderError
from explainkit.files import write_atomically
from explainkit.render.figure import parameters, png
from explainkit.render.heatmap import to_pixels
from explainkit.render.sheet import FAINT, INK, WRONG, fit, fit_name, house_style, page, show

if TYPE_CHECKING:
    from explainkit.results.visualization import Visualization

MOST = 32
"""Units that a notebook shows of a large layer."""

_CELL, _GAP, _MARGIN, _HEAD, _LINE = 1.5, 0.18, 0.25, 0.62, 0.1
_LINES, _MEASURED = 3, 6
"""Lines of a caption, without and with measures of quality."""

_SMALLEST = 96
"""Pixels of the shorter side of an image in an animation."""


@house_style()
def grid(visualization: "Visualization", *, columns: int | None = None) -> Figure:
    """All images, each with its objective above and its caption below.

    Args:
        visualization: What to draw.
        columns: Images in a row; None: about as many as rows.

    Raises:
        RenderError: No columns, or a normalization of other channels.
    """
    count = len(visualization)
    if columns is not None and columns < 1:
        raise RenderError(f"columns: expected at least 1, got {columns}")
    wide = min(count, columns or max(4, math.ceil(math.sqrt(1.6 * count))))
    rows = -(-count // wide)
    height, width = visualization.images.shape[2:]
    tall = min(_CELL * height / width, 3 * _CELL)
    lines = _MEASURED if visualization.quality else _LINES
    step = 0.16 + tall + lines * _LINE + _GAP
    total = max(wide * (_CELL + _GAP) - _GAP, 4.5) + 2 * _MARGIN, _HEAD + rows * step + _MARGIN
    figure = page(*total)
    inner = total[0] - 2 * _MARGIN
    shown = [
        to_pixels(image, visualization.mean, visualization.std) for image in visualization.images
    ]
    notes = dict.fromkeys(note for _, note in shown if note)
    title = f"{visualization.maximizer} of {visualization.model}"
    about = "; ".join([parameters(visualization.params), *notes])
    _write(figure, _MARGIN, 0.2, fit(title, inner / 1.25, 10.5), size=10.5, weight="bold")
    _write(figure, _MARGIN, 0.34, fit(about, inner, 6.5, 2), size=6.5, color=FAINT, va="top")
    for unit, (image, _) in enumerate(shown):
        left = _MARGIN + (unit % wide) * (_CELL + _GAP)
        top = _HEAD + (unit // wide) * step + 0.16
        name = fit_name(visualization.objective[unit], _CELL, 6.5)
        _write(figure, left, top - 0.04, name, size=6.5, va="bottom")
        box = left / total[0], 1 - (top + tall) / total[1], _CELL / total[0], tall / total[1]
        axes = figure.add_axes(box)
        if bool(visualization.dead[unit]):
            axes.set_axis_off()
            axes.text(0.5, 0.5, "dead", ha="center", va="center", size=8, color=WRONG)
        else:
            show(axes, image)
        caption = fit(visualization.caption(unit), _CELL, 5.5, lines)
        _write(figure, left, top + tall + 0.03, caption, size=5.5, color=FAINT, va="top")
    return figure


def _write(figure: Figure, left: float, top: float, text: str, **how: Any) -> None:
    width, height = figure.get_size_inches()
    figure.text(left / width, 1 - top / height, text, **{"color": INK, **how})


@house_style()
def traces(visualization: "Visualization") -> Figure:
    """Each unit's objective over the steps, as the maximizer saw it, under its transforms."""
    figure = page(6.4, 3.4)
    axes = figure.add_axes((0.11, 0.14, 0.86, 0.76))
    values = visualization.trace.detach().double().cpu().numpy()
    few = len(visualization) <= 10
    for unit in range(len(visualization)):
        if not bool(visualization.dead[unit]):
            label = visualization.objective[unit] if few else None
            axes.plot(values[:, unit], lw=1.2 if few else 0.6, alpha=1 if few else 0.5, label=label)
    if few and axes.lines:
        axes.legend(fontsize=6.5, frameon=False)
    axes.set_xlabel("step", size=7.5)
    axes.set_ylabel("objective", size=7.5)
    axes.tick_params(labelsize=6.5)
    axes.spines[["top", "right"]].set_visible(False)
    title = f"{visualization.maximizer} of {visualization.model}"
    axes.set_title(fit(title, 5.2, 8.5), size=8.5, loc="left")
    return figure


def animate(visualization: "Visualization", path: Path, *, milliseconds: int = 100) -> Path:
    """Writes the frames as one moving image, all units side by side.

    Args:
        visualization: With frames.
        path: Ends in ``.gif`` or ``.png`` (APNG).
        milliseconds: Per frame; the last one stays ten times as long.

    Raises:
        RenderError: There are no frames, the ending is another, or the file can't be written.
    """
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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, buffer.getvalue())
    except OSError as error:
        raise RenderError(f"can't write the image {path}: {error.strerror or error}") from error
    return path


def _frames(visualization: "Visualization") -> list[NDArray[np.uint8]]:
    """Each frame as one image; all frames of a unit share the range of its last image."""
    alive = [unit for unit in range(len(visualization)) if not bool(visualization.dead[unit])]
    if not alive:
        raise RenderError("expected a unit that is not dead to animate, got none")
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
    """Images and provenance for a notebook; every text is escaped."""
    shown = visualization if len(visualization) <= MOST else visualization[:MOST]
    data = base64.b64encode(png(grid(shown))).decode("ascii")
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
    rows = "".join(
        f'<tr><th style="text-align:left;padding-right:12px">{escape(name)}</th>'
        f'<td style="text-align:left;overflow-wrap:anywhere">{escape(value)}</td></tr>'
        for name, value in facts.items()
    )
    alt = escape(repr(visualization), quote=True)
    return (
        '<div style="font:13px system-ui,sans-serif;max-width:960px">'
        f'<img alt="{alt}" src="data:image/png;base64,{data}" '
        f'style="max-width:100%;background:white"><table>{rows}</table></div>'
    )
