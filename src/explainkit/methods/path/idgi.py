"""Important direction gradient integration: a path's steps, weighted by squared gradients."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from explainkit.catalog.fields import Typed
from explainkit.errors import MethodError
from explainkit.interfaces import Attribution, Method
from explainkit.methods.path.integrated import IntegratedGradients
from explainkit.methods.path.straight_line import PathMethod, completeness_gap, spread


@dataclass(frozen=True)
class IDGI(Typed):
    """The score's change in each step of a path, distributed by squared gradients.

    ``a = Σ_k g_k² / Σ g_k² · (S_c(p_{k+1}) − S_c(p_k))``, where p_k are the points of the path and
    g_k the gradient at p_k. Only the component of a step along the gradient changes the score; the
    rest, which integrated gradients includes, is noise. Within one step all values have the same
    sign.

    The map sums to ``S_c(x) − S_c(p_0)`` for any number of steps, up to rounding;
    ``completeness_gap`` reports the deviation, relative to that difference (at least 0.05). If the
    gradient at p_k is zero, the change is distributed by the next nonzero gradient of the path.

    Attributes:
        path: The method that defines the path: ``integrated_gradients`` (straight, in ``steps``
            equal steps), ``blur_ig`` or ``guided_ig``.

    Raises:
        MethodError: The method has no path.

    References:
        Yang, Wang and Bilgic (2023), "IDGI: A Framework to Eliminate Explanation Noise from
        Integrated Gradients", arXiv:2303.14242.

    Examples:
        >>> import explainkit as ek
        >>> from explainkit.testing import toy_models
        >>> model, images = toy_models()["plain"]
        >>> e = ek.explain(model, images, 0, "idgi", path="blur_ig")
        >>> bool((e.diagnostics["completeness_gap"] < 1e-4).all())
        True
    """

    volumes: ClassVar[bool] = True

    path: Method = field(default_factory=IntegratedGradients)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.path, PathMethod):
            raise MethodError(
                "path: expected integrated_gradients, blur_ig, guided_ig or another method with "
                f"walk(model, inputs, target), got {type(self.path).__name__}"
            )

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns ``[batch, channel, height, width]`` in units of the score."""
        assert isinstance(self.path, PathMethod)
        total = torch.zeros_like(inputs, dtype=torch.promote_types(inputs.dtype, torch.float32))
        change = torch.zeros(len(inputs), dtype=torch.float64, device=inputs.device)
        waiting = torch.zeros_like(change)
        for before, now in pairwise(self.path.walk(model, inputs, target)):
            step = now.scores - before.scores
            change, waiting = change + step, waiting + step
            shares, nonzero = _shares(before.gradients)
            total += shares * spread((waiting * nonzero).to(total), total[0])
            waiting = waiting * ~nonzero
            last = now.gradients
        total += _shares(last)[0] * spread(waiting.to(total), total[0])
        values = total.to(inputs.dtype)
        gap = completeness_gap(values, change)
        return Attribution(values, diagnostics={"completeness_gap": gap})


def _shares(gradients: Tensor) -> tuple[Tensor, Tensor]:
    """``g² / Σ g²`` of each image, and whether its gradient is nonzero, bool ``[batch]``."""
    axes = tuple(range(1, gradients.dim()))
    largest = gradients.abs().amax(axes, keepdim=True)
    # squares of small gradients would underflow
    squares = (gradients / torch.where(largest > 0, largest, 1.0)).square()
    nonzero = largest > 0
    return squares / torch.where(nonzero, squares.sum(axes, keepdim=True), 1.0), nonzero.flatten()
