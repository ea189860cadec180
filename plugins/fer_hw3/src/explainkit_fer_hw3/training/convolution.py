"""Convolutions of small maps as products of matrices, which a CPU multiplies far faster."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MANY = 512
"""Output channels from which on a convolution's maps are small enough, in the study's network."""


def with_patches(network: nn.Sequential) -> nn.Sequential:
    """The same chain, whose convolutions of small maps are products of matrices.

    Args:
        network: Its parameters are shared, not copied.
    """
    layers: list[nn.Module] = []
    for layer in network:
        if isinstance(layer, nn.Conv2d) and layer.out_channels >= MANY:
            layers.append(PatchConvolution.of(layer))
        else:
            layers.append(layer)
    return nn.Sequential(*layers).train(network.training)


class PatchConvolution(nn.Conv2d):
    """An unpadded convolution of stride 1 that copies each place's patch into the row of a matrix.

    The same function and parameters as ``nn.Conv2d``. On maps of a few pixels and hundreds of
    channels oneDNN's gradient of the kernels (bfloat16, AMX) takes five times as long as the
    product that it is; on large maps the copy of every patch costs more than it saves.
    """

    @classmethod
    def of(cls, layer: nn.Conv2d) -> "PatchConvolution":
        """One with the parameters of another convolution, unpadded and of stride 1."""
        height, width = layer.kernel_size
        made = cls(layer.in_channels, layer.out_channels, (height, width), bias=False)
        made.weight, made.bias = layer.weight, layer.bias
        return made

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the base class calls it so
        """Convolves ``[n, channel, height, width]``, in autocast's precision where that is on."""
        device = input.device.type
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            input = input.to(dtype)  # noqa: A001
        weight = self.weight.to(input.dtype)
        matrix = weight.permute(0, 2, 3, 1).flatten(1)
        maps = input.permute(0, 2, 3, 1)
        output: Tensor = _Product.apply(maps, matrix, self.kernel_size)  # type: ignore[no-untyped-call]
        if self.bias is not None:
            output = output + self.bias.to(output.dtype)
        return output.permute(0, 3, 1, 2)


class _Product(torch.autograd.Function):
    """``patches(maps) @ matrix.T`` for maps ``[n, height, width, channel]``."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, matrix: Tensor, kernel: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(maps, matrix)
        ctx.kernel = kernel
        patches, places = _patches(maps, kernel)
        return F.linear(patches, matrix).view(*places, -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        maps, matrix = ctx.saved_tensors
        rows = gradient.flatten(0, 2)
        to_maps = to_matrix = None
        if ctx.needs_input_grad[1]:
            to_matrix = rows.t() @ _patches(maps, ctx.kernel)[0]
        if ctx.needs_input_grad[0]:
            to_maps = torch.zeros_like(maps)
            _, height, width, _ = gradient.shape
            parts = (rows @ matrix).view(*gradient.shape[:3], *ctx.kernel, -1)
            for top in range(ctx.kernel[0]):
                for left in range(ctx.kernel[1]):
                    place = to_maps[:, top : top + height, left : left + width]
                    place += parts[:, :, :, top, left]
        return to_maps, to_matrix, None


def _patches(maps: Tensor, kernel: tuple[int, int]) -> tuple[Tensor, tuple[int, int, int]]:
    """What the kernel covers at each place, ``[places, kernel * channel]``, and the places."""
    n, height, width, channels = maps.shape
    places = (n, height - kernel[0] + 1, width - kernel[1] + 1)
    image, row, column, channel = maps.stride()
    views = maps.as_strided(
        (*places, *kernel, channels), (image, row, column, row, column, channel)
    )
    return views.reshape(-1, kernel[0] * kernel[1] * channels), places
