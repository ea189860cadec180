"""Correlations of rows of values, and the ranks of their values."""

import torch
from torch import Tensor

FLAT = 1e-6
"""Values are constant if their deviation is at most this share of the largest."""


def ranks(values: Tensor) -> Tensor:
    """Ranks from 1 within each row, float64 ``[rows, n]``; tied values share their mean rank.

    Examples:
        >>> ranks(torch.tensor([[3.0, 1.0, 3.0]])).tolist()
        [[2.5, 1.0, 2.5]]
    """
    ordered = values.sort(1).values
    below = torch.searchsorted(ordered, values)
    upto = torch.searchsorted(ordered, values, right=True)
    return (below + upto + 1).double() / 2


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation of each row, float64 ``[rows]``.

    Examples:
        >>> found = pearson(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[5.0, 3.0, 1.0]]))
        >>> round(found.item(), 6)
        -1.0
    """
    a, b = (side.double() - side.double().mean(1, keepdim=True) for side in (a, b))
    scale = a.square().sum(1).sqrt() * b.square().sum(1).sqrt()
    found: Tensor = ((a * b).sum(1) / scale).clamp(-1, 1)
    return found


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's rank correlation of each row, float64 ``[rows]``."""
    return pearson(ranks(a), ranks(b))


def is_flat(values: Tensor) -> Tensor:
    """Whether each row is constant up to rounding, bool ``[rows]``."""
    return values.std(1, correction=0) <= FLAT * values.abs().amax(1)
