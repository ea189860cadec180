"""The outputs of a layer for one image, and the filters that produced them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from explainkit.errors import ModelError
from explainkit.layers import capture, get_layer


@dataclass(frozen=True, eq=False)
class Activations:
    """The outputs of a layer for one image.

    Attributes:
        layer: Its dotted path.
        filters_of: The convolution whose filters produced the channels: the layer itself, or the
            last convolution before it.
        outputs: ``[channel, height, width]``, as the layer outputs them.
        filters: ``[channel, height, width]``: the kernels of a convolution with one input channel,
            else their root mean square over the input channels.
        signed: Whether the filters are the kernels, or the root mean square, which has no sign.
    """

    layer: str
    filters_of: str
    outputs: Tensor
    filters: Tensor
    signed: bool

    def statistics(self) -> list[dict[str, float | int | bool]]:
        """Per channel: mean, standard deviation, minimum, maximum, and the share above zero."""
        flat = self.outputs.double().flatten(1)
        return [
            {
                "channel": channel,
                "mean": float(values.mean()),
                "std": float(values.std(correction=0)),
                "min": float(values.min()),
                "max": float(values.max()),
                "active": float((values > 0).double().mean()),
            }
            for channel, values in enumerate(flat)
        ]


def activations(model: nn.Module, image: Tensor, layer: str) -> Activations:
    """Records a layer's outputs for one image.

    Args:
        model: The network, in eval mode.
        image: ``[1, 48, 48]``, normalized.
        layer: Dotted path of a layer that outputs feature maps,
            ``[batch, channel, height, width]``.

    Raises:
        ModelError: There is no such layer, it outputs no feature maps, or no convolution comes
            before it.
    """
    get_layer(model, layer)
    leaves = {name: module for name, module in model.named_modules() if not list(module.children())}
    with torch.inference_mode(), capture(model, leaves) as outputs:
        model(image[None])
    maps, source = {}, ""
    for name, module in leaves.items():
        if isinstance(module, nn.Conv2d):
            source = name
        if source and outputs[name][0].dim() == 4:
            maps[name] = source
    if layer not in maps:
        raise ModelError(
            f"expected a layer with feature maps, got {layer!r}; "
            f"there are {', '.join(maps) or 'none in this network: use cnn'}"
        )
    convolution = leaves[maps[layer]]
    assert isinstance(convolution, nn.Conv2d)
    kernels = convolution.weight.detach()
    signed = kernels.shape[1] == 1
    filters = kernels[:, 0] if signed else kernels.square().mean(1).sqrt()
    return Activations(layer, maps[layer], outputs[layer][0][0].cpu(), filters.cpu(), signed)
