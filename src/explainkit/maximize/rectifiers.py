"""Gradients through rectifiers that are off, so that ascent can switch them on."""

import torch
from torch import Tensor

from explainkit.graph.tape import nodes_from

STEPS = 16
"""Steps for which gradients are redirected, at most half of all."""


def redirect(scores: Tensor) -> None:
    """Lets the gradients of these scores, when they are taken, through rectifiers that are off.

    A rectifier ``y = max(x, 0)`` passes ``1[x > 0] · g``. The one next to the scores passes
    ``max(1[x > 0] · g, g)`` instead: where it is off, what would raise it. So does any other for a
    picture to which it would pass nothing at all.

    Args:
        scores: ``[unit]``, with their graph.

    References:
        Olah, Mordvintsev and Schubert (2017), "Feature Visualization", appendix, and its library
        Lucid, where it holds for pictures that get no gradient at all.

    Examples:
        >>> x = torch.tensor([[-1.0, 2.0]], requires_grad=True)
        >>> scores = x.relu().sum(1)
        >>> redirect(scores)
        >>> torch.autograd.grad(scores.sum(), x)[0]
        tensor([[1., 1.]])
    """
    if scores.grad_fn is None:
        return
    rectifiers = [node for node in nodes_from(scores.grad_fn) if node.name() == "ReluBackward0"]
    for node in rectifiers[:1]:
        node.register_hook(_raising)
    for node in rectifiers[1:]:
        node.register_hook(_raising_where_silent)


Gradients = tuple[Tensor | None, ...]


def _raising(own: Gradients, arriving: Gradients) -> Gradients:
    if own[0] is None or arriving[0] is None:
        return own
    return (torch.maximum(own[0], arriving[0]),)


def _raising_where_silent(own: Gradients, arriving: Gradients) -> Gradients:
    (raised,) = _raising(own, arriving)[:1]
    if own[0] is None or raised is None:
        return own
    silent = (own[0] == 0).flatten(1).all(1)
    return (torch.where(silent.reshape(-1, *[1] * (own[0].dim() - 1)), raised, own[0]),)
