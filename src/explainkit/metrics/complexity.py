"""How concentrated a map is. This describes a map; it does not say whether it is right."""

import torch
from torch import Tensor

from explainkit.metrics.results import nan_where, planes

_ZERO = "the map is zero everywhere"


def gini(attribution: Tensor) -> Tensor:
    """The Gini coefficient of the absolute values: 0 if all are equal, 1 − 1/n for a single pixel.

    ``Σ_i (2i − n − 1) |a|_(i) / (n Σ |a|)``, with the values in ascending order.

    Args:
        attribution: ``[batch, channel, height, width]`` or ``[batch, height, width]``; channels are
            summed.

    Returns:
        float64 ``[batch]``; NaN for a map of zeros.

    References:
        Chalasani, Chen, Chowdhury, Jha and Wu (2020), "Concise Explanations of Neural Networks
        using Adversarial Training", arXiv:1810.06583.

    Examples:
        >>> gini(torch.eye(4)[None, :1]).item(), gini(torch.ones(1, 2, 2)).item()
        (0.75, 0.0)
    """
    sizes = planes(attribution).abs().flatten(1).sort(1).values
    count = sizes.shape[1]
    weights = 2 * torch.arange(1, count + 1, device=sizes.device) - count - 1
    total = sizes.sum(1)
    return nan_where("gini", (weights * sizes).sum(1) / (count * total), total == 0, _ZERO)


def entropy(attribution: Tensor) -> Tensor:
    """The entropy of the shares ``|a| / Σ |a|``, in nats: 0 for one pixel, ln n if all are equal.

    Args:
        attribution: ``[batch, channel, height, width]`` or ``[batch, height, width]``; channels are
            summed.

    Returns:
        float64 ``[batch]``; NaN for a map of zeros.

    References:
        Bhatt, Weller and Moura (2020), "Evaluating and Aggregating Feature-based Model
        Explanations", arXiv:2005.00631.

    Examples:
        >>> entropy(torch.ones(1, 2, 2)).exp().item()
        4.0
    """
    sizes = planes(attribution).abs().flatten(1)
    total = sizes.sum(1)
    shares = sizes / total[:, None]
    found = -torch.special.xlogy(shares, shares).sum(1)
    return nan_where("entropy", found, total == 0, _ZERO)
