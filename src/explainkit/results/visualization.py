"""The result of activation maximization."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WINDOW = 0.1
"""Share of the steps that one reading of a trace is the mean of: transforms make it noisy."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Visualization:
    """Images that units answer to most, with everything needed to judge and to reproduce them.

    Attributes:
        images: ``[unit, channel, height, width]`` in model-input space; a dead unit's is flat.
        opacity: Of each pixel, ``[unit, 1, height, width]``: 1 unless the objective has `alpha`, in
            which case the images lie on the middle of the valid range.
        objective: What each image maximizes, as text.
        score: The objective at each image, without transforms, ``[unit]``; NaN where dead.
        trace: The objective at each step as the maximizer saw it, ``[step, unit]``.
        rank: Place of each unit by its score, int64 ``[unit]``: 0 is the highest, dead ones last.
        dead: Units that answered to no image at all, bool ``[unit]``.
        converged: Units that gained less than 1 % of their rise in the last fifth of the steps;
            see `has_converged`.
        maximizer: Qualified name of the maximizer.
        params: Its hyper-parameters and the engine's own.
        model: Qualified name of the model, or module and class of one that isn't registered.
        layer: The inner layer that was read; None where it was the logits, or several layers.
        seed: Seed of all random draws.
        class_names: In the order of the logits; empty if they have no names.
        mean: Per channel; with ``std`` it takes images back to pixel / 255. None if unknown.
        std: Per channel.
        frames: Images on the way, ``[frame, unit, channel, height, width]``; may be empty.
        quality: Name of a measure to its value per unit, ``[unit]``.
        diagnostics: Warnings, and the steps of the frames.
        versions: Of Python, torch, explainkit and the plugins involved.
    """

    images: Tensor
    opacity: Tensor
    objective: tuple[str, ...]
    score: Tensor
    trace: Tensor
    rank: Tensor
    dead: Tensor
    converged: Tensor
    maximizer: str
    params: Mapping[str, Any]
    model: str
    layer: str | None = None
    seed: int = 0
    class_names: tuple[str, ...] = ()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    frames: Tensor
    quality: Mapping[str, Tensor] = field(default_factory=dict)
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int | slice) -> "Visualization":
        """One unit or some, still with the unit axis; ranks are among all."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"unit {index} of {len(self)}")
            start = index % len(self)
            index = slice(start, start + 1)
        changes = dict(vars(self))
        for name in ("images", "opacity", "objective", "score", "rank", "dead", "converged"):
            changes[name] = changes[name][index]
        for name in ("trace", "frames"):
            changes[name] = changes[name][:, index]
        changes["quality"] = {name: values[index] for name, values in self.quality.items()}
        return Visualization(**changes)

    def __repr__(self) -> str:
        shape = "×".join(map(str, self.images.shape))
        dead = int(self.dead.sum())
        return (
            f"<Visualization {self.maximizer} of {self.model}: {shape}, {self.objective[0]}"
            f"{', …' if len(self) > 1 else ''}{f', {dead} dead' if dead else ''}>"
        )

    def caption(self, index: int) -> str:
        """What is known of one image, in one line: objective, score, quality, what to doubt."""
        from explainkit.render.captions import caption

        return caption(self, index)

    def grid(self, *, columns: int | None = None) -> "Figure":
        """Draws all images in a grid, each with its caption; dead units are named, not drawn.

        Args:
            columns: Images in a row; chosen if None.
        """
        from explainkit.render.visualization import grid

        return grid(self, columns=columns)

    def traces(self) -> "Figure":
        """Draws each unit's objective over the steps."""
        from explainkit.render.visualization import traces

        return traces(self)

    def animate(self, path: str | Path, *, milliseconds: int = 100) -> Path:
        """Writes how the images came to be, as a GIF or APNG by the file's ending.

        Args:
            path: Ends in ``.gif`` or ``.png``.
            milliseconds: Per frame.

        Raises:
            RenderError: No frames were kept (``maximize(…, frames=24)``), or another ending.
        """
        from explainkit.render.visualization import animate

        return animate(self, Path(path), milliseconds=milliseconds)

    def save(self, directory: str | Path) -> Path:
        """Writes tensors (safetensors) and the rest (JSON) atomically; returns the folder."""
        from explainkit.results.storage import save

        return save(self, Path(directory))

    @staticmethod
    def load(directory: str | Path) -> "Visualization":
        """Reads what `save` wrote; refuses a folder that is incomplete or was changed."""
        from explainkit.results.storage import load

        return load(Visualization, Path(directory))

    def _repr_html_(self) -> str:
        from explainkit.render.visualization import to_html

        return to_html(self)


def ranked(score: Tensor, dead: Tensor) -> Tensor:
    """Place of each unit by its score, 0 the highest; dead ones come last, ties in order.

    Examples:
        >>> ranked(torch.tensor([1.0, 3.0, 2.0]), torch.tensor([False, True, False]))
        tensor([1, 2, 0])
    """
    order = score.masked_fill(dead, -torch.inf).argsort(descending=True, stable=True)
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))


def has_converged(trace: Tensor) -> Tensor:
    """Whether the last fifth of the steps brought less than 1 % of the whole rise.

    The trace is smoothed: each reading is the mean of a tenth of the steps. Transforms make it
    noisy all the same, so a gain counts only beyond two standard errors of the two readings, the
    noise being that of the steps from one to the next. A trace that never rose has converged.

    Args:
        trace: ``[step, unit]``.

    Returns:
        bool ``[unit]``.

    Examples:
        >>> steps = torch.linspace(0, 1, 100)[:, None]
        >>> has_converged(torch.cat([steps, 1 - torch.exp(-20 * steps)], 1))
        tensor([False,  True])
    """
    steps = len(trace)
    window = max(1, round(WINDOW * steps))
    first = max(0, round(0.8 * steps) - window)
    last = trace[-window:].mean(0)
    gain = last - trace[first:][:window].mean(0)
    # neighbors differ by twice a step's variance; what they differ by in the mean is the rise
    moves = trace[first:].diff(dim=0)
    noise = (moves.var(0, correction=0) / 2 if len(moves) else torch.zeros_like(gain)).sqrt()
    error = noise * math.sqrt(2 / window)
    return gain - 2 * error < 0.01 * (last - trace[0]).clamp_min(1e-12)
