"""Guided integrated gradients: a path that moves the least sensitive pixels first."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from explainkit.errors import MethodError
from explainkit.interfaces import Attribution
from explainkit.methods.path.straight_line import Visit, as_baselines, line_integral, visit


@dataclass(frozen=True)
class GuidedIG:
    """Gradients integrated along a path that keeps off where the score is sensitive.

    From the baseline b to the image x, each step moves the ``fraction`` of the values whose
    ``|∂S_c / ∂x|`` is smallest, and the next ones if that is not enough, until the path has come
    as far as a straight one would have, counted in ``Σ |x − b|``. No value may be further than
    ``max_dist`` ahead of the straight path or behind it: 0 is the straight path, 1 leaves it free.
    So the map has less of the noise that a straight path picks up where gradients are large but
    cancel out.

    The map is ``Σ_k (p_{k+1} − p_k) · (∇S(p_k) + ∇S(p_{k+1})) / 2`` over the path's points p_k; the
    authors' code takes the gradient at the start of each step instead, which leaves a larger gap.
    The exact map sums to ``S_c(x) − S_c(b)``; how far it is off is reported as
    ``completeness_gap``, relative to that difference (at least 0.05). The images of a batch walk
    side by side, each its own path.

    Attributes:
        baseline: The image that counts as "nothing", in model-input space: one value, or a tensor
            ``[channel, height, width]``, or one per image, ``[batch, channel, height, width]``.
        steps: Steps per image; one gradient each, one after the other.
        fraction: Share of the values that are moved together, in (0, 1].
        max_dist: How far a value may be off the straight path, as a share of ``x − b``, in [0, 1].

    Raises:
        MethodError: A field is out of its range, or the baseline does not fit the images.

    References:
        Kapishnikov, Venugopalan, Avci, Wedin, Terry and Bolukbasi (2021), "Guided Integrated
        Gradients: an Adaptive Path Method for Removing Noise", arXiv:2106.09788.

    Examples:
        >>> import explainkit as ek
        >>> from explainkit.testing import toy_models
        >>> model, images = toy_models()["vit"]
        >>> e = ek.explain(model, images, 0, "guided_ig")
        >>> bool((e.diagnostics["completeness_gap"] < 0.01).all())
        True
    """

    baseline: float | Tensor = field(default=0.0, metadata={"per_image": True})
    steps: int = 200
    fraction: float = 0.25
    max_dist: float = 0.02

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise MethodError(f"steps: expected at least 1, got {self.steps}")
        if not 0 < self.fraction <= 1:
            raise MethodError(f"fraction: expected a share in (0, 1], got {self.fraction}")
        if not 0 <= self.max_dist <= 1:
            raise MethodError(f"max_dist: expected a share in [0, 1], got {self.max_dist}")

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns ``[batch, channel, height, width]`` in units of the score."""
        return line_integral(self.walk(model, inputs, target), inputs.dtype)

    def walk(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Iterator[Visit]:
        """The path from the baseline, for another method that walks it."""
        precise = torch.promote_types(inputs.dtype, torch.float32)
        images = inputs.detach().to(precise)
        start = as_baselines(model, self.baseline, inputs).detach().to(precise)
        away = images - start
        weight = away.abs().flatten(1)
        progress = torch.zeros_like(weight)
        points = start
        for step in range(1, self.steps + 1):
            (here,) = visit(model, [points], inputs, target)
            yield here
            sensitivity = here.gradients.abs().flatten(1)
            progress = self._advanced(progress, weight, sensitivity, step / self.steps)
            points = start + progress.view_as(away) * away if step < self.steps else images
        yield from visit(model, [points], inputs, target)

    def _advanced(
        self, progress: Tensor, weight: Tensor, sensitivity: Tensor, along: float
    ) -> Tensor:
        """Each value's share of its way, ``[batch, value]``, when the path has come ``along``."""
        furthest = min(along + self.max_dist, 1.0)
        progress = progress.clamp(min=max(along - self.max_dist, 0.0))
        missing = (along * weight.sum(1) - (weight * progress).sum(1)).clamp(min=0)
        order = sensitivity.masked_fill((progress >= furthest) | (weight == 0), torch.inf)
        together = int(self.fraction * (order.shape[1] - 1)) + 1
        while bool((missing > 0).any()):
            # equal values move together, so that their order in memory does not matter
            chosen = (order <= order.kthvalue(together, 1, keepdim=True).values) & order.isfinite()
            room = torch.where(chosen, weight * (furthest - progress), 0.0).sum(1)
            share = torch.where(room > missing, missing / room, 1.0) * (missing > 0)
            progress = torch.where(
                chosen, progress + share[:, None] * (furthest - progress), progress
            )
            order = order.masked_fill(chosen, torch.inf)
            missing = torch.where(order.isfinite().any(1), (missing - room).clamp(min=0), 0.0)
        return progress
