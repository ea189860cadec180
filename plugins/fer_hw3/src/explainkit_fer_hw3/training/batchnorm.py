"""Batch normalization that is added for training and folded away before saving."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from explainkit.layers import capture

KERNEL_NORM = 0.45
"""Norm that every kernel is scaled to. With normalization behind a kernel only its direction
matters, and its norm sets how fast the direction changes. The value is close to where weight decay
keeps the norm at the default learning rate."""


def normalized(model: nn.Sequential, images: Tensor | None = None) -> nn.Sequential:
    """A copy of a network with batch normalization after every convolution.

    The convolutions lose their bias; the normalization has one. With ``images``, the function (in
    eval mode) does not change: each normalization gets the mean and variance of its convolution's
    output on these images, and the scale and shift that undo them. Without, it starts fresh.

    Examples:
        >>> chain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
        >>> [type(layer).__name__ for layer in normalized(chain)]
        ['Conv2d', 'BatchNorm2d', 'ReLU']
    """
    plain = copy.deepcopy(model).eval()
    convolutions = {n: layer for n, layer in plain.named_children() if isinstance(layer, nn.Conv2d)}
    outputs: dict[str, list[Tensor]] = {}
    if images is not None:
        with torch.inference_mode(), capture(plain, convolutions) as outputs:
            plain(images)
    layers: list[nn.Module] = []
    for name, layer in plain.named_children():
        layers.append(layer)
        if isinstance(layer, nn.Conv2d):
            norm = nn.BatchNorm2d(layer.out_channels)
            if images is not None:
                _undo(layer, norm, outputs[name][0])
            layer.bias = None
            layers.append(norm)
    return nn.Sequential(*layers).train(model.training)


def _undo(layer: nn.Conv2d, norm: nn.BatchNorm2d, output: Tensor) -> None:
    """Makes ``norm(layer(x))``, without bias, equal to the previous ``layer(x)``."""
    assert layer.bias is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (layer.weight.detach().flatten(1).norm(dim=1) / KERNEL_NORM).clamp(min=1e-6)
    variance, mean = torch.var_mean(output, dim=(0, 2, 3))
    norm.running_mean.copy_((mean - layer.bias.detach()) / scale)
    norm.running_var.copy_(variance / scale**2)
    with torch.no_grad():
        layer.weight /= scale[:, None, None, None]
        norm.weight.copy_(scale * (norm.running_var + norm.eps).sqrt())
        norm.bias.copy_(mean)


def folded(network: nn.Sequential) -> nn.Sequential:
    """A copy of a normalized chain without normalization: the same function in eval mode.

    ``γ (w·x − μ) / √(σ² + ε) + β`` is a convolution with the kernel ``w γ / √(σ² + ε)`` and the
    bias ``β − μ γ / √(σ² + ε)``. This is exact up to rounding.

    Args:
        network: A chain in which each normalization directly follows a convolution without bias.
    """
    layers: list[nn.Module] = []
    for layer in copy.deepcopy(network):
        if not isinstance(layer, nn.BatchNorm2d):
            layers.append(layer)
            continue
        convolution = layers[-1]
        assert isinstance(convolution, nn.Conv2d)
        assert layer.running_mean is not None
        assert layer.running_var is not None
        with torch.no_grad():
            gain = layer.weight / (layer.running_var + layer.eps).sqrt()
            convolution.weight *= gain[:, None, None, None]
            convolution.bias = nn.Parameter(layer.bias - layer.running_mean * gain)
    return nn.Sequential(*layers)


@contextmanager
def frozen_statistics(network: nn.Module) -> Iterator[None]:
    """Normalizes by batch statistics without updating the running statistics."""
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
