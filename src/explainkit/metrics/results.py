"""What metrics share: maps without channels, and NaN with a reason."""

import warnings

import torch
from torch import Tensor

from explainkit.engine.checks import listed
from explainkit.errors import ExplainkitWarning, InputError


def planes(attribution: Tensor) -> Tensor:
    """Maps with their channels summed, float64 ``[batch, height, width]``.

    Raises:
        InputError: Not a batch of maps, or values that are not finite.
    """
    if not isinstance(attribution, Tensor) or attribution.dim() not in (3, 4):
        got = list(attribution.shape) if isinstance(attribution, Tensor) else type(attribution)
        raise InputError(f"expected maps [batch, channel, height, width], got {got}")
    maps = attribution.detach().double()
    if not torch.isfinite(maps).all():
        wrong = ~torch.isfinite(maps).flatten(1).all(1)
        raise InputError(f"expected finite maps, got NaN or infinity in {listed(wrong)}")
    return maps.sum(1) if maps.dim() == 4 else maps


def same_size(mask: Tensor, maps: Tensor) -> Tensor:
    """The mask as bool ``[batch, height, width]``, on the maps' device.

    Raises:
        InputError: It is not one mask of the maps' size per image, or not of 0 and 1.
    """
    shape = list(maps.shape)
    if not isinstance(mask, Tensor) or list(mask.shape) not in (shape, [shape[0], 1, *shape[1:]]):
        got = list(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise InputError(f"expected one mask per map, {shape}, got {got}")
    if mask.dtype != torch.bool and not ((mask == 0) | (mask == 1)).all():
        raise InputError("expected a mask of 0 and 1, got other values: threshold it, mask > 0.5")
    return mask.reshape(shape).to(maps.device, torch.bool)


def nan_where(name: str, values: Tensor, wrong: Tensor, reason: str) -> Tensor:
    """The values, NaN where they are wrong; a warning says why, and for which images.

    Args:
        name: The metric.
        values: ``[batch]``.
        wrong: bool ``[batch]``.
        reason: What is wrong with these images.
    """
    if wrong.any():
        warnings.warn(f"{name}: NaN for {listed(wrong)}: {reason}", ExplainkitWarning, stacklevel=3)
    return torch.where(wrong, torch.nan, values)
