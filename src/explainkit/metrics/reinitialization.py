"""A copy of a model whose every parameter is random."""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from explainkit.errors import ModelError, line
from explainkit.isolation import preserve_process
from explainkit.layers import buffers_of, parameters_of, submodules, version_of

_DEVIATION = 0.02
"""Of parameters without an initializer that are all zero: usual for tokens and positions."""

_APART = 0x5EED0000
"""Added to the seed: an untrained model that was built after ``manual_seed(0)`` is not drawn again
as it is."""


def reinitialized(model: nn.Module, seed: int) -> nn.Module:
    """A copy of a model with random parameters.

    Each module's own initializer is called (``reset_parameters``), which also resets statistics of
    batch normalization. Parameters that none of them draws, such as class tokens, position
    embeddings, or projections that a module holds itself, become normal with the mean and the
    deviation of their values.

    Raises:
        ModelError: The model cannot be copied, or it has no parameters.

    Examples:
        >>> net = nn.Linear(4, 3)
        >>> random = reinitialized(net, seed=0)
        >>> bool((random.weight == net.weight).any()), random.weight.shape
        (False, torch.Size([3, 4]))
    """
    made = _copy(model)
    modules = submodules(made)
    parameters = parameters_of(modules)
    if not parameters:
        raise ModelError("expected a model with parameters to randomize, but it has none")
    before = [version_of(parameter) for parameter in parameters]
    with preserve_process(_APART + seed), torch.no_grad():
        for module in modules:
            reset = getattr(module, "reset_parameters", None)
            reset = reset or getattr(module, "_reset_parameters", None)
            if callable(reset):
                reset()
        for parameter, version in zip(parameters, before, strict=True):
            if version_of(parameter) == version and parameter.is_floating_point():
                _draw(parameter)
    return made


def stages(model: nn.Module, random: nn.Module) -> Iterator[nn.Module]:
    """A copy of a model whose modules become those of another one, from the last to the first.

    Args:
        model: The model.
        random: A copy of it with other parameters.

    Yields:
        The same copy each time, with one more module that holds parameters.
    """
    made = _copy(model)
    pairs = list(zip(made.modules(), random.modules(), strict=True))
    for own, other in reversed(pairs):
        if parameters_of([own]):
            with torch.no_grad():
                for into, source in zip(_held(own), _held(other), strict=True):
                    into.copy_(source)
            yield made


def _held(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers that a module holds itself."""
    return [*parameters_of([module]), *buffers_of([module])]


def _copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise ModelError(
            f"expected a model that can be copied, but copy.deepcopy of {type(model).__name__} "
            f"failed: {line(error)}"
        ) from error


def _draw(parameter: Tensor) -> None:
    """Draws values like those of a parameter."""
    mean, deviation = parameter.mean(), parameter.std(correction=0)
    if not deviation > 0:
        mean, deviation = torch.zeros_like(mean), mean.abs()
    parameter.copy_(mean + torch.randn_like(parameter) * (deviation or _DEVIATION))
