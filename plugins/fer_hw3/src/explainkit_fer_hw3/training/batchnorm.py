"""Batch normalisation that is there while a network trains and gone when it is saved."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from explainkit.layers import capture

KERNEL_NORM = 0.45
"""Length that every kernel gets: with normalisation behind it only its direction counts, and its
length sets how fast that turns. Near where weight decay holds it at the default rate."""


def normalised(model: nn.Sequential, images: Tensor | None = None) -> nn.Sequential:
    """The same network with a normalisation after every convolution.

    The convolutions lose their bias, which the normalisation has. With ``images`` the function
    stays what it was: each normalisation gets the mean and variance that its convolution has on
    them, and the scale and shift that undo it. Without, it starts fresh.

    Args:
        model: A chain of layers.
        images: Pictures ``[n, 1, 48, 48]`` to measure on.
    """
    convolutions = {
        name: layer for name, layer in model.named_children() if isinstance(layer, nn.Conv2d)
    }
    outputs: dict[str, tuple[Tensor, ...]] = {}
    if images is not None:
        with torch.inference_mode(), capture(model.eval(), convolutions) as outputs:
            model(images)
    layers: list[nn.Module] = []
    for name, layer in model.named_children():
        if not isinstance(layer, nn.Conv2d):
            layers.append(layer)
            continue
        bare = nn.Conv2d(
            layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride,
            layer.padding, bias=False,
        )  # fmt: skip
        norm = nn.BatchNorm2d(layer.out_channels)
        bare.weight.data.copy_(layer.weight.detach())
        if images is not None:
            _undo(bare, norm, layer, outputs[name][0])
        layers += [bare, norm]
    return nn.Sequential(*layers)


def _undo(bare: nn.Conv2d, norm: nn.BatchNorm2d, layer: nn.Conv2d, output: Tensor) -> None:
    """Makes ``norm(bare(x))`` equal ``layer(x)`` for the statistics of ``output``."""
    assert layer.bias is not None and norm.running_mean is not None  # noqa: S101
    assert norm.running_var is not None  # noqa: S101
    bias = layer.bias.detach()
    length = bare.weight.detach().flatten(1).norm(dim=1)
    scale = (length / KERNEL_NORM).clamp(min=1e-6)
    variance, mean = torch.var_mean(output, dim=(0, 2, 3))
    bare.weight.data /= scale[:, None, None, None]
    norm.running_mean.copy_((mean - bias) / scale)
    norm.running_var.copy_(variance / scale**2)
    norm.weight.data.copy_(scale * (norm.running_var + norm.eps).sqrt())
    norm.bias.data.copy_(mean)


def folded(layers: Iterable[nn.Module], into: nn.Sequential) -> nn.Sequential:
    """Writes a normalised chain's weights into the plain network and returns that.

    ``γ (w·x − μ) / √(σ² + ε) + β`` is a convolution with the kernel ``w γ / √(σ² + ε)`` and the
    bias ``β − μ γ / √(σ² + ε)``: exact, up to rounding.
    """
    target = [layer for layer in into if list(layer.parameters())]
    position = 0
    pending: nn.Conv2d | None = None
    with torch.no_grad():
        for layer in layers:
            if not list(layer.parameters()):
                continue
            if isinstance(layer, nn.BatchNorm2d):
                assert pending is not None and layer.running_var is not None  # noqa: S101
                assert layer.running_mean is not None  # noqa: S101
                plain = target[position - 1]
                gain = layer.weight / (layer.running_var + layer.eps).sqrt()
                plain.weight.copy_(pending.weight * gain[:, None, None, None])
                plain.bias.copy_(layer.bias - layer.running_mean * gain)
                continue
            pending = layer if isinstance(layer, nn.Conv2d) else None
            target[position].load_state_dict(layer.state_dict(), strict=False)
            position += 1
    return into
