"""Contributions to the change of the score from a baseline, through exact finite differences."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from explainkit.engine.passes import Needs, recorded_forward
from explainkit.errors import MethodError
from explainkit.graph.backward import Gradients, Operator, propagate
from explainkit.graph.factors import reciprocal_factor, softmax_of
from explainkit.graph.names import (
    ACTIVATIONS,
    GATES,
    LAYERS,
    MAXIMA,
    NORMS,
    SOFTMAXES,
    TWO_STATISTICS,
    UNARY,
)
from explainkit.graph.operators import kind_of
from explainkit.graph.tape import Record, RecordedForward, record
from explainkit.interfaces import Attribution
from explainkit.methods.path.straight_line import as_baselines, complete, several_baselines
from explainkit.methods.propagation import multipliers
from explainkit.methods.propagation.layerwise import FOLDABLE, plain_layer
from explainkit.methods.propagation.rules import (
    RuleMethod,
    Unsupported,
    fall_back,
    report,
    seeds_of,
)

KEEP = UNARY | GATES | MAXIMA | SOFTMAXES | NORMS | {
    "mul", "addcmul", "div", "bmm", "mm", "baddbmm", "where",
}  # fmt: skip

WITH_LAYERS = KEEP | LAYERS

_REMEDY = (
    "look in the coverage for operators without a rule, in the model for comparisons such as "
    "x * (x > 0), and try float64"
)


class _Rescale:
    """The rule of each operator, given its calls on the image and on the baseline."""

    def __init__(
        self,
        trace: RecordedForward,
        base: RecordedForward,
        unsupported: Unsupported,
        *,
        cancel: bool,
    ) -> None:
        self.unsupported = unsupported
        self.trace = trace
        self.base = _paired(trace, base)
        self.cancel = cancel
        self._parts: dict[Node, tuple[Tensor, Tensor]] = {}
        self._exponentials: set[Node] = set()
        """Exponentials of softmaxes whose quotient has passed its multiplier on to their input."""

    def __call__(self, operator: Operator, gradients: Gradients) -> tuple[Gradients, str]:
        record, gradient = operator.record, gradients[0]
        kind = kind_of(operator)
        if operator.node in self._exponentials:
            return gradients, "rescale"
        if self.cancel and record is not None and gradient is not None:
            parts = self._cancelling(operator, record, gradient)
            if parts is not None:
                return parts, "reveal-cancel"
        if kind in {"linear", "layer"} and operator.name != "where":
            return operator.gradient(*gradients), "linear"
        base = None if record is None else self.base.get(id(record))
        found: Gradients | None = None
        if record is not None and base is not None:
            found = self._rescaled(kind, operator, (record, base), gradients)
        if found is None:
            how = fall_back(operator, self.unsupported, "deeplift")
            return operator.gradient(*gradients), how
        return found, "rescale"

    def _rescaled(
        self, kind: str, operator: Operator, calls: tuple[Record, Record], gradients: Gradients
    ) -> Gradients | None:
        """The multipliers of an operator, from its calls on the image and on the baseline."""
        record, base = calls
        first, *others = gradients
        if operator.name in TWO_STATISTICS:
            return (multipliers.statistics(record, base, first, others[0] if others else None),)
        if first is None or any(other is not None for other in others):
            return None
        gradient: Tensor = first
        match kind:
            # the condition of `where` is the same
            case "linear" if bool((record.tensors[0] == base.tensors[0]).all()):
                return operator.gradient(*gradients)
            case "unary" if sum(operator.depends) == 1:
                value = multipliers.unary(operator, record, base, gradient)
                return [value if wanted else None for wanted in operator.depends]
            case "product" | "quotient" if softmax := softmax_of(self.trace, operator):
                self._exponentials.add(node := softmax.exponential)
                exponential = self.trace.record_of(node)
                assert exponential is not None
                other = self.base[id(exponential)]
                value = multipliers.exponential_quotient(exponential, other, softmax.axes, gradient)
                return [value if i == softmax.index else None for i in range(2)]
            case "product":
                inverse = reciprocal_factor(self.trace, operator)
                return multipliers.product(operator, record, base, gradient, inverse)
            case "gate":
                return (multipliers.gate(record, base, gradient),)
            case "quotient":
                return multipliers.quotient(operator, record, base, gradient)
            case "maximum":
                return multipliers.maximum(operator, record, base, gradient)
            case "softmax":
                return (multipliers.softmax(record, base, gradient),)
            case "norm" if not any(operator.depends[1:]):
                found = multipliers.norm(record, base, gradient)
                return None if found is None else (found, *[None] * (len(operator.depends) - 1))
        return None

    def _cancelling(self, operator: Operator, record: Record, gradient: Tensor) -> Gradients | None:
        """RevealCancel at an activation directly after a layer, and at that layer; else None."""
        if (parts := self._parts.pop(operator.node, None)) is not None:
            return self._by_sign(operator, record, parts)
        below = _layer_below(operator) if operator.name in ACTIVATIONS else None
        layer = None if below is None else self.trace.record_of(below)
        if below is None or layer is None:
            return None
        step = plain_layer(layer)
        change = step.inputs - plain_layer(self.base[id(layer)]).inputs
        plus, minus = step.weight.clamp(min=0), step.weight.clamp(max=0)
        up = step.forward(change.clamp(min=0), plus) + step.forward(change.clamp(max=0), minus)
        down = step.forward(change.clamp(max=0), plus) + step.forward(change.clamp(min=0), minus)
        start = self.base[id(record)].tensors[0].expand_as(gradient)
        up, down = up.reshape(start.shape), down.reshape(start.shape)
        raised, lowered, both, rest = (
            _activated(record, x) for x in (start + up, start + down, start + up + down, start)
        )
        gain = ((raised - rest) + (both - lowered)) / 2
        loss = ((lowered - rest) + (both - raised)) / 2
        shape = layer.output.shape
        up, down = (
            gradient * multipliers.ratio(change, of, 0.0)
            for change, of in ((gain, up), (loss, down))
        )
        self._parts[below] = (up.reshape(shape), down.reshape(shape))
        return [gradient if wanted else None for wanted in operator.depends]

    def _by_sign(
        self, operator: Operator, record: Record, parts: tuple[Tensor, Tensor]
    ) -> Gradients:
        """Each input gets the multiplier for the sign of its contribution."""
        step = plain_layer(record)
        change = step.inputs - plain_layer(self.base[id(record)]).inputs
        plus, minus = step.weight.clamp(min=0), step.weight.clamp(max=0)
        up, down = parts
        raising = step.backward(up, plus) + step.backward(down, minus)
        lowering = step.backward(down, plus) + step.backward(up, minus)
        found = torch.where(change >= 0, raising, lowering)
        data = 1 if operator.name == "addmm" else 0
        return [found if i == data else None for i in range(len(operator.depends))]


def _layer_below(operator: Operator) -> Node | None:
    """The layer whose output goes to this activation and nowhere else, if there is one."""
    node = operator.node.next_functions[0][0]
    while node is not None and operator.users[node] == 1:
        if node.name() in FOLDABLE:
            return node
        if node.name() != "ViewBackward0":
            return None
        node = node.next_functions[0][0]
    return None


def _activated(record: Record, x: Tensor) -> Tensor:
    """An activation applied to other inputs."""
    operator = getattr(torch.ops.aten, record.name)
    others = record.others(1)
    found: Tensor = operator(x, *others, **record.options)
    return found


def _paired(trace: RecordedForward, base: RecordedForward) -> Mapping[int, Record]:
    """Each operator's call on the baseline, by the identity of its call on the image.

    Raises:
        MethodError: The model ran different operators on the baseline.
    """
    calls, base_calls = trace.calls(WITH_LAYERS), base.calls(WITH_LAYERS)
    if [call.name for call in calls] != [call.name for call in base_calls]:
        raise MethodError(
            "expected the model to run the same operators on the image and on the baseline, but "
            "its control flow depends on the values: use another baseline"
        )
    return {id(call): other for call, other in zip(calls, base_calls, strict=True)}


def _fits(trace: RecordedForward, base: RecordedForward) -> bool:
    """Whether the values of a single baseline broadcast against those of all images."""
    pairs = zip(trace.calls(KEEP), base.calls(KEEP), strict=False)
    return all(
        a.shape == b.shape or (b.dim() == a.dim() and len(b) == 1 and a.shape[1:] == b.shape[1:])
        for one, other in pairs
        for a, b in zip((*one.tensors, *one.outputs), (*other.tensors, *other.outputs), strict=True)
    )


def contributions(
    model: nn.Module,
    trace: RecordedForward,
    baselines: Tensor,
    target: Tensor,
    unsupported: Unsupported,
    *,
    cancel: bool = False,
) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
    """Contributions of each image's pixels to the change of its score from a baseline.

    A baseline shared by all images runs once.

    Args:
        model: Gives scores ``[batch, classes]``.
        trace: The recorded forward of the images.
        baselines: ``[1 or batch, channel, height, width]``.
        target: int64 ``[batch]``.
        unsupported: What happens at an operator without a rule.
        cancel: Use RevealCancel instead of rescale where it applies.

    Returns:
        The map, the multipliers, the change of the score (float64 ``[batch]``), and the `report` of
        the coverage.
    """
    images = trace.inputs.detach()
    keep = WITH_LAYERS if cancel else KEEP
    base = record(model, baselines, keep)
    if len(base.inputs) != len(images) and not _fits(trace, base):
        base = record(model, baselines.expand_as(images).contiguous(), keep)
    rules = _Rescale(trace, base, unsupported, cancel=cancel)
    multipliers, coverage = propagate(trace, seeds_of(trace, target), rules)
    scores = trace.scores.detach().double().gather(1, target[:, None])[:, 0]
    base_scores = base.scores.detach().double().expand(len(images), -1)
    change = scores - base_scores.gather(1, target[:, None])[:, 0]
    values = multipliers * (images - base.inputs.detach())
    return values, multipliers, change, report(coverage)


@dataclass(frozen=True)
class DeepLift(RuleMethod):
    """Each pixel's contribution to the change of the score from a baseline (DeepLIFT).

    ``a = m · (x − x₀)``, where the multipliers m follow the chain rule with ``Δy / Δx`` in place of
    every derivative: linear operators keep their weights, an activation has
    ``m = (f(x) − f(x₀)) / (x − x₀)`` (the rescale rule), a maximum passes its change to the element
    that is the larger of the two maxima, each factor of a product is multiplied by the average of
    the other, and normalizations are composed of these. Softmax has its derivative, with the
    logarithmic means of the two probabilities in place of the probabilities: a value that is added
    to all logits gets no share. The map is complete on every architecture with supported operators,
    attention and gates included: ``Σa = S_c(x) − S_c(x₀)`` up to rounding, which
    ``completeness_gap`` reports, with a warning above 0.05.

    Attributes:
        baseline: The reference image in model-input space: one value, a tensor
            ``[channel, height, width]``, or one per image, ``[batch, channel, height, width]``.
        rule: ``"rescale"``, or ``"reveal_cancel"``, which separates positive from negative
            contributions to each activation that follows a convolution or linear layer, and
            averages the effect of each over both orders. Elsewhere rescale applies; the coverage
            reports where. Both rules are complete.
        multiply_by_inputs: If false, the map is the multipliers m, in score per unit of input. The
            completeness gap is that of the product in any case.
        unsupported: What happens at an operator that has no rule: ``"error"``, or ``"gradient"``:
            its plain gradient is used, with a warning.

    Raises:
        MethodError: An operator has no rule, or the baseline does not fit the images.

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

    baseline: float | Tensor = field(default=0.0, metadata={"per_image": True})
    rule: Literal["rescale", "reveal_cancel"] = "rescale"
    multiply_by_inputs: bool = True

    @property
    def _keep(self) -> frozenset[str]:
        return KEEP if self.rule == "rescale" else WITH_LAYERS

    def needs(self, _model: nn.Module, _inputs: Tensor) -> Needs:
        """A recorded forward, with the values that the rule reads."""
        return Needs(values=self._keep)

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns ``[batch, channel, height, width]`` in units of the score."""
        trace = recorded_forward(model, inputs, self._keep)
        baselines = as_baselines(model, self.baseline, inputs.detach())
        if baselines.stride(0) == 0:
            baselines = baselines[:1]
        values, multipliers, change, coverage = contributions(
            model, trace, baselines, target, self.unsupported, cancel=self.rule == "reveal_cancel"
        )
        found = complete(Attribution(values, **coverage), change, _REMEDY)
        return found if self.multiply_by_inputs else replace(found, values=multipliers)


@dataclass(frozen=True)
class DeepLiftShap(RuleMethod):
    """DeepLIFT averaged over a set of baselines: approximate Shapley values.

    ``a = 1/m Σ_j DeepLIFT(x; x₀ⱼ)``, which sums to the score minus its mean over the baselines. The
    images run once, and each baseline runs once for all images.

    Attributes:
        baselines: ``[m, channel, height, width]`` in model-input space, such as images of the
            training data; all of them are used for every image.
        multiply_by_inputs: If false, the map is the mean of the multipliers, as in `DeepLift`.
        unsupported: As in `DeepLift`.

    Raises:
        MethodError: An operator has no rule, or the baselines do not fit the images.

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

    keep = KEEP
    baselines: Tensor | float = 0.0
    multiply_by_inputs: bool = True

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns ``[batch, channel, height, width]`` in units of the score."""
        baselines = several_baselines(model, self.baselines, inputs)
        trace = recorded_forward(model, inputs, KEEP)
        total = torch.zeros_like(inputs, dtype=torch.promote_types(inputs.dtype, torch.float32))
        squares, sums = total.clone(), total.clone()
        changes = torch.zeros(len(inputs), dtype=torch.float64)
        coverage: dict[str, Any] = {}
        for count, baseline in enumerate(baselines, 1):
            shares, multipliers, change, coverage = contributions(
                model, trace, baseline[None], target, self.unsupported
            )
            values = shares if self.multiply_by_inputs else multipliers
            sums = sums + (shares - sums) / count
            delta = values - total
            total = total + delta / count
            squares = squares + delta * (values - total)
            changes = changes + (change.cpu() - changes) / count
        m = len(baselines)
        error = (squares / (m * (m - 1))).sqrt().to(inputs.dtype) if m > 1 else None
        found = Attribution(sums.to(inputs.dtype), error, **coverage)
        found = complete(found, changes.to(sums.device), _REMEDY)
        return found if self.multiply_by_inputs else replace(found, values=total.to(inputs.dtype))
