"""Guided integrated gradients: a path that changes the least sensitive pixels first."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from explainkit.catalog.fields import Typed
from explainkit.interfaces import Attribution
from explainkit.methods.path.straight_line import Visit, as_baselines, line_integral, visit


@dataclass(frozen=True)
class GuidedIG(Typed):
    """Gradients integrated along a path that avoids regions where the score is sensitive.

    From the baseline b to the image x, each step changes the ``fraction`` of the values whose
    ``|∂S_c / ∂x|`` is smallest, and further ones if needed, until the path has advanced as far as
    the straight path, measured by ``Σ |x − b|``. No value may be more than ``max_dist`` ahead of
    the straight path or behind it: 0 is the straight path, 1 is no constraint. This reduces the
    noise that a straight path collects where gradients are large but cancel out.

    The map is ``Σ_k (p_{k+1} − p_k) · (∇S(p_k) + ∇S(p_{k+1})) / 2`` over the path's points p_k; the
    authors' code uses the gradient at the start of each step instead, which leaves a larger gap.
    The exact map sums to ``S_c(x) − S_c(b)``; ``completeness_gap`` reports the deviation, relative
    to that difference (at least 0.05), with a warning above 0.05. The images of a batch run
    together, each on its own path.

    Attributes:
        baseline: The reference image in model-input space: one value, a tensor
            ``[channel, height, width]``, or one per image, ``[batch, channel, height, width]``.
        steps: Sequential steps per image, with one gradient each.
        fraction: Fraction of the values that change together, in (0, 1].
        max_dist: Largest deviation from the straight path, as a fraction of ``x − b``, in [0, 1].

    Raises:
        MethodError: A field is out of range, or the baseline does not fit the images.

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

    volumes: ClassVar[bool] = True

    baseline: float | Tensor = field(default=0.0, metadata={"per_image": True})
    steps: int = field(default=200, metadata={"least": 1})
    fraction: float = field(default=0.25, metadata={"above": 0, "most": 1})
    max_dist: float = field(default=0.02, metadata={"least": 0, "most": 1})

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns ``[batch, channel, height, width]`` in units of the score."""
        return line_integral(self.walk(model, inputs, target), inputs.dtype)

    def walk(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Iterator[Visit]:
        """The path from the baseline, for methods that use the path."""
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
        """Each value's progress from 0 to 1, ``[batch, value]``, when the path's is ``along``."""
        furthest = min(along + self.max_dist, 1.0)
        progress = progress.clamp(min=max(along - self.max_dist, 0.0))
        missing = (along * weight.sum(1) - (weight * progress).sum(1)).clamp(min=0)
        order = sensitivity.masked_fill((progress >= furthest) | (weight == 0), torch.inf)
        together = int(self.fraction * (order.shape[1] - 1)) + 1
        for _ in range(-(-order.shape[1] // together)):
            # once nothing is missing, nothing changes; only on a CPU is it cheap to know
            if missing.is_cpu and not bool((missing > 0).any()):
                break
            # equal values change together, so their order in memory does not matter
            chosen = (order <= order.kthvalue(together, 1, keepdim=True).values) & order.isfinite()
            room = torch.where(chosen, weight * (furthest - progress), 0.0).sum(1)
            share = torch.where(room > missing, missing / room, 1.0) * (missing > 0)
            progress = torch.where(
                chosen, progress + share[:, None] * (furthest - progress), progress
            )
            order = order.masked_fill(chosen, torch.inf)
            missing = torch.where(order.isfinite().any(1), (missing - room).clamp(min=0), 0.0)
        return progress
