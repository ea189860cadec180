"""Which layer a class-activation map looks at when nobody says."""

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import dropout, pooling
from torch.utils import _pytree as pytree

from explainkit.errors import ModelError
from explainkit.isolation import preserve_model

_POOLING, _DROPOUT = pooling.__name__, dropout.__name__


@dataclass(frozen=True, eq=False)
class _Output:
    """What one call of a layer gave.

    Attributes:
        path: Of the layer.
        module: The layer.
        value: Its first tensor.
        maker: The layer, at the end of those inside, that computed the value.
    """

    path: str
    module: nn.Module
    value: Tensor
    maker: nn.Module

    @property
    def makes_features(self) -> bool:
        """Pooling, dropout and layers that pass on what they get make none."""
        passing = (nn.Identity, nn.Flatten)
        return not any(
            isinstance(module, passing) or type(module).__module__ in (_POOLING, _DROPOUT)
            for module in (self.module, self.maker)
        )

    @property
    def is_block(self) -> bool:
        """One of a numbered row of layers, with layers inside."""
        numbered = self.path.rpartition(".")[2].isdigit()
        return numbered and next(self.module.children(), None) is not None


def default_layer(model: nn.Module, example: Tensor) -> str:
    """The last layer whose output still has places, and whose places reach the model's output.

    Of a convolutional network it is the last layer that puts out ``[batch, channel, height,
    width]`` with more than one place, pooling and dropout aside: the last rectifier before the
    pooling of VGG, ``layer4`` of ResNet. Of a transformer it is the last block that puts out
    ``[batch, token, width]``. Either has to reach the output, which the gradient tells: of a
    transformer that classifies by its class token, that is not the last block. Of several layers
    with the same output it is the outermost. A layer that runs several times is not considered.

    Args:
        model: Any module; it is run once on one image.
        example: Images ``[batch, channel, height, width]``.

    Returns:
        Dotted path of the layer.

    Raises:
        ModelError: No layer's output has places.

    Examples:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
        >>> default_layer(net, torch.rand(1, 1, 8, 8))
        '1'
    """
    model = getattr(model, "_orig_mod", model)
    with preserve_model(model), torch.inference_mode(False), torch.enable_grad():
        outputs, result = _run(model, example[:1].detach().clone().requires_grad_())
        maps = [o for o in outputs if o.value.dim() == 4 and o.value[0, 0].numel() > 1]
        tokens = [o for o in outputs if o.value.dim() == 3 and o.value.shape[1] > 1]
        # a transformer's only map is the image embedded as patches
        if tokens and (not maps or outputs.index(tokens[-1]) > outputs.index(maps[-1])):
            maps = [o for o in tokens if o.is_block] or tokens
        found = next((o.path for o in reversed(maps) if _places_reach(o.value, result)), None)
    if found is None:
        raise ModelError(
            f"expected a layer of {type(model).__name__} with more than one place in its output, "
            "found none that the scores depend on: name the layer, or use another method"
        )
    return found


def _run(model: nn.Module, images: Tensor) -> tuple[list[_Output], Tensor]:
    """Runs the model; gives the outputs of layers that make features, and the model's as a number.

    Layers that run several times are left out.
    """
    outputs: list[_Output] = []
    makers: dict[Tensor, nn.Module] = {}

    def keeper(path: str) -> Any:
        def keep(module: nn.Module, _inputs: Any, output: Any) -> Any:
            several = isinstance(output, tuple) and bool(output)
            value = output[0] if several else output
            if not isinstance(value, Tensor):
                return None
            copy = value.clone()
            # a container's output was made by a layer inside it
            makers[copy] = maker = makers.get(value, module)
            outputs.append(_Output(path, module, copy, maker))
            return (copy, *output[1:]) if several else copy

        return keep

    with ExitStack() as hooks:
        for path, module in model.named_modules():
            if path:
                hooks.callback(module.register_forward_hook(keeper(path)).remove)
        leaves = pytree.tree_leaves(model(images))
    calls = Counter(output.path for output in outputs)
    found = [o for o in outputs if calls[o.path] == 1 and o.makes_features]
    result = images.new_zeros(())
    for leaf in leaves:
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            # no constant weights: probabilities always sum to one
            weights = torch.arange(leaf.numel(), device=leaf.device).to(leaf).cos()
            result = result + (leaf.flatten() * weights).sum()
    return found, result


def _places_reach(value: Tensor, result: Tensor) -> bool:
    """Whether the result depends on a map, or on more than half of ``[1, token, width]``."""
    if not value.requires_grad or not result.requires_grad:
        return False
    (gradient,) = torch.autograd.grad(result, value, retain_graph=True, allow_unused=True)
    inside = (2,) if value.dim() == 3 else (1, 2, 3)
    return gradient is not None and bool((gradient != 0).any(inside).float().mean() > 0.5)
