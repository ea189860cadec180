"""Gradients through inactive ReLUs, so that gradient ascent can activate them."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from explainkit.graph.tape import nodes_from

STEPS = 16
"""Steps in which gradients are redirected; at most half of all steps."""

OptionalTensors = tuple[Tensor | None, ...]


def redirect(scores: Tensor) -> Tensor:
    """Passes gradients of the scores through inactive ReLUs in the next backward pass.

    The gradient of a ReLU ``y = max(x, 0)`` is ``1[x > 0] · g``. A redirected one is
    ``max(1[x > 0] · g, g)``: where the ReLU is inactive, it passes what would increase ``x``. In
    the ReLU nearest to the scores this applies to each channel of an image with no gradient at all;
    in the others, to each image with no gradient at all.

    Returns:
        bool ``[unit]``, filled by the backward pass: whether any gradient was redirected.

    References:
        Olah, Mordvintsev and Schubert (2017), "Feature Visualization", appendix, and its library
        Lucid, which redirects for images with no gradient at all.

    Examples:
        >>> x = torch.tensor([[-1.0, 2.0]], requires_grad=True)
        >>> scores = x.relu().sum(1)
        >>> passed = redirect(scores)
        >>> torch.autograd.grad(scores.sum(), x)[0], passed
        (tensor([[1., 1.]]), tensor([True]))
    """
    passed = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    if scores.grad_fn is None:
        return passed
    relus = [node for node in nodes_from(scores.grad_fn) if node.name() == "ReluBackward0"]
    for i, node in enumerate(relus):
        node.register_hook(_Redirect(passed, 1 if i else 2))
    return passed


@dataclass(frozen=True, eq=False)
class _Redirect:
    """A hook of a ReLU's autograd node that redirects its gradient.

    Attributes:
        passed: ``[unit]``, set for each unit whose gradient was redirected.
        leading: The gradient is redirected where it is zero over all dimensions after so many
            leading ones.
    """

    passed: Tensor
    leading: int

    def __call__(self, own: OptionalTensors, arriving: OptionalTensors) -> OptionalTensors:
        units = len(self.passed)
        if own[0] is None or arriving[0] is None or len(own[0]) != units:
            return own
        axes = tuple(range(own[0].dim()))[self.leading :] if self.leading else ()
        # runs for every ReLU at every step: usually one read-only pass
        blocked = torch.linalg.vector_norm(own[0], math.inf, axes) == 0 if axes else own[0] == 0
        if not blocked.any():
            return own
        added = arriving[0][blocked].clamp_min(0)
        redirected = own[0].clone()
        redirected[blocked] = added
        unit = blocked.nonzero()[:, 0]
        self.passed[unit[(added != 0).reshape(len(unit), -1).any(1)]] = True
        return (redirected,)
