"""Random changes of pictures that leave their class as it is."""

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

CELL = 8
"""Side of a deleted square, in pixels."""


def augmented(images: Tensor, strength: Tensor, cells: float, generator: torch.Generator) -> Tensor:
    """Flips, turns, scales and shifts pictures, changes their light, and deletes cells.

    At strength 1: mirrored half of the time, up to ±12°, ±10 % of size, ±4 pixels, ±20 % of
    contrast, ±0.4 (a tenth of the pixels' range) of brightness.

    Args:
        images: Normalised, ``[n, 1, height, width]``: 0 is the mean of the data set.
        strength: Of each picture, ``[n]``.
        cells: Share of the pictures that lose up to 30 % of their 8×8 cells to the mean.
        generator: Every random number comes from it; on the CPU.

    Returns:
        New pictures of the same shape.
    """
    n, _, height, width = images.shape
    draws = torch.rand(8, n, generator=generator)
    one = 2 * draws - 1
    angle = one[0] * strength * math.radians(12)
    scale = 1 + 0.10 * one[1] * strength
    mirror = torch.where((draws[2] < 0.5) & (strength > 0), -1.0, 1.0)
    shift = 4 * strength * one[3:5] * 2 / torch.tensor([[width], [height]])
    cosine, sine = angle.cos() / scale, angle.sin() / scale
    rows = torch.stack([mirror * cosine, sine, shift[0], -mirror * sine, cosine, shift[1]], 1)
    grid = F.affine_grid(rows.view(n, 2, 3), list(images.shape), align_corners=False)
    grid = grid.to(images.device)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    light = torch.stack([1 + 0.2 * one[5] * strength, 0.4 * one[6] * strength])
    gain, offset = light.to(images.device)[:, :, None, None, None]
    lit = moved * gain + offset
    if not cells:
        return lit
    grid_height, grid_width = height // CELL + 1, width // CELL + 1
    share = 0.3 * torch.rand(n, generator=generator) * (draws[7] < cells)
    lost = torch.rand(n, 1, grid_height, grid_width, generator=generator) < share.view(n, 1, 1, 1)
    mask = lost.repeat_interleave(CELL, 2).repeat_interleave(CELL, 3)
    top, left = torch.randint(CELL, (2,), generator=generator).tolist()
    mask = mask[:, :, top : top + height, left : left + width].to(images.device)
    return lit.masked_fill(mask, 0.0)
