"""Converts a model's output to scores, and a class name to an index."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from explainkit.errors import ModelError, TargetError

_LOGIT_KEYS = ("logits", "out", "output", "scores")


def as_scores(output: Any, batch: int) -> Tensor:
    """Finds ``[batch, classes]`` in what a model returned.

    A tensor is taken as it is, and ``[batch]`` counts as one class. Of an object, ``.logits`` is
    taken; of a dict, its logits or its only tensor; of a tuple or list, the first that fits.

    Raises:
        ModelError: Nothing fits; the message describes the output.

    Examples:
        >>> import torch
        >>> as_scores({"logits": torch.zeros(2, 7), "features": torch.zeros(2, 64)}, 2).shape
        torch.Size([2, 7])
    """
    for candidate in _candidates(output):
        if not candidate.is_floating_point() or not candidate.dim() or len(candidate) != batch:
            continue
        if candidate.dim() == 1 or candidate[0].numel() == candidate.shape[1]:
            return candidate.reshape(batch, -1)
    raise ModelError(
        f"expected scores [batch, classes] = [{batch}, …] from the model, got {_describe(output)}; "
        "pass a function from the output to one score per image as target"
    )


def _candidates(output: Any) -> Sequence[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    if isinstance(logits := getattr(output, "logits", None), Tensor):
        return [logits]
    if isinstance(output, Mapping):
        named = [output[key] for key in _LOGIT_KEYS if isinstance(output.get(key), Tensor)]
        tensors = [value for value in output.values() if isinstance(value, Tensor)]
        return named[:1] or (tensors if len(tensors) == 1 else [])
    if isinstance(output, tuple | list):
        return [value for value in output if isinstance(value, Tensor)]
    return []


def _describe(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"{str(output.dtype).removeprefix('torch.')} {list(output.shape)}"
    if isinstance(output, Mapping):
        return f"{type(output).__name__} with keys {', '.join(map(str, output))}"
    if isinstance(output, tuple | list):
        return f"{type(output).__name__} of " + ", ".join(map(_describe, output[:4]))
    return type(output).__name__


def class_index(name: str | int, classes: int, class_names: Sequence[str] = ()) -> int:
    """The index of a class.

    Args:
        name: A class name, ignoring case, or an index.
        classes: The model's number of classes.
        class_names: In the order of the logits.

    Raises:
        TargetError: No such class.

    Examples:
        >>> class_index("sad", 3, ("happy", "sad", "calm"))
        1
    """
    if isinstance(name, str):
        names = [known.casefold() for known in class_names]
        if name.casefold() not in names:
            known = ", ".join(class_names) or "none: this model's classes have no names"
            raise TargetError(f"expected a class name of the model ({known}), got {name!r}")
        name = names.index(name.casefold())
    if not 0 <= name < classes:
        raise TargetError(
            f"expected targets from 0 to {classes - 1} (the model has {classes} classes), "
            f"got {name}"
        )
    return name
