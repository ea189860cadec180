"""OptionalTensors through rectifiers that are off, so that ascent can switch them on."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from explainkit.graph.tape import nodes_from

STEPS = 16
"""Steps for which gradients are redirected, at most half of all."""

OptionalTensors = tuple[Tensor | None, ...]


def redirect(scores: Tensor, *, everywhere: bool) -> Tensor:
    """Lets the gradients of these scores, when they are taken, through rectifiers that are off.

    A rectifier ``y = max(x, 0)`` passes ``1[x > 0] · g``. One that passes ``max(1[x > 0] · g, g)``
    instead lets through, where it is off, what would raise it. The one next to the scores does so
    for an image's channel to which it would pass nothing at all, or ``everywhere``; any other does
    so for an image to which it would pass nothing at all.

    Args:
        scores: ``[unit]``, with their graph.
        everywhere: Also where a channel is off in a part of the image only.

    Returns:
        bool ``[unit]``: once gradients have been taken, whether anything was let through.

    References:
        Olah, Mordvintsev and Schubert (2017), "Feature Visualization", appendix, and its library
        Lucid, where it holds for images that get no gradient at all.

    Examples:
        >>> x = torch.tensor([[-1.0, 2.0]], requires_grad=True)
        >>> scores = x.relu().sum(1)
        >>> passed = redirect(scores, everywhere=False)
        >>> torch.autograd.grad(scores.sum(), x)[0], passed
        (tensor([[1., 1.]]), tensor([True]))
    """
    passed = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    if scores.grad_fn is None:
        return passed
    rectifiers = [node for node in nodes_from(scores.grad_fn) if node.name() == "ReluBackward0"]
    for place, node in enumerate(rectifiers):
        apart = 1 if place else 2
        node.register_hook(_Raising(passed, None if everywhere and not place else apart))
    return passed


@dataclass(frozen=True, eq=False)
class _Raising:
    """What a rectifier passes where it is off, as a hook of its node.

    Attributes:
        passed: ``[unit]``, is set for each unit for which that is anything.
        apart: Leading dimensions that are told apart: what lies in the others must be off as a
            whole. None: all are.
    """

    passed: Tensor
    apart: int | None

    def __call__(self, own: OptionalTensors, arriving: OptionalTensors) -> OptionalTensors:
        units = len(self.passed)
        if own[0] is None or arriving[0] is None or len(own[0]) != units:
            return own
        axes = tuple(range(own[0].dim()))[self.apart :] if self.apart else ()
        # one pass that only reads, and seldom more: it runs for every rectifier
        silent = torch.linalg.vector_norm(own[0], math.inf, axes) == 0 if axes else own[0] == 0
        if not silent.any():
            return own
        let = arriving[0][silent].clamp_min(0)
        raised = own[0].clone()
        raised[silent] = let
        unit = silent.nonzero()[:, 0]
        self.passed[unit[(let != 0).reshape(len(unit), -1).any(1)]] = True
        return (raised,)
