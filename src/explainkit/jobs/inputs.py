"""What a model takes for one item of a job: an image, or several inputs as a dict or tuple."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from explainkit.engine.several_inputs import SeveralInputs, Which
from explainkit.errors import InputError
from explainkit.hashes import tensor_hash
from explainkit.layers import floating_tensor

Inputs: TypeAlias = Tensor | dict[str, Tensor] | tuple[Tensor, ...]
"""The inputs of one item, without a batch axis."""


def checked(given: Tensor | Mapping[str, Any] | tuple[Any, ...]) -> Inputs:
    """An image, or several inputs, detached and on the CPU.

    Raises:
        InputError: It is no floating-point image, or one of several inputs is no tensor.
    """
    if isinstance(given, Tensor):
        return checked_image(given)
    named = given.items() if isinstance(given, Mapping) else enumerate(given)
    for name, value in named:
        if not isinstance(value, Tensor):
            raise InputError(f"{name}: expected a tensor for an input, got {type(value).__name__}")
    whole = dict(given) if isinstance(given, Mapping) else given
    return cast(Inputs, pytree.tree_map(lambda one: one.detach().cpu(), whole))


def checked_image(given: Tensor) -> Tensor:
    """An image, detached and on the CPU.

    Raises:
        InputError: It is no floating-point image.
    """
    if given.dim() != 3 or not given.is_floating_point():
        raise InputError(
            "expected a floating-point image [channel, height, width], got "
            f"{list(given.shape)} {str(given.dtype).removeprefix('torch.')}"
        )
    return given.detach().cpu()


def inputs_hash(inputs: Inputs) -> str:
    """The sha256 of several inputs, with their names, shapes and dtypes."""
    leaves, names = pytree.tree_flatten(inputs)
    return hashlib.sha256(f"{names} {[*map(tensor_hash, leaves)]}".encode()).hexdigest()


def shapes_of(inputs: Inputs) -> tuple[Any, ...]:
    """What is equal for inputs that can be in one batch."""
    leaves, names = pytree.tree_flatten(inputs)
    return str(names), *(tuple(leaf.shape) for leaf in leaves)


def batch_of(inputs: Sequence[Inputs], module: nn.Module) -> Any:
    """The inputs of some items with a batch axis, on the model's device and in its dtype."""
    like = floating_tensor(module)

    def joined(*rows: Tensor) -> Tensor:
        batch = torch.stack(rows)
        # at once, since some devices have no float64
        return batch.to(like.device, like.dtype if batch.is_floating_point() else batch.dtype)

    return pytree.tree_map(joined, *inputs)


def explained_of(first: Inputs | None, module: nn.Module, wrt: Which) -> tuple[str, ...]:
    """Names of those of several inputs that are explained; empty if items are images.

    Args:
        first: The inputs of an item; None: images that are preprocessed.
        module: The model.
        wrt: As in `explainkit.explain`.

    Raises:
        InputError: There is no such input, or none that can be explained.
    """
    if first is None or (isinstance(first, Tensor) and wrt is None):
        if wrt is not None:
            raise InputError("wrt: expected items of several inputs to choose from, got images")
        return ()
    parts = SeveralInputs.of(module, batch_of([first], module), wrt)
    return () if parts is None else tuple(parts.explained)
