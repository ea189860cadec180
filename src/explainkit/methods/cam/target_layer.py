"""The layers of class-activation maps: those named, or the default."""

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules import dropout, pooling
from torch.utils import _pytree as pytree

from explainkit.engine.model import ScoreModel
from explainkit.errors import ModelError
from explainkit.interfaces import spec_of
from explainkit.isolation import preserve_model
from explainkit.layers import path_of

_POOLING, _DROPOUT = pooling.__name__, dropout.__name__


_defaults: WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], str]] = WeakKeyDictionary()


def unwrapped(model: nn.Module) -> nn.Module:
    """The caller's model, which layer paths name."""
    return model.owner if isinstance(model, ScoreModel) else model


def layers_of(
    layer: str | nn.Module | Sequence[str | nn.Module] | None, model: nn.Module, inputs: Tensor
) -> tuple[str, ...]:
    """The layers to use: those named, else the one of the model's spec, else the default.

    Args:
        layer: Dotted path, or the module, or several; None: the ``layer`` of the model's
            `ModelSpec`, or `default_layer`, which is determined once per model.
        model: The caller's model.
        inputs: ``[batch, channel, height, width]``.

    Raises:
        ModelError: No layer's output has spatial positions.
    """
    if layer is not None:
        named = (layer,) if isinstance(layer, str | nn.Module) else layer
        return tuple(path_of(model, one) for one in named)
    spec = spec_of(model)
    if spec is not None and spec.layer is not None:
        return (spec.layer,)
    known = _defaults.setdefault(model, {})
    # a model that was modified since has other modules
    key = (inputs.shape[1:], *((name, type(module)) for name, module in model.named_modules()))
    if key not in known:
        found = default_layer(model, inputs)
        compiled = hasattr(model, "_orig_mod")
        known[key] = f"_orig_mod.{found}" if compiled else found
    return (known[key],)


@dataclass(frozen=True, eq=False)
class _Output:
    """The output of one call of a layer.

    Attributes:
        path: Path of the layer.
        module: The layer.
        value: The first tensor of its output.
        maker: The innermost layer that computed the value.
    """

    path: str
    module: nn.Module
    value: Tensor
    maker: nn.Module

    @property
    def makes_features(self) -> bool:
        """False for pooling, dropout and layers that only pass on their input."""
        passing = (nn.Identity, nn.Flatten)
        return not any(
            isinstance(module, passing) or type(module).__module__ in (_POOLING, _DROPOUT)
            for module in (self.module, self.maker)
        )

    @property
    def is_block(self) -> bool:
        """Whether it is one of a numbered sequence of layers with submodules."""
        numbered = self.path.rpartition(".")[2].isdigit()
        return numbered and next(self.module.children(), None) is not None


def default_layer(model: nn.Module, example: Tensor) -> str:
    """The last layer whose output has spatial positions that affect the model's output.

    In a convolutional network it is the last layer that puts out ``[batch, channel, height,
    width]`` with more than one position, other than pooling and dropout: the last ReLU before the
    pooling of VGG, ``layer4`` of ResNet. In a transformer it is the last block that puts out
    ``[batch, token, width]``. Its positions must have a gradient: in a transformer that classifies
    by its class token, those of the last block have none. Of several layers with the same output
    the outermost is chosen. Layers that run several times are skipped.

    Args:
        model: Any module; it runs once on one image.
        example: Images ``[batch, channel, height, width]``.

    Returns:
        Dotted path of the layer.

    Raises:
        ModelError: No layer's output has spatial positions.

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
        # the only map of a transformer is its patch embedding
        if tokens and (not maps or outputs.index(tokens[-1]) > outputs.index(maps[-1])):
            maps = [o for o in tokens if o.is_block] or tokens
        found = next((o.path for o in reversed(maps) if _positions_reach(o.value, result)), None)
    if found is None:
        raise ModelError(
            f"expected a layer of {type(model).__name__} with more than one spatial position in "
            "its output, found none that the scores depend on: name the layer, or use another "
            "method"
        )
    return found


def _run(model: nn.Module, images: Tensor) -> tuple[list[_Output], Tensor]:
    """Runs the model. Returns the outputs of feature layers, and the model's output as a scalar.

    Layers that run several times are skipped.
    """
    outputs: list[_Output] = []
    makers: dict[Tensor, nn.Module] = {}

    def recorder(path: str) -> Any:
        def record(module: nn.Module, _inputs: Any, output: Any) -> Any:
            several = isinstance(output, tuple) and bool(output)
            value = output[0] if several else output
            if not isinstance(value, Tensor):
                return None
            copy = value.clone()
            # the output of a container was computed by a layer inside it
            makers[copy] = maker = makers.get(value, module)
            outputs.append(_Output(path, module, copy, maker))
            return (copy, *output[1:]) if several else copy

        return record

    with ExitStack() as hooks:
        for path, module in model.named_modules():
            if path:
                hooks.callback(module.register_forward_hook(recorder(path)).remove)
        leaves = pytree.tree_leaves(model(images))
    calls = Counter(output.path for output in outputs)
    found = [o for o in outputs if calls[o.path] == 1 and o.makes_features]
    result = images.new_zeros(())
    for leaf in leaves:
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            # not constant weights: probabilities always sum to one
            weights = torch.arange(leaf.numel(), device=leaf.device).to(leaf).cos()
            result = result + (leaf.flatten() * weights).sum()
    return found, result


def _positions_reach(value: Tensor, result: Tensor) -> bool:
    """Whether the result depends on more than half of the positions of a map or tokens."""
    if not value.requires_grad or not result.requires_grad:
        return False
    (gradient,) = torch.autograd.grad(result, value, retain_graph=True, allow_unused=True)
    inside = (2,) if value.dim() == 3 else (1, 2, 3)
    return gradient is not None and bool((gradient != 0).any(inside).float().mean() > 0.5)
