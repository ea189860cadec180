"""How much of a map lies inside a mask.

Compare `pointing_game`, `mass_accuracy` and `rank_accuracy` with `area_share`, which is their mean
for a map that knows nothing. Channels are summed. Images without an answer are NaN, and a warning
says why.
"""

from torch import Tensor

from explainkit.correlation import ranks
from explainkit.errors import InputError
from explainkit.metrics.results import nan_where, planes, same_size

_EMPTY, _FLAT = "the mask is empty", "the map is constant"


def area_share(mask: Tensor) -> Tensor:
    """The mask's share of the image's area, which other measures of localization are compared with.

    Args:
        mask: bool ``[batch, height, width]``.

    Returns:
        float64 ``[batch]`` in [0, 1].

    Examples:
        >>> import torch
        >>> area_share(torch.eye(4, dtype=torch.bool)[None]).item()
        0.25
    """
    if not isinstance(mask, Tensor) or mask.dim() not in (3, 4):
        got = list(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise InputError(f"expected masks [batch, height, width], got {got}")
    maps = mask[:, 0] if mask.dim() == 4 else mask
    return same_size(mask, maps).double().mean((1, 2))


def pointing_game(attribution: Tensor, mask: Tensor) -> Tensor:
    """Whether the map's largest value lies inside the mask, 1 or 0.

    Where several pixels share the largest value, the share of them inside.

    Args:
        attribution: ``[batch, channel, height, width]`` or ``[batch, height, width]``.
        mask: bool ``[batch, height, width]``.

    Returns:
        float64 ``[batch]``; NaN if the mask is empty or the map constant.

    References:
        Zhang, Lin, Brandt, Shen and Sclaroff (2016), "Top-down Neural Attention by Excitation
        Backprop", arXiv:1608.00507.

    Examples:
        >>> import torch
        >>> maps = torch.tensor([[[0.0, 2.0], [1.0, 0.0]]])
        >>> pointing_game(maps, maps > 1).tolist(), pointing_game(maps, maps == 1).tolist()
        ([1.0], [0.0])
    """
    values, inside = _prepared(attribution, mask)
    top = values == values.amax(1, keepdim=True)
    hits = (top & inside).sum(1) / top.sum(1).double()
    return _answered("pointing_game", hits, values, inside)


def mass_accuracy(attribution: Tensor, mask: Tensor) -> Tensor:
    """The share of the map's positive values that lies inside the mask.

    ``Σ_inside max(a, 0) / Σ max(a, 0)``.

    Args:
        attribution: ``[batch, channel, height, width]`` or ``[batch, height, width]``.
        mask: bool ``[batch, height, width]``.

    Returns:
        float64 ``[batch]`` in [0, 1]; NaN if the mask is empty or no value is positive.

    References:
        Arras, Osman and Samek (2022), "CLEVR-XAI: A benchmark dataset for the ground truth
        evaluation of neural network explanations", arXiv:2003.07258.

    Examples:
        >>> import torch
        >>> maps = torch.tensor([[[3.0, 1.0], [-9.0, 0.0]]])
        >>> mass_accuracy(maps, maps > 2).tolist()
        [0.75]
    """
    values, inside = _prepared(attribution, mask)
    positive = values.clamp(min=0)
    total = positive.sum(1)
    share = (positive * inside).sum(1) / total
    share = nan_where("mass_accuracy", share, total <= 0, "no value is positive")
    return nan_where("mass_accuracy", share, ~inside.any(1), _EMPTY)


def rank_accuracy(attribution: Tensor, mask: Tensor) -> Tensor:
    """The share of the k largest values that lie inside the mask of k pixels.

    Of tied values at the limit, each counts in proportion.

    Args:
        attribution: ``[batch, channel, height, width]`` or ``[batch, height, width]``.
        mask: bool ``[batch, height, width]``.

    Returns:
        float64 ``[batch]`` in [0, 1]; NaN if the mask is empty or the map constant.

    References:
        Arras, Osman and Samek (2022), arXiv:2003.07258.

    Examples:
        >>> import torch
        >>> maps = torch.tensor([[[4.0, 3.0], [2.0, 1.0]]])
        >>> rank_accuracy(maps, torch.tensor([[[True, False], [True, False]]])).tolist()
        [0.5]
    """
    values, inside = _prepared(attribution, mask)
    size = inside.sum(1)
    ordered = values.sort(1, descending=True).values
    limit = ordered.gather(1, (size - 1).clamp(min=0)[:, None])
    above, level = values > limit, values == limit
    room = (size - above.sum(1)) / level.sum(1).double()
    found = (above & inside).sum(1) + room * (level & inside).sum(1)
    return _answered("rank_accuracy", found / size, values, inside)


def auc(attribution: Tensor, mask: Tensor) -> Tensor:
    """Area under the ROC curve of the map as a classifier of pixels inside the mask.

    The probability that a pixel inside has a larger value than one outside; ties count half.

    Args:
        attribution: ``[batch, channel, height, width]`` or ``[batch, height, width]``.
        mask: bool ``[batch, height, width]``.

    Returns:
        float64 ``[batch]`` in [0, 1], ½ for a map that knows nothing; NaN if the mask is empty or
        covers the whole image.

    References:
        Fawcett (2006), "An introduction to ROC analysis", DOI 10.1016/j.patrec.2005.10.010.

    Examples:
        >>> import torch
        >>> maps = torch.tensor([[[4.0, 3.0], [2.0, 1.0]]])
        >>> auc(maps, torch.tensor([[[True, False], [True, False]]])).tolist()
        [0.75]
    """
    values, inside = _prepared(attribution, mask)
    within = inside.sum(1).double()
    outside = (~inside).sum(1).double()
    wins = (ranks(values) * inside).sum(1) - within * (within + 1) / 2
    found = nan_where("auc", wins / (within * outside), within == 0, _EMPTY)
    return nan_where("auc", found, outside == 0, "the mask covers the whole image")


def _prepared(attribution: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Values and mask, ``[batch, pixels]`` each."""
    values = planes(attribution)
    return values.flatten(1), same_size(mask, values).flatten(1)


def _answered(name: str, found: Tensor, values: Tensor, inside: Tensor) -> Tensor:
    found = nan_where(name, found, (values == values[:, :1]).all(1), _FLAT)
    return nan_where(name, found, ~inside.any(1), _EMPTY)
