"""Random changes of images that preserve their class."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

CELL = 8
"""Side of a cutout cell, in pixels."""


def augmented(
    images: Tensor, strength: Tensor, cutout: float, generator: torch.Generator
) -> Tensor:
    """Flips, rotates, scales and shifts images, changes their contrast and brightness, cuts out.

    At strength 1: mirrored with probability 0.5, rotation up to ±12°, scale ±10 %, shift ±4 pixels,
    contrast ±20 %, brightness ±0.4 (a tenth of the pixel range). A cut-out cell is 0, the mean.

    Args:
        images: Normalized, ``[n, 1, height, width]``: 0 is the mean of the data set.
        strength: Strength for each image, ``[n]``. At 0 an image is only resampled onto its own
            pixels; if all are 0, the images are returned unchanged.
        cutout: Share of the images that lose up to 30 % of their 8×8 cells. The origin of the
            cells is random.
        generator: Source of all random numbers, on the CPU.
    """
    draws = torch.rand(8, len(images), generator=generator)
    if strength.any():
        images = _relit(_transformed(images, strength, draws), strength, draws)
    if cutout:
        images = images.masked_fill(_cut_out(images, draws[7] < cutout, generator), 0.0)
    return images


def mixed(
    images: Tensor, targets: Tensor, shape: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mixes each image of a batch, and its target, with the one at the mirrored position (mixup).

    ``λ x + (1 - λ) x'`` and ``λ y + (1 - λ) y'`` with λ from Beta(shape, shape), replaced by 1 - λ
    where it is below 0.5, so that each image keeps the larger share.

    Args:
        images: ``[n, 1, height, width]``, in random order.
        targets: Class probabilities, ``[n, classes]``.
        shape: Parameter of the Beta distribution, above 0; the larger, the more even the mixtures.
        generator: Source of all random numbers, on the CPU.

    Source:
        Zhang, Cisse, Dauphin and Lopez-Paz, 2018, arXiv:1710.09412.
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    drawn = np.random.default_rng(seed).beta(shape, shape, len(images))
    share = torch.from_numpy(np.maximum(drawn, 1 - drawn)).to(images)[:, None]
    return (
        torch.lerp(images.flip(0), images, share[..., None, None]),
        torch.lerp(targets.flip(0), targets, share),
    )


def _transformed(images: Tensor, strength: Tensor, draws: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    one = 2 * draws - 1
    angle = one[0] * strength * math.radians(12)
    scale = 1 + 0.10 * one[1] * strength
    mirror = torch.where((draws[2] < 0.5) & (strength > 0), -1.0, 1.0)
    shift = 4 * strength * one[3:5] * 2 / torch.tensor([[width], [height]])
    cosine, sine = angle.cos() / scale, angle.sin() / scale
    rows = torch.stack([mirror * cosine, sine, shift[0], -mirror * sine, cosine, shift[1]], 1)
    grid = F.affine_grid(rows.view(-1, 2, 3), list(images.shape), align_corners=False)
    grid = grid.to(images.device)
    found: Tensor = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return found


def _relit(images: Tensor, strength: Tensor, draws: Tensor) -> Tensor:
    one = 2 * draws - 1
    light = torch.stack([1 + 0.2 * one[5] * strength, 0.4 * one[6] * strength])
    light = light.to(images.device)[:, :, None, None, None]
    return images * light[0] + light[1]


def _cut_out(images: Tensor, selected: Tensor, generator: torch.Generator) -> Tensor:
    """Mask of the cut-out pixels, bool, like the images; ``selected``: images that lose cells."""
    n, _, height, width = images.shape
    share = 0.3 * torch.rand(n, generator=generator) * selected
    cells = (n, 1, -(-height // CELL) + 1, -(-width // CELL) + 1)
    lost = torch.rand(*cells, generator=generator) < share.view(n, 1, 1, 1)
    mask = lost.repeat_interleave(CELL, 2).repeat_interleave(CELL, 3)
    top, left = torch.randint(CELL, (2,), generator=generator).tolist()
    return mask[:, :, top : top + height, left : left + width].to(images.device)
