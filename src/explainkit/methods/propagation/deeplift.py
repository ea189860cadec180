"""Contributions counted from a baseline: every operator's finite change, none of it lost."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from explainkit.errors import MethodError
from explainkit.graph import secant
from explainkit.graph.backward import Gradients, Operator, propagate
from explainkit.graph.names import GATES, MAXIMA, NORMS, SOFTMAXES, UNARY
from explainkit.graph.operators import kind_of
from explainkit.graph.tape import Record, Trace, record
from explainkit.methods.path.line import as_baselines, completeness_gap
from explainkit.methods.propagation.rules import (
    Uncovered,
    check_uncovered,
    fall_back,
    report,
    seeds_of,
)
from explainkit.passes import Needs, traced
from explainkit.types import Attribution

KEEP = UNARY | GATES | MAXIMA | SOFTMAXES | NORMS | {"mul", "div", "bmm", "mm", "baddbmm", "where"}


class _Rescale:
    """The rule of each operator, given its call on the image and its call on the baseline."""

    keep = KEEP

    def __init__(self, trace: Trace, base: Trace, uncovered: Uncovered) -> None:
        self.uncovered = uncovered
        self.base = _paired(trace, base)

    def __call__(self, operator: Operator, gradients: Gradients) -> tuple[Gradients, str]:
        record, gradient = operator.record, gradients[0]
        kind = kind_of(operator)
        if kind in {"linear", "layer"} and operator.name != "where":
            return operator.gradient(*gradients), "linear"
        if record is None or gradient is None or any(g is not None for g in gradients[1:]):
            return self._fall_back(operator, gradients)
        base = self.base.get(id(record))
        if base is None:
            return self._fall_back(operator, gradients)
        found: Gradients | None = None
        match kind:
            case "linear" if torch.equal(*torch.broadcast_tensors(_mask(record), _mask(base))):
                found = operator.gradient(*gradients)
            case "unary" if sum(operator.depends) == 1:
                value = secant.unary(operator, record, base, gradient)
                found = [value if wanted else None for wanted in operator.depends]
            case "product":
                found = secant.product(operator, record, base, gradient)
            case "gate":
                found = (secant.gate(record, base, gradient),)
            case "quotient":
                found = secant.quotient(operator, record, base, gradient)
            case "maximum":
                found = secant.maximum(operator, record, base, gradient)
            case "softmax":
                found = (secant.softmax(record, base, gradient),)
            case "norm" if not any(operator.depends[1:]):
                value_or_none = secant.norm(record, base, gradient)
                if value_or_none is not None:
                    found = (value_or_none, *[None] * (len(operator.depends) - 1))
        if found is None:
            return self._fall_back(operator, gradients)
        return found, "rescale"

    def _fall_back(self, operator: Operator, gradients: Gradients) -> tuple[Gradients, str]:
        how = fall_back(operator, self.uncovered, "deeplift")
        return operator.gradient(*gradients), how


def _mask(record: Record) -> Tensor:
    """The condition of ``where``."""
    return record.tensors[0]


def _paired(trace: Trace, base: Trace) -> Mapping[int, Record]:
    """Each operator's call on the baseline, by the identity of its call on the image.

    Raises:
        MethodError: The model ran other operators on the baseline.
    """
    calls, base_calls = trace.calls(KEEP), base.calls(KEEP)
    if [call.name for call in calls] != [call.name for call in base_calls]:
        raise MethodError(
            "expected the model to run the same operators on the image and on the baseline, but "
            "its control flow depends on the values: try another baseline"
        )
    return {id(call): other for call, other in zip(calls, base_calls, strict=True)}


def _fits(trace: Trace, base: Trace) -> bool:
    """Whether every value of a single baseline can stand beside those of all images."""
    pairs = zip(trace.calls(KEEP), base.calls(KEEP), strict=False)
    return all(
        a.shape == b.shape or (b.dim() == a.dim() and len(b) == 1 and a.shape[1:] == b.shape[1:])
        for one, other in pairs
        for a, b in zip((*one.tensors, *one.outputs), (*other.tensors, *other.outputs), strict=True)
    )


def contributions(
    model: nn.Module, trace: Trace, baselines: Tensor, target: Tensor, uncovered: Uncovered
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Contributions of each image's pixels to the change of its score from a baseline.

    A baseline that all images share is run once, not once per image.

    Args:
        model: Gives scores ``[batch, classes]``.
        trace: The images' recorded forward.
        baselines: ``[1 or batch, channel, height, width]``.
        target: int64 ``[batch]``.
        uncovered: What happens at an operator without a rule.

    Returns:
        The map, the change of the score (float64 ``[batch]``), and the coverage.
    """
    images = trace.inputs.detach()
    base = record(model, baselines, KEEP)
    if len(base.inputs) != len(images) and not _fits(trace, base):
        base = record(model, baselines.expand_as(images).contiguous(), KEEP)
    rules = _Rescale(trace, base, uncovered)
    multipliers, coverage = propagate(trace, seeds_of(trace, target), rules)
    scores = trace.scores.detach().double().gather(1, target[:, None])[:, 0]
    base_scores = base.scores.detach().double().expand(len(images), -1)
    change = scores - base_scores.gather(1, target[:, None])[:, 0]
    return multipliers * (images - base.inputs.detach()), change, report(coverage)


