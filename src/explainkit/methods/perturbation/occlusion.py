"""Occlusion: a window slides over the image, and the drop of the score is recorded there."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from explainkit.catalog.fields import Typed
from explainkit.errors import MethodError
from explainkit.interfaces import Attribution
from explainkit.methods.perturbation.baselines import Filling, fill_images
from explainkit.methods.perturbation.box_scores import evaluation
from explainkit.methods.perturbation.windows import Windows, inpainted, score_windows


@dataclass(frozen=True)
class Occlusion(Typed):
    """How much the score drops when a window hides part of the image.

    ``a(u) = mean over the windows W that cover pixel u of S_c(x) − S_c(x with W filled)``.
    The last window of a row or column is cropped at the border.

    Attributes:
        window: Side of the window in pixels, or height and width, of a volume depth, height and
            width; None: a sixth of the shorter side of the image, and of a volume's depth.
        stride: Step of the window in pixels; None: half of the window.
        channels: Number of neighboring channels that a window hides; the map then differs by
            channel. None: all.
        baseline: Fills the window, in model-input space: one value; a tensor ``[channel, height,
            width]`` or one per image; ``"mean"`` of each channel; ``"blur"``: the image blurred by
            a Gaussian with σ a tenth of its shorter side; ``"noise"`` with each channel's mean and
            deviation; ``"inpaint"``: the harmonic continuation of the pixels around the window. A
            volume has neither ``"blur"`` nor ``"inpaint"``.
        seed: Random seed of the noise; ``explain(seed=…)`` sets it.

    Raises:
        MethodError: The window does not fit the image, the stride leaves pixels uncovered, or the
            baseline does not fit.

    References:
        Zeiler and Fergus (2013), "Visualizing and Understanding Convolutional Networks",
        arXiv:1311.2901.

    Examples:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
        >>> x = torch.rand(1, 1, 2, 2)
        >>> a = Occlusion(window=1)(net, x, torch.tensor([1]))
        >>> torch.allclose(a.values.flatten(), x.flatten() * net[1].weight[1], atol=1e-6)
        True
    """

    hides_parts: ClassVar[bool] = True
    only_runs: ClassVar[bool] = True
    volumes: ClassVar[bool] = True

    window: int | tuple[int, int] | tuple[int, int, int] | None = None
    stride: int | tuple[int, int] | tuple[int, int, int] | None = None
    channels: int | None = None
    baseline: float | Tensor | Filling | Literal["inpaint"] = field(
        default=0.0, metadata={"per_image": True}
    )
    seed: int = field(default=0, metadata={"seed": True})

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns ``[batch, 1, height, width]`` in units of the score.

        With ``channels``, ``[batch, channel, height, width]``. The diagnostic ``evaluation`` says
        whether only the affected parts of the model ran.
        """
        with torch.no_grad():
            clean = model(inputs).gather(1, target[:, None])[:, 0].double()
        images = inputs.detach()
        sizes = tuple(images.shape[2:])
        sixth = [max(length // 6, 1) for length in (*sizes[:-2], *[min(sizes[-2:])] * 2)]
        window = _sides("window", tuple(sixth) if self.window is None else self.window, len(sizes))
        half = tuple(max(side // 2, 1) for side in window)
        stride = _sides("stride", half if self.stride is None else self.stride, len(sizes))
        windows = Windows(sizes, window, stride)
        harmonic = isinstance(self.baseline, str) and self.baseline == "inpaint"
        filling = images if harmonic else fill_images(self.baseline, images, self.seed)
        drops, runs = [], []
        for image, fill, label, score in zip(images, filling, target, clean, strict=True):
            patches = inpainted(image, windows) if harmonic else windows.cut(fill)
            for part in self._parts(len(image)):
                if part is not None:
                    hidden = torch.zeros(len(image), dtype=torch.bool, device=image.device)
                    hidden[part] = True
                    hidden = hidden.view(-1, *[1] * (image.dim() - 1))
                    own = torch.where(hidden, patches, windows.cut(image))
                scores, why = score_windows(model, image, windows, patches if part is None else own)
                drops.append(score - scores[:, label])
                runs.append(why)
        each = windows.average(torch.stack(drops)).to(images.dtype)
        values = each.view(len(images), -1, *each.shape[2:])
        if self.channels is not None:
            values = values.repeat_interleave(self.channels, 1)[:, : images.shape[1]]
        return Attribution(values, diagnostics=evaluation(runs))

    def _parts(self, count: int) -> list[slice | None]:
        """The channels that are hidden together; None: all."""
        if self.channels is None:
            return [None]
        if not 1 <= self.channels <= count:
            raise MethodError(
                f"channels: expected from 1 to the image's {count}, got {self.channels}"
            )
        return [slice(at, at + self.channels) for at in range(0, count, self.channels)]


def _sides(name: str, size: int | tuple[int, ...], axes: int) -> tuple[int, ...]:
    sides = tuple(size) if isinstance(size, tuple | list) else (size,) * axes
    if len(sides) != axes or not all(isinstance(side, int) for side in sides):
        wanted = "(height, width)" if axes == 2 else "(depth, height, width)"
        raise MethodError(
            f"{name}: expected a whole number of pixels or {wanted}, got {size}: channels= says "
            "how many channels a window covers"
        )
    return sides
