"""Hashes of weights, tensors and pixels, and parameters as JSON in which tensors are hashes."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from explainkit.errors import MethodError


def weights_hash(module: nn.Module) -> str:
    """The sha256 of a model's parameters and buffers, with their names, shapes and dtypes."""
    digest = hashlib.sha256()
    named = dict(module.named_parameters()) | dict(module.named_buffers())
    for name in sorted(named):
        _update(digest, name, named[name])
    return digest.hexdigest()


def tensor_hash(tensor: Tensor) -> str:
    """The sha256 of a tensor, with its shape and dtype."""
    digest = hashlib.sha256()
    _update(digest, "", tensor)
    return digest.hexdigest()


def pixels_hash(values: Any) -> str:
    """The sha256 of a numpy array, with its shape and dtype."""
    digest = hashlib.sha256(f"{values.dtype} {values.shape} ".encode())
    digest.update(values.tobytes())
    return digest.hexdigest()


def plain_params(value: Any) -> Any:
    """Parameters as JSON; a tensor is its hash.

    Raises:
        MethodError: One can't be recorded.
    """
    if isinstance(value, Tensor):
        return {"$tensor": tensor_hash(value)[:16], "shape": list(value.shape)}
    if isinstance(value, Mapping):
        return {str(name): plain_params(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain_params(inner) for inner in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise MethodError(
        "expected parameters that can be recorded (numbers, texts, tensors, lists, methods), "
        f"got {value!r:.60}"
    )


def _update(digest: Any, name: str, tensor: Tensor) -> None:
    digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
    values = tensor.detach().cpu().contiguous()
    if values.numel():
        digest.update(values.reshape(-1).view(torch.uint8).numpy())
