"""The result of activation maximization."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from explainkit.expressions.text import shortened
from explainkit.scores import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WINDOW = 0.1
"""The fraction of the steps over which the noisy trace is averaged."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Visualization:
    """Images that maximally activate units, with everything needed to judge and reproduce them.

    Attributes:
        images: ``[unit, channel, height, width]`` in model-input space; uniform for a dead unit.
        opacity: Opacity of each pixel, ``[unit, 1, height, width]``: 1 unless the objective has
            `alpha`, in which case the images are composited on the middle of the valid range.
        objective: The objective of each image, as text.
        score: The objective of each image, without transforms, ``[unit]``; NaN for dead units.
        trace: The objective at each step, with transforms, ``[step, unit]``.
        rank: Rank of each unit by its score, int64 ``[unit]``: 0 is the highest, dead units last.
        dead: Units that no image activated, bool ``[unit]``.
        converged: Units whose objective rose by less than 1 % of its total rise in the last fifth
            of the steps; see `has_converged`.
        maximizer: Qualified name of the maximizer.
        params: Its hyper-parameters, and those of `maximize`.
        model: Qualified name of the model, or module and class if it is not registered.
        layer: The inner layer of the objectives; None for logits or several layers.
        seed: Random seed.
        task: What the logits decide, as in `Explanation`; a single logit may be ``"binary"``
            without being called so.
        output: Which of the model's outputs they are; None if it was not ambiguous.
        class_names: In the order of the classes; empty if they have no names.
        mean: Per channel, for the normalization ``(pixel / 255 - mean) / std``; None if unknown.
        std: Per channel; None if unknown.
        frames: Intermediate images, ``[frame, unit, channel, height, width]``; may be empty.
        quality: Name of a quality measure to its value per unit, ``[unit]``.
        diagnostics: Warnings, and the steps of the frames.
        versions: Versions of Python, torch, explainkit and the plugins involved.
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
    task: Task = "classification"
    output: int | str | None = None
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
        """One or several units, with the unit axis; ranks remain those among all units."""
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
        dead, first = int(self.dead.sum()), shortened(self.objective[0])
        return (
            f"<Visualization {self.maximizer} of {self.model}: {shape}, {first}"
            f"{', …' if len(self) > 1 else ''}{f', {dead} dead' if dead else ''}>"
        )

    def caption(self, index: int) -> str:
        """A one-line caption of one image: objective, score, quality flags."""
        from explainkit.render.captions import caption

        return caption(self, index)

    def grid(self, *, columns: int | None = None, most: int | None = 64) -> "Figure":
        """Draws the images in a grid, with captions; dead units are listed instead of drawn.

        Args:
            columns: Images per row; None: chosen.
            most: Draw only this many units, the first ones; None: all.
        """
        from explainkit.render.visualization import grid

        return grid(self, columns=columns, most=most)

    def traces(self) -> "Figure":
        """Plots each unit's objective over the steps."""
        from explainkit.render.visualization import traces

        return traces(self)

    def animate(self, path: str | Path, *, milliseconds: int = 100) -> Path:
        """Writes an animation of the optimization as GIF or APNG, by the file's suffix.

        Args:
            path: Ends in ``.gif`` or ``.png``.
            milliseconds: Duration of a frame.

        Raises:
            RenderError: No frames were recorded (``maximize(…, frames=24)``), or another suffix.
        """
        from explainkit.render.visualization import animate

        return animate(self, Path(path), milliseconds=milliseconds)

    def save(self, directory: str | Path) -> Path:
        """Writes tensors as safetensors and the rest as JSON, atomically; returns the folder."""
        from explainkit.results.storage import save

        return save(self, Path(directory))

    @staticmethod
    def load(directory: str | Path) -> "Visualization":
        """Loads what `save` wrote; an incomplete or changed folder is an error."""
        from explainkit.results.storage import load

        return load(Visualization, Path(directory))

    def _repr_html_(self) -> str:
        from explainkit.render.visualization import to_html

        return to_html(self)


def ranked(score: Tensor, dead: Tensor) -> Tensor:
    """Rank of each unit by its score, 0 for the highest; dead units last, ties in order.

    Examples:
        >>> ranked(torch.tensor([1.0, 3.0, 2.0]), torch.tensor([False, True, False]))
        tensor([1, 2, 0])
    """
    order = score.masked_fill(dead, -torch.inf).argsort(descending=True, stable=True)
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))


def has_converged(trace: Tensor) -> Tensor:
    """Whether the objective rose by less than 1 % of its total rise in the last fifth of the steps.

    Both ends are averaged over a tenth of the steps, since transforms make the trace noisy. A gain
    must also exceed two standard errors of these averages, with the noise estimated from
    differences of consecutive steps. A trace that never rises has converged.

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
    # a difference of consecutive steps has twice the variance of the noise; its mean is the slope
    moves = trace[first:].diff(dim=0)
    noise = (moves.var(0, correction=0) / 2 if len(moves) else torch.zeros_like(gain)).sqrt()
    error = noise * math.sqrt(2 / window)
    return gain - 2 * error < 0.01 * (last - trace[0]).clamp_min(1e-12)
