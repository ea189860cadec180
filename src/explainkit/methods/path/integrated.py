"""Integrated gradients: the straight path from a baseline."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import chain
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from explainkit.catalog.fields import Typed
from explainkit.engine.batching import chunk_size
from explainkit.errors import MethodError
from explainkit.interfaces import Attribution
from explainkit.methods.gradient import input_gradient
from explainkit.methods.path.straight_line import (
    Visit,
    as_baselines,
    complete,
    score_and_gradient,
    spread,
    visit,
)

QuadratureRule = Literal[
    "gausslegendre", "riemann_left", "riemann_right", "riemann_middle", "riemann_trapezoid"
]


@lru_cache
def quadrature(rule: QuadratureRule, steps: int) -> tuple[Tensor, Tensor]:
    """Nodes in [0, 1] and weights of a rule that integrates over the straight path.

    The rules and their nodes are those of Captum, so that maps can be compared. Its trapezoid has
    ``steps`` nodes of weight 1 / steps with the ends halved: the weights sum to
    (steps − 1) / steps instead of one, and the map is too small by that factor.

    Returns:
        Two float64 tensors ``[steps]``.

    Examples:
        >>> nodes, weights = quadrature("gausslegendre", 2)
        >>> float(weights @ nodes**3)
        0.25
    """
    if rule == "gausslegendre":
        roots, areas = np.polynomial.legendre.leggauss(steps)
        return torch.from_numpy((1 + roots) / 2), torch.from_numpy(areas / 2)
    weights = torch.full((steps,), 1 / steps, dtype=torch.float64)
    step = torch.arange(steps, dtype=torch.float64)
    match rule:
        case "riemann_left":
            return step / steps, weights
        case "riemann_right":
            return (step + 1) / steps, weights
        case "riemann_middle":
            return (step + 0.5) / steps, weights
        case "riemann_trapezoid":
            weights[[0, -1]] /= 2
            return torch.linspace(0, 1, steps, dtype=torch.float64), weights
    raise MethodError(f"rule: expected one of {', '.join(get_args(QuadratureRule))}, got {rule!r}")


def check_rule(rule: QuadratureRule, steps: int | None) -> None:
    """Refuses a rule that does not exist, or too few steps for it.

    Raises:
        MethodError: One of these.
    """
    least = 2 if rule == "riemann_trapezoid" else 1
    if steps is not None and steps < least:
        raise MethodError(f"steps: expected at least {least}, got {steps}")
    quadrature(rule, least)


_FIRST = 8
"""Number of intervals of a path before refinement."""

_TOLERANCE = 0.01
"""The gap at which refinement ends if the caller chooses neither steps nor a tolerance."""

_SLACK = 5
"""How much larger the deviations may be before they cancel: they are deviations of pixels, too."""

_EQUAL_STEPS = 50
"""Steps of the path that other methods use, if the caller chooses none."""


@dataclass(frozen=True)
class IntegratedGradients(Typed):
    """Gradients integrated along the straight path from a baseline to the image.

    ``a = (x − b) · ∫₀¹ ∂S_c(b + α (x − b)) / ∂x dα``, approximated by
    ``(x − b) · Σ_k w_k ∂S_c(b + α_k (x − b)) / ∂x``. The exact map sums to ``S_c(x) − S_c(b)``.
    ``completeness_gap`` = |Σa − ΔS| / max(|ΔS|, 0.05) reports the deviation for each image, with a
    warning above 0.05; ``steps`` in the diagnostics is the number of gradients.

    By default each image's path is refined until its gap is at most 0.01: on every interval the
    trapezoid of the gradients is compared with the actual change of the score, and intervals that
    deviate by more than their share are halved. Few gradients suffice where a rule of equal steps
    needs hundreds. Before deviations of opposite signs cancel, they may add up to five times as
    much. With ``steps`` there are exactly so many gradients, at the nodes of ``rule``.

    Each image's path is its own batch, so a map does not depend on the other images.

    Attributes:
        baseline: The reference image in model-input space: one value, a tensor
            ``[channel, height, width]``, or one per image, ``[batch, channel, height, width]``.
        steps: Gradients per image; None: as many as the tolerance needs.
        rule: Quadrature over the path with ``steps``.
        tolerance: The gap at which refinement ends, whatever ``steps`` is; None: 0.01 without
            ``steps``.
        max_steps: Largest number of gradients per image in refinement; all are held in memory.
        multiply_by_inputs: If false, the map is the mean gradient along the path, without the
            factor ``x − b``. The completeness gap is that of the product in any case.

    Raises:
        MethodError: A field is out of range, or the baseline does not fit the images.

    References:
        Sundararajan, Taly and Yan (2017), "Axiomatic Attribution for Deep Networks",
        arXiv:1703.01365.

    Examples:
        >>> import explainkit as ek
        >>> from explainkit.testing import toy_models
        >>> model, images = toy_models()["plain"]
        >>> e = ek.explain(model, images, 0, "integrated_gradients")
        >>> bool((e.diagnostics["completeness_gap"] <= 0.01).all())
        True
    """

    volumes: ClassVar[bool] = True

    baseline: float | Tensor = field(default=0.0, metadata={"per_image": True})
    steps: int | None = None
    rule: QuadratureRule = "gausslegendre"
    tolerance: float | None = field(default=None, metadata={"above": 0})
    max_steps: int = field(default=200, metadata={"least": _FIRST + 1})
    multiply_by_inputs: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rule(self.rule, self.steps)

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns ``[batch, channel, height, width]`` in units of the score.

        Without ``multiply_by_inputs``, in score per unit of input.
        """
        baselines = as_baselines(model, self.baseline, inputs)
        return self.between(baselines, model, inputs, target)

    def between(
        self, baselines: Tensor, model: nn.Module, inputs: Tensor, target: Tensor
    ) -> Attribution:
        """The map for baselines shaped like the inputs; a batch stride of 0 means a shared one."""
        with torch.no_grad():
            scores = model(inputs).gather(1, target[:, None])[:, 0].double()
        shared = baselines[:1] if baselines.stride(0) == 0 else None
        shared_scores = _scores(model, shared)[0] if shared is not None else None
        means, maps, changes, steps = [], [], [], []
        for image, baseline, label, score in zip(
            inputs.detach(), baselines, target, scores, strict=True
        ):
            start = _scores(model, baseline[None])[0] if shared_scores is None else shared_scores
            if self._goal is None:
                mean, used = self._sum(model, image, baseline, label)
            else:
                mean, used = self._refined(model, image, baseline, label, self._goal)
            if not self.multiply_by_inputs:
                means.append(mean.to(image.dtype))
            maps.append((mean * (image - baseline)).to(image.dtype))
            changes.append(score - start[label])
            steps.append(used)
        found = Attribution(torch.stack(maps)).saying(steps=torch.tensor(steps))
        change = torch.stack(changes)
        remedy = "raise steps, or omit it" if self._goal is None else "raise max_steps"
        limit = 0.05 if self.tolerance is None else torch.inf
        found = complete(found, change, remedy, limit=limit)
        if not self.multiply_by_inputs:
            found = replace(found, values=torch.stack(means))
        worst = float(found.diagnostics["completeness_gap"].max())
        if self.tolerance is None or worst <= self.tolerance:
            return found
        return found.saying(
            f"completeness gap {worst:.3g} after {max(steps)} steps, above the tolerance "
            f"{self.tolerance:g}: raise max_steps"
        )

    @property
    def _goal(self) -> float | None:
        """The gap at which refinement ends; None for a fixed number of steps."""
        if self.tolerance is None and self.steps is None:
            return _TOLERANCE
        return self.tolerance

    def walk(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Iterator[Visit]:
        """The path in ``steps`` equal steps (50 by default), for methods that use the path."""
        inputs, steps = inputs.detach(), self.steps or _EQUAL_STEPS
        baselines = as_baselines(model, self.baseline, inputs)
        path = (baselines + k / steps * (inputs - baselines) for k in range(steps))
        return visit(model, chain(path, [inputs]), inputs, target)

    def _refined(
        self, model: nn.Module, image: Tensor, baseline: Tensor, label: Tensor, goal: float
    ) -> tuple[Tensor, int]:
        """The mean gradient along one image's path, and the number of gradients that it took."""
        span = (image - baseline).to(torch.promote_types(image.dtype, torch.float32))
        nodes: list[float] = []
        scores = torch.empty(0, dtype=torch.float64, device=image.device)
        slopes = scores.clone()
        gradients = span.new_empty(0, *span.shape)
        new = [k / _FIRST for k in range(_FIRST + 1)]
        while True:
            shares = spread(torch.tensor(new, device=image.device), image)
            points = (baseline + shares * (image - baseline)).to(image.dtype)
            found, gradient = score_and_gradient(model, points, label.expand(len(new)))
            gradient = gradient.to(span.dtype)
            slope = (gradient * span).double().flatten(1).sum(1)
            order = sorted(range(len(nodes) + len(new)), key=(nodes + new).__getitem__)
            nodes = sorted(nodes + new)
            scores = torch.cat([scores, found.double()])[order]
            slopes = torch.cat([slopes, slope])[order]
            gradients = torch.cat([gradients, gradient])[order]
            width = torch.tensor(nodes, dtype=torch.float64, device=image.device).diff()
            missed = scores.diff() - width * (slopes[1:] + slopes[:-1]) / 2
            # from the path's own ends: scores in a batch differ by rounding
            allowed = goal * (scores[-1] - scores[0]).abs().clamp(min=0.05)
            room = self.max_steps - len(nodes)
            close = missed.sum().abs() <= allowed and missed.abs().sum() <= _SLACK * allowed
            if close or room <= 0:
                break
            excess = missed.abs() - allowed * width
            count = min(int((excess > 0).sum()), room)
            worst = excess.topk(count).indices.sort().values.tolist()
            new = [(nodes[k] + nodes[k + 1]) / 2 for k in worst]
        weights = torch.zeros_like(scores)
        weights[1:] += width / 2
        weights[:-1] += width / 2
        return torch.einsum("n,n...->...", weights.to(span.dtype), gradients), len(nodes)

    def _sum(
        self, model: nn.Module, image: Tensor, baseline: Tensor, label: Tensor
    ) -> tuple[Tensor, int]:
        """The same with a fixed number of steps."""
        steps = self.steps or _EQUAL_STEPS
        precise = torch.promote_types(image.dtype, torch.float32)
        nodes, weights = (values.to(image.device) for values in quadrature(self.rule, steps))
        size = chunk_size(model, image)
        total = torch.zeros_like(image, dtype=precise)
        for start in range(0, steps, size):
            part = slice(start, start + size)
            shares = spread(nodes[part], image).to(image.dtype)
            weight = weights[part]
            gradient = input_gradient(
                model, baseline + shares * (image - baseline), label.expand(len(shares))
            )
            total += torch.einsum("n,n...->...", weight.to(total), gradient.to(precise))
        return total, steps


def _scores(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        scores: Tensor = model(images)
    return scores.double()
