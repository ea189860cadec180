"""Random transforms of the image at each step, which make the result robust to them.

Mordvintsev, Olah and Tyka (2015), "Inceptionism"; Olah, Mordvintsev and Schubert (2017), "Feature
Visualization", doi:10.23915/distill.00007.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from explainkit.activation_maximization.problem import Problem
from explainkit.catalog.fields import Typed

Padding = Literal["reflection", "border", "zeros"]


def affine(
    images: Tensor, *, shift: Tensor, scale: Tensor, angle: Tensor, padding: Padding = "reflection"
) -> Tensor:
    """Shifts, scales and rotates each image about its center; the size stays the same.

    Output pixel p samples the input bilinearly at ``R(angle) · scale · p + shift``, with p measured
    from the center: a scale below 1 zooms in.

    Args:
        images: ``[batch, channel, height, width]``.
        shift: Vertical and horizontal offset in pixels, ``[batch, 2]``.
        scale: Vertical and horizontal factor, ``[batch, 2]``; negative values mirror.
        angle: In degrees, ``[batch]``.
        padding: How the outside of the image is filled.
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
    """Gaussian blur with reflection padding.

    Args:
        images: ``[batch, channel, height, width]``.
        sigma: In pixels, ``[batch]``.
        most: The largest possible sigma; it alone determines the kernel size.
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
class Transforms(Typed):
    """Random transforms of each image at each step, drawn from the unit's own generator.

    Attributes:
        jitter: Maximum shift in pixels; None: a twelfth of the shorter side, at most 16.
        scale: Maximum relative change of size.
        rotate: Maximum rotation in degrees.
        crop: Random crop whose side is at least 1 − ``crop`` of the image's, resized to full size.
        flip: Mirror horizontally with probability 0.5.
        blur: Maximum sigma of a Gaussian blur, in pixels.
        noise: Standard deviation of added Gaussian noise, in model-input units.
        padding: Fill of the border: ``"reflection"``, ``"border"`` (edge pixels) or ``"zeros"``.
    """

    jitter: int | None = field(default=None, metadata={"least": 0})
    scale: float = field(default=0.05, metadata={"least": 0, "below": 1})
    rotate: float = field(default=5.0, metadata={"least": 0, "below": math.inf})
    crop: float = field(default=0.0, metadata={"least": 0, "below": 1})
    flip: bool = False
    blur: float = field(default=0.0, metadata={"least": 0, "below": math.inf})
    noise: float = field(default=0.02, metadata={"least": 0, "below": math.inf})
    padding: Padding = "reflection"

    def transform(self, images: Tensor, problem: Problem) -> Tensor:
        """Applies one random draw per image to ``[unit, channel, height, width]``."""
        height, width = images.shape[2:]
        least = min(height, width)
        shift = min(least // 12, 16) if self.jitter is None else min(self.jitter, least - 1)
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