@dataclass(frozen=True)
class DeepLift:
    """Each pixel's share of the score's change from a baseline (DeepLIFT, rescale rule).

    ``a = m · (x − x₀)``, where the multipliers m follow the chain rule with ``Δy / Δx`` in place of
    every derivative: linear operators keep their weights, an activation has
    ``m = (f(x) − f(x₀)) / (x − x₀)``, a maximum gives all of its change to the element that is the
    larger of the two maxima, a product of two features gives each the average of the other, and
    softmax and normalisations are composed of these. So the map is complete on every
    architecture whose operators are known, attention and gates included:
    ``Σa = S_c(x) − S_c(x₀)`` up to rounding, which ``completeness_gap`` reports.

    Attributes:
        baseline: The image that counts as "nothing", in model-input space: one value, or a tensor
            ``[channel, height, width]``, or one per image, ``[batch, channel, height, width]``.
        uncovered: What happens at an operator that has no rule: ``"error"``, or ``"gradient"``:
            its plain gradient, and a warning.

    Raises:
        MethodError: An operator without a rule, or a baseline that does not fit the images.

    References:
        Shrikumar, Greenside and Kundaje (2017), "Learning Important Features Through Propagating
        Activation Differences", arXiv:1704.02685. Products: Lundberg and Lee (2017), "A Unified
        Approach to Interpreting Model Predictions", arXiv:1705.07874.

    Examples:
        >>> import explainkit as ek
        >>> from explainkit.testing import toy_models
        >>> e = ek.explain(*toy_models()["vit"], 0, "deeplift")
        >>> bool((e.diagnostics["completeness_gap"] < 1e-4).all())
        True
    """

    baseline: float | Tensor = 0.0
    uncovered: Uncovered = "error"

    def __post_init__(self) -> None:
        check_uncovered(self.uncovered)

    def needs(self, _model: nn.Module, _inputs: Tensor) -> Needs:
        """A recorded forward, with the values of everything that is not linear."""
        return Needs(values=KEEP)

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns ``[batch, channel, height, width]`` in units of the score."""
        trace = traced(model, inputs, KEEP)
        baselines = as_baselines(self.baseline, inputs.detach())
        if baselines.stride(0) == 0:
            baselines = baselines[:1]
        values, change, diagnostics = contributions(
            model, trace, baselines, target, self.uncovered
        )
        gap = completeness_gap(values, change)
        return Attribution(values, diagnostics=diagnostics | {"completeness_gap": gap})


@dataclass(frozen=True)
class DeepLiftShap:
    """DeepLIFT averaged over a set of baselines: approximate Shapley values.

    ``a = 1/m Σ_j DeepLIFT(x; x₀ⱼ)``, which sums to the score less its mean over the baselines. The
    images are run once, and every baseline once, however many images there are.

    Attributes:
        baselines: ``[m, channel, height, width]`` in model-input space, pictures of the training
            data for instance; every image has all of them.
        uncovered: As in `DeepLift`.

    Raises:
        MethodError: An operator without a rule, or baselines that do not fit the images.

    References:
        Lundberg and Lee (2017), "A Unified Approach to Interpreting Model Predictions",
        arXiv:1705.07874.

    Examples:
        >>> import torch, explainkit as ek
        >>> from explainkit.testing import toy_models
        >>> model, images = toy_models()["plain"]
        >>> e = ek.explain(model, images, 0, "deeplift_shap", baselines=torch.zeros(2, 3, 12, 10))
        >>> one = ek.explain(model, images, 0, "deeplift")
        >>> torch.allclose(e.attribution, one.attribution)
        True
    """

    baselines: Tensor | float = 0.0
    uncovered: Uncovered = "error"

    def __post_init__(self) -> None:
        check_uncovered(self.uncovered)

    def needs(self, _model: nn.Module, _inputs: Tensor) -> Needs:
        """A recorded forward, with the values of everything that is not linear."""
        return Needs(values=KEEP)

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns ``[batch, channel, height, width]`` in units of the score."""
        baselines = self._of(inputs)
        trace = traced(model, inputs, KEEP)
        total = torch.zeros_like(inputs, dtype=torch.promote_types(inputs.dtype, torch.float32))
        squares, changes = total.clone(), torch.zeros(len(inputs), dtype=torch.float64)
        diagnostics: dict[str, Any] = {}
        for count, baseline in enumerate(baselines, 1):
            values, change, diagnostics = contributions(
                model, trace, baseline[None], target, self.uncovered
            )
            delta = values - total
            total = total + delta / count
            squares = squares + delta * (values - total)
            changes = changes + (change.cpu() - changes) / count
        mean, m = total.to(inputs.dtype), len(baselines)
        error = (squares / (m * (m - 1))).sqrt().to(inputs.dtype) if m > 1 else None
        gap = completeness_gap(mean, changes.to(mean.device))
        return Attribution(mean, error, diagnostics | {"completeness_gap": gap})

    def _of(self, inputs: Tensor) -> Tensor:
        if not isinstance(self.baselines, Tensor):
            return torch.full_like(inputs[:1].detach(), self.baselines)
        if self.baselines.dim() != inputs.dim() or self.baselines.shape[1:] != inputs.shape[1:]:
            raise MethodError(
                f"baselines: expected a number or [m, {', '.join(map(str, inputs.shape[1:]))}], "
                f"got {list(self.baselines.shape)}"
            )
        if not len(self.baselines):
            raise MethodError("baselines: expected at least one, got none")
        return self.baselines.to(inputs)


