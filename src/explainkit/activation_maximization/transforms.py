"""Small random changes of an image, under which a unit must still answer: robust maximization.

Mordvintsev, Olah and Tyka (2015), "Inceptionism"; Olah, Mordvintsev and Schubert (2017), "Feature
Visualization", doi:10.23915/distill.00007.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from explainkit.activation_maximization.problem import Problem
from explainkit.errors import MethodError

Padding = Literal["reflection", "border", "zeros"]


def affine(
    images: Tensor,
    *,
    shift: Tensor,
    scale: Tensor,
    angle: Tensor,
    padding: Padding = "reflection",
) -> Tensor:
    """Moves, scales and turns each image about its center; the size stays.

    Output pixel p shows the input at ``R(angle) · scale · p + shift``, bilinearly, with p counted
    from the center: a scale below 1 shows a part of the image enlarged.

    Args:
        images: ``[batch, channel, height, width]``.
        shift: Down and right, in pixels, ``[batch, 2]``.
        scale: Of height and width, ``[batch, 2]``; negative mirrors.
        angle: In degrees, ``[batch]``.
        padding: What lies outside the image.

    Returns:
        Like ``images``.
    """
    height, width = images.shape[2:]
    radians = angle * (math.pi / 180)
    cosine, sine = radians.cos(), radians.sin()
    down, right = scale.unbind(1)
    rows = [
        torch.stack([cosine * right, -sine * down * (height / width), 2 * shift[:, 1] / width], 1),
        torch.stack([sine * right * (width / height), cosine * down, 2 * shift[:, 0] / height], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, "bilinear", padding, align_corners=False)


def blur(images: Tensor, sigma: Tensor, most: float) -> Tensor:
    """Gaussian blur, mirrored at the border.

    Args:
        images: ``[batch, channel, height, width]``.
        sigma: In pixels, ``[batch]``.
        most: The largest sigma there can be; it alone sets the kernel's size.

    Returns:
        Like ``images``.
    """
    batch, channels, height, width = images.shape
    radius = min(max(1, math.ceil(3 * most)), min(height, width) - 1)
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    weights = torch.exp(-offsets.square() / (2 * sigma[:, None].clamp_min(1e-3).square()))
    kernel = (weights / weights.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    flat = images.reshape(1, batch * channels, height, width)
    flat = F.pad(flat, [radius] * 4, "reflect")
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=batch * channels)
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=batch * channels)
    return flat.reshape(images.shape)


@dataclass(frozen=True, kw_only=True)
class Transforms:
    """Random changes of each image at each step, drawn from the unit's own generator.

    Attributes:
        jitter: Shift by up to so many pixels; None: a twelfth of the shorter side, at most 16.
        scale: Enlarge or shrink by up to this share.
        rotate: Turn by up to so many degrees.
        crop: Show only a part, whose side is down to 1 − ``crop`` of the image's.
        flip: Mirror left and right half of the time.
        blur: Gaussian blur with a sigma of up to so many pixels.
        noise: Standard deviation of added noise, in units of model input.
        padding: What fills the border: the image mirrored, its edge, or zeros.
    """

    jitter: int | None = None
    scale: float = 0.05
    rotate: float = 5.0
    crop: float = 0.0
    flip: bool = False
    blur: float = 0.0
    noise: float = 0.02
    padding: Padding = "reflection"

    def __post_init__(self) -> None:
        for name in ("jitter", "rotate", "blur", "noise"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise MethodError(f"{name}: expected a number from 0, got {value}")
        for name in ("scale", "crop"):
            if not 0 <= getattr(self, name) < 1:
                raise MethodError(f"{name}: expected from 0 to below 1, got {getattr(self, name)}")
        if self.padding not in get_args(Padding):
            raise MethodError(
                f"padding: expected {', '.join(get_args(Padding))}, got {self.padding!r}"
            )

    def shift_limit(self, height: int, width: int) -> int:
        """The largest shift in pixels."""
        side = min(height, width)
        return min(side // 12, 16) if self.jitter is None else min(self.jitter, side - 1)

    def transform(self, images: Tensor, problem: Problem) -> Tensor:
        """Changes each image; ``[unit, channel, height, width]`` stays the size."""
        height, width = images.shape[2:]
        shift = self.shift_limit(height, width)
        if shift or self.scale or self.rotate or self.crop or self.flip:
            draws = problem.uniform(8)
            signed = 2 * draws - 1
            side = 1 - self.crop * draws[:, 4]
            sides = (side * (1 + self.scale * signed[:, 2]))[:, None].repeat(1, 2)
            if self.flip:
                sides[:, 1] *= torch.where(draws[:, 5] < 0.5, -1.0, 1.0)
            free = images.new_tensor([height, width]) * (1 - side[:, None]) / 2
            images = affine(
                images,
                shift=signed[:, :2] * shift + free * signed[:, 6:],
                scale=sides,
                angle=signed[:, 3] * self.rotate,
                padding=self.padding,
            )
        if self.blur:
            images = blur(images, self.blur * problem.uniform(1)[:, 0], self.blur)
        if self.noise:
            images = images + self.noise * problem.normal(*problem.shape)
        return images
