"""Layers by dotted path, and the tensors that enter and leave them."""

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from explainkit.errors import ModelError, ModelLookupError
from explainkit.layer_tensors import LayerTensor


@dataclass(frozen=True, eq=False)
class Members:
    """What a model consists of, each once: what several parts of a call look at.

    Attributes:
        modules: The model and all modules inside it.
        parameters: Those that the modules hold themselves.
        buffers: Likewise.
        registries: The ``_parameters``, ``_buffers`` and ``_modules`` of the modules.
    """

    modules: list[nn.Module]
    parameters: list[nn.Parameter]
    buffers: list[Tensor]
    registries: list[Any]

    @property
    def registered(self) -> tuple[list[nn.Module], list[nn.Parameter], list[Tensor]]:
        """Modules, parameters and buffers."""
        return self.modules, self.parameters, self.buffers

    @cached_property
    def is_inference(self) -> bool:
        """Whether a weight or buffer was created in inference mode; autograd refuses to save it."""
        return any(map(Tensor.is_inference, chain(self.parameters, self.buffers)))


def members_of(model: nn.Module) -> Members:
    """What a model consists of, in one walk, faster than ``model.modules()`` and the like.

    Examples:
        >>> found = members_of(nn.Sequential(nn.BatchNorm2d(2)))
        >>> len(found.modules), len(found.parameters), len(found.buffers)
        (2, 2, 3)
    """
    modules = submodules(model)
    parameters = [one._parameters for one in modules]
    buffers = [one._buffers for one in modules]
    children = [one._modules for one in modules]
    return Members(
        modules, _values(parameters), _values(buffers), [*parameters, *buffers, *children]
    )


def submodules(model: nn.Module) -> list[nn.Module]:
    """The model and all modules inside it, each once: ``list(model.modules())``, but faster."""
    found = {id(model): model}
    level = [model]
    while level:
        below: list[nn.Module] = _values([one._modules for one in level])
        level = [one for one in below if id(one) not in found]
        found.update(zip(map(id, level), level, strict=True))
    return list(found.values())


def parameters_of(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    """The parameters that modules hold themselves, each once."""
    return _values([module._parameters for module in modules])


def buffers_of(modules: Iterable[nn.Module]) -> list[Tensor]:
    """The buffers that modules hold themselves, each once."""
    return _values([module._buffers for module in modules])


def floating_tensor(model: nn.Module) -> Tensor:
    """A parameter or buffer with the device and dtype of a model's inputs; else an empty tensor."""
    tensors = (*model.parameters(), *model.buffers())
    return next((one for one in tensors if one.is_floating_point()), torch.empty(0))


def _values(registries: list[Any]) -> list[Any]:
    """What registries hold, each once; loops in C, since a large model has thousands."""
    values = [*chain.from_iterable([one.values() for one in registries])]
    found = dict(zip(map(id, values), values, strict=True))
    found.pop(id(None), None)
    return list(found.values())


def versions_of(tensors: list[Any]) -> list[int]:
    """The `version_of` each tensor."""
    try:
        return [*map(attrgetter("_version"), tensors)]
    except RuntimeError:  # inference tensors have no count
        return [*map(version_of, tensors)]


def version_of(tensor: Tensor) -> int:
    """Number of in-place changes of a tensor; 0 for inference tensors, which have no count."""
    return 0 if tensor.is_inference() else tensor._version


def layer_names(model: nn.Module) -> list[str]:
    """Dotted paths of all submodules, in order of definition.

    Examples:
        >>> from torch import nn
        >>> layer_names(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sequential(nn.ReLU())))
        ['0', '1', '1.0']
    """
    return [name for name, _ in model.named_modules() if name]


def get_layer(model: nn.Module, path: str) -> nn.Module:
    """The submodule at a dotted path such as ``"features.3"``.

    Raises:
        ModelLookupError: No such layer; the message lists similar names.
    """
    if path:
        with suppress(AttributeError):
            return model.get_submodule(path)
    near = difflib.get_close_matches(path, layer_names(model), n=3, cutoff=0.4)
    hint = ", ".join(map(repr, near or layer_names(model)[:8])) or "none: it has no layers"
    raise ModelLookupError(
        f"expected a layer of {type(model).__name__}, got {path!r}; names near it: {hint}"
    )


def path_of(model: nn.Module, layer: str | nn.Module) -> str:
    """The dotted path of a layer given as a path or as the module.

    Raises:
        ModelError: The module is not part of the model.

    Examples:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sequential(nn.ReLU()))
        >>> path_of(net, net[1][0])
        '1.0'
    """
    if isinstance(layer, str):
        return layer
    for name, module in model.named_modules():
        if module is layer and name:
            return str(name)
    raise ModelError(
        f"expected a layer inside {type(model).__name__}, got a {type(layer).__name__} that is "
        "not one of its submodules: pass a module of the explained model, or its path"
    )


def paths_of(
    model: nn.Module, layers: str | nn.Module | Sequence[str | nn.Module]
) -> tuple[str, ...]:
    """The dotted paths of a layer, or of several; see `path_of`."""
    named: Sequence[Any] = layers if isinstance(layers, list | tuple) else [layers]
    return tuple(path_of(model, one) for one in named)


@contextmanager
def capture(
    model: nn.Module, paths: Iterable[str], *, count: int | None = None, leaves: bool = False
) -> Iterator[dict[str, list[Tensor]]]:
    """Records layer outputs while the block runs, still attached to the graph.

    The model continues with a copy, so that later in-place changes do not affect the recorded
    output. Of a tuple the first tensor is recorded, which is a block's hidden state.

    Args:
        model: The model. Its hooks are removed after the block, also after an exception.
        paths: Dotted layer paths, or texts of a `LayerTensor` such as ``blocks.3:input``.
        count: The number of images, which the first tensor of a tuple must have; None: any.
        leaves: Begin the graph at these layers where it has not begun before.

    Yields:
        For each path one tensor per call of the layer.

    Raises:
        ModelError: A layer does not exist, or its output is no tensor, or several of which none is
            named.

    Examples:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU())
        >>> with capture(net, ["0"]) as outputs:
        ...     _ = net(torch.zeros(2, 1, 8, 8))
        >>> (output,) = outputs["0"]
        >>> output.shape
        torch.Size([2, 4, 6, 6])
    """
    outputs: dict[str, list[Tensor]] = {path: [] for path in paths}

    def recorder(path: str, side: str) -> Callable[[Tensor], Tensor]:
        def record(tensor: Tensor) -> Tensor:
            if side == "input":
                tensor = tensor.clone()  # what else it is used for is no part of the layer
            if leaves and torch.is_grad_enabled() and not tensor.requires_grad:
                tensor = tensor.detach().requires_grad_()
            outputs[path].append(tensor)
            return tensor.clone()

        return record

    with ExitStack() as hooks:
        for path in outputs:
            one = LayerTensor.of(path)
            handle = one.hook(get_layer(model, one.layer), recorder(path, one.side), count)
            hooks.callback(handle.remove)
        yield outputs


def single(calls: list[Tensor], path: str) -> Tensor:
    """The output of a layer that ran once.

    Raises:
        ModelError: It did not run, or more than once.
    """
    if len(calls) != 1:
        what = f"ran {len(calls)} times" if calls else "was not run"
        raise ModelError(
            f"expected layer {path!r} to run once, but it {what}: name a layer that runs once"
        )
    return calls[0]
