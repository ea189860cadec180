"""Batches that come one after the other: from a DataLoader, or from any iterator."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard

from torch import Tensor, nn

from explainkit.adapters.images import ImageBatch
from explainkit.errors import InputError, TargetError


def is_stream(inputs: object) -> TypeGuard[Iterable[Any]]:
    """Whether inputs come in batches: a DataLoader or an iterator, which has no positions.

    Examples:
        >>> import torch.utils.data
        >>> is_stream(iter([])), is_stream(torch.utils.data.DataLoader([1])), is_stream([])
        (True, True, False)
    """
    return isinstance(inputs, Iterable) and not hasattr(inputs, "__getitem__")


def images_and_labels(batch: Any, module: nn.Module) -> tuple[Any, Tensor | list[Any] | None]:
    """The images of a batch, and its labels if it has some.

    Args:
        batch: What `explainkit.explain` takes as inputs, or a pair of that and labels, such as a
            DataLoader makes; what follows in a longer tuple is left out.
        module: The model; tensors are moved to its device.

    Raises:
        InputError: It is a mapping.
    """
    if isinstance(batch, Mapping):
        raise InputError(
            "expected batches of images or (images, labels), got a mapping with "
            f"{', '.join(map(repr, batch))}: pass (one[name] for one in loader)"
        )
    labels = None
    if isinstance(batch, tuple | list) and batch:
        first, *rest = batch
        if isinstance(first, Tensor | ImageBatch | tuple | list):
            batch, labels = first, rest[0] if rest else None
    if isinstance(batch, Tensor):
        own = next((one for one in (*module.parameters(), *module.buffers())), batch)
        batch = batch.to(own.device)
    return batch, labels


def check_one_target(target: object, targets: object, *, labels: bool) -> None:
    """Checks that a target can be meant for all images of a stream.

    Raises:
        TargetError: It is one per image, or there is one besides the labels.
    """
    if labels and (target is not None or targets is not None):
        raise TargetError("labels: expected no other target, got target= or targets=")
    if isinstance(target, list) or (isinstance(target, Tensor) and target.dim()):
        raise TargetError(
            "expected one target for all batches, got one per image: labels=True takes those of "
            "batches (images, labels)"
        )


def classes_of(labels: Tensor | list[Any] | None) -> Tensor | list[Any]:
    """Labels as targets.

    Raises:
        TargetError: There are none, or they are not classes.
    """
    if labels is None:
        raise TargetError("labels: expected batches (images, labels), got images alone")
    if isinstance(labels, Tensor):
        if labels.is_floating_point() or labels.is_complex():
            kind = str(labels.dtype).removeprefix("torch.")
            raise TargetError(f"labels: expected class numbers, got {kind} {list(labels.shape)}")
        return labels
    return list(labels)
