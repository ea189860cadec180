"""Random changes of images that leave their class as it is."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

CELL = 8
"""Side of a deleted square, in pixels."""


def augmented(
    images: Tensor, strength: Tensor, cutout: float, generator: torch.Generator
) -> Tensor:
    """Flips, turns, scales and shifts images, changes their light, and deletes cutout.

    At strength 1: mirrored half of the time, up to ±12°, ±10 % of size, ±4 pixels, ±20 % of
    contrast, ±0.4 (a tenth of the pixels' range) of brightness. A deleted cell is 0, the mean.

    Args:
        images: Normalized, ``[n, 1, height, width]``: 0 is the mean of the data set.
        strength: Of each image, ``[n]``; at 0 an image is only resampled onto its own grid,
            and where it is 0 for all of them they stay what they are.
        cutout: Share of the images that lose up to 30 % of their 8×8 cutout, whose grid begins
            anywhere.
        generator: Every random number comes from it; on the CPU.

    Returns:
        Images of the same shape.
    """
    draws = torch.rand(8, len(images), generator=generator)
    if strength.any():
        images = _lit(_moved(images, strength, draws), strength, draws)
    if cutout:
        images = images.masked_fill(_lost(images, draws[7] < cutout, generator), 0.0)
    return images


def mixed(
    images: Tensor, targets: Tensor, shape: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mixes each image of a shuffled batch with the one opposite, and their targets alike.

    ``λ x + (1 - λ) x'`` and ``λ y + (1 - λ) y'`` with λ from Beta(shape, shape), turned round where
    it is below a half: an image stays the greater part of itself.

    Args:
        images: ``[n, 1, height, width]``, in an order that tells nothing.
        targets: Probability of each class, ``[n, classes]``.
        shape: Of the distribution: the greater, the more even the mixtures; above 0.
        generator: Every random number comes from it; on the CPU.

    Returns:
        Images and targets of the same shapes.

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


def _moved(images: Tensor, strength: Tensor, draws: Tensor) -> Tensor:
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
    moved: Tensor = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return moved


def _lit(images: Tensor, strength: Tensor, draws: Tensor) -> Tensor:
    one = 2 * draws - 1
    light = torch.stack([1 + 0.2 * one[5] * strength, 0.4 * one[6] * strength])
    light = light.to(images.device)[:, :, None, None, None]
    return images * light[0] + light[1]


def _lost(images: Tensor, losing: Tensor, generator: torch.Generator) -> Tensor:
    """Where pixels are deleted, bool, in the shape of the images; ``losing`` tells in which."""
    n, _, height, width = images.shape
    share = 0.3 * torch.rand(n, generator=generator) * losing
    places = (n, 1, -(-height // CELL) + 1, -(-width // CELL) + 1)
    lost = torch.rand(*places, generator=generator) < share.view(n, 1, 1, 1)
    mask = lost.repeat_interleave(CELL, 2).repeat_interleave(CELL, 3)
    top, left = torch.randint(CELL, (2,), generator=generator).tolist()
    return mask[:, :, top : top + height, left : left + width].to(images.device)
