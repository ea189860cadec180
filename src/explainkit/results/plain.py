"""Results as JSON."""

from collections.abc import Mapping
from math import isfinite
from typing import Any

from torch import Tensor


def plain(value: Any) -> Any:
    """A value as JSON has it: tensors and tuples are lists; None stands for NaN and infinity.

    Examples:
        >>> import torch
        >>> plain({"p": torch.tensor([0.5, float("nan")]), "grid": (6, 6)})
        {'p': [0.5, None], 'grid': [6, 6]}
    """
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and not isfinite(value) else value
