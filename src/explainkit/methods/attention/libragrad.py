"""LibraGrad: gradients for which input times gradient adds up to the score."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from explainkit.engine.model import unwrapped
from explainkit.engine.passes import Needs, needs_of
from explainkit.errors import MethodError
from explainkit.graph.backward import Gradients, Operator
from explainkit.graph.factors import (
    is_inverse_power,
    parts_of,
    scaling_factor,
    softmax_of,
)
from explainkit.graph.names import GATES, NORMS, RECTIFIERS, SHAPES, UNARY
from explainkit.graph.operators import kind_of
from explainkit.graph.tape import Record, RecordedForward
from explainkit.interfaces import Attribution, Method
from explainkit.methods.attention.gradient_rules import GradientRule, ModifiedGradients
from explainkit.methods.attention.matrices import KEEP as ATTENTION
from explainkit.methods.gradient import Saliency
from explainkit.methods.propagation.relevance import held_norm
from explainkit.methods.propagation.rules import RuleMethod, Unsupported, fall_back, report

KEEP = (UNARY - RECTIFIERS) | GATES | NORMS

_SCALES = SHAPES | {"mul", "div", "native_dropout", "neg"}
_NOT_ZERO = ATTENTION | {
    "sigmoid", "hardsigmoid", "softplus", "exp", "exp2", "cos", "cosh", "rsqrt", "reciprocal",
}  # fmt: skip
"""Functions that are not zero at zero: as a factor they are gates."""


class _Balanced:
    """The rules of LibraGrad."""

    def __init__(self, unsupported: Unsupported) -> None:
        self.unsupported = unsupported
        self._softmaxes: set[Node] = set()

    def __call__(
        self, trace: RecordedForward, operator: Operator
    ) -> tuple[GradientRule | None, str]:
        kind, record = kind_of(operator), operator.record
        if not kind:
            return None, fall_back(operator, self.unsupported, "libragrad")
        if kind in {"quotient", "product"} and softmax_of(trace, operator):
            self._softmaxes |= {operator.node, *parts_of(operator)}
        if record is None or operator.node in self._softmaxes:
            return None, "gradient"
        match kind:
            case "unary" if operator.name not in RECTIFIERS:
                return _slope_from_zero(record), "slope from zero"
            case "product":
                return _product(trace, operator)
            case "gate":
                return _gate(record), "gate held"
            case "quotient" if operator.depends[0]:
                return _first_only, "denominator held"
            case "norm":
                return _norm(record), "scale held"
        return None, "gradient"


def _first_only(own: Gradients, _arriving: Gradients) -> Gradients:
    return [own[0], *[None] * (len(own) - 1)]


def _slope_from_zero(record: Record) -> GradientRule | None:
    """``(f(x) − f(0)) / x`` in place of ``f'(x)``; None where ``f(0)`` is not finite."""
    function = getattr(torch.ops.aten, record.name)
    tensor, *_ = record.tensors
    found, arguments = False, []
    for argument in record.others(0):
        first = isinstance(argument, Tensor) and not found
        found = found or first
        arguments.append(tensor.new_zeros(1) if first else argument)
    zero = function(*arguments, **record.options)
    offset = zero[0] if isinstance(zero, tuple) else zero
    if not bool(torch.isfinite(offset).all()):
        return None
    # closer to zero, rounding costs the quotient more digits than curvature costs the slope
    info = torch.finfo(tensor.dtype)
    limit = info.eps ** (1 / 3) if bool((offset != 0).any()) else math.sqrt(info.tiny)

    def rule(own: Gradients, arriving: Gradients) -> Gradients:
        gradient = arriving[0]
        assert gradient is not None
        x = record.tensors[0]
        near = x.abs() < limit
        slope = (record.output - offset) / torch.where(near, 1.0, x)
        return [None if g is None else torch.where(near, g, gradient * slope) for g in own]

    return rule


def _product(trace: RecordedForward, operator: Operator) -> tuple[GradientRule, str]:
    """A factor that is a gate is held constant; otherwise each factor gets half."""
    left, right = (node for node, _ in operator.node.next_functions[-2:])
    scale = scaling_factor(trace, operator)
    if scale is None:
        held = [_is_gate(trace, node, operator.users) for node in (left, right)]
    else:
        held = [scale == 0, scale == 1]
    shares = (0.0 if held[0] else 1.0, 0.0 if held[1] else 1.0) if any(held) else (0.5, 0.5)
    if all(held):
        shares = (0.5, 0.5)

    def rule(own: Gradients, _arriving: Gradients) -> Gradients:
        factors = [
            None if g is None or not share else g * share
            for g, share in zip(own[-2:], shares, strict=True)
        ]
        return [*own[:-2], *factors]

    if shares == (0.5, 0.5):
        return rule, "half each"
    return rule, "attention held" if operator.name not in {"mul", "addcmul"} else "gate held"


def _is_gate(trace: RecordedForward, node: Node | None, users: Mapping[Node, int]) -> bool:
    """Whether a factor comes from a function that is not zero at zero, such as ``1 + erf(x)``."""
    shifted = False
    while node is not None:
        record = trace.record_of(node)
        if record is None:
            return False
        below = [inner for inner, _ in node.next_functions if inner is not None]
        if record.name in _NOT_ZERO or record.name == "pow":
            return record.name != "pow" or is_inverse_power(record)
        if record.name in UNARY:
            return shifted
        if softmax_of(trace, Operator(record.name, node, record, users)):
            return True
        if len(below) != 1 or record.name not in _SCALES | {"add", "sub", "rsub"}:
            return False
        shifted = shifted or record.name in {"add", "sub", "rsub"}
        node = below[0]
    return False


def _gate(record: Record) -> GradientRule:
    axis = record.argument(1, -1)

    def rule(own: Gradients, _arriving: Gradients) -> Gradients:
        if own[0] is None:
            return own
        value, gate = own[0].chunk(2, axis)
        return [torch.cat([value, torch.zeros_like(gate)], axis)]

    return rule


def _norm(record: Record) -> GradientRule:
    def rule(own: Gradients, arriving: Gradients) -> Gradients:
        gradient = arriving[0]
        held = None if gradient is None else held_norm(record, gradient)
        return own if held is None else [held, *[None] * (len(own) - 1)]

    return rule


@dataclass(frozen=True)
class LibraGrad(RuleMethod):
    """Any gradient method, with balanced gradients (LibraGrad).

    The forward pass is unchanged. In the backward pass

    - an activation is its input times a gate, and the gate is constant: ``g_in = g_out f(x) / x``
      (``(f(x) − f(0)) / x`` if ``f(0)`` is not zero);
    - attention is constant: values get their gradient, queries and keys none;
    - the scale of a normalization is constant: ``y = γ (x − mean) / σ`` with fixed σ;
    - each factor of a product of two features gets half its gradient; a factor that is a gate (a
      sigmoid, ``1 + erf``) is constant instead, and so is a denominator.

    So every operator equals its gradient times its input up to a constant, as in a ReLU network:
    without biases ``Σ x · g`` is the score (FullGrad-completeness). The plain gradients of a
    transformer are far from that.

    Attributes:
        base: The method that uses these gradients: `Saliency`, `InputXGradient`, `SmoothGrad`,
            `IntegratedGradients`, a class activation map.
        unsupported: What happens at an operator that is not known: ``"error"``, or ``"gradient"``:
            its plain gradient is used, with a warning.

    Raises:
        MethodError: The base method has backward rules of its own, differentiates twice, or uses
            no gradient; or an operator is not known.

    References:
        Mehri, Soleymani Baghshah and Pilehvar (2025), "LibraGrad: Balancing Gradient Flow for
        Universally Better Vision Transformer Attributions", arXiv:2411.16760.

    Examples:
        >>> import explainkit as ek
        >>> from explainkit.methods.gradient import InputXGradient
        >>> from explainkit.testing import toy_models
        >>> e = ek.explain(*toy_models()["vit"], 0, LibraGrad(InputXGradient()))
        >>> e.coverage["operators"]["gelu"]
        {'slope from zero': 2}
    """

    base: Method = field(default_factory=Saliency)

    def needs(self, _model: nn.Module, _inputs: Tensor) -> Needs:
        """Nothing that other methods share: its gradients are modified."""
        return Needs()

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns the base method's map, in its unit."""
        name = type(self.base).__name__
        needs: Needs = needs_of(self.base, unwrapped(model), inputs)
        if needs.values is not None or needs.twice:
            own = "differentiates twice" if needs.twice else "has backward rules of its own"
            raise MethodError(
                f"base: expected a method that uses gradients, got {name}, which {own}: use "
                "Saliency, InputXGradient, SmoothGrad, IntegratedGradients or GradCAM"
            )
        balanced = ModifiedGradients(model, _Balanced(self.unsupported), KEEP)
        result = self.base(balanced, inputs, target)
        if not balanced.coverage.counts:
            raise MethodError(f"base: expected a method that uses gradients, but {name} uses none")
        found = Attribution.of(result)
        covered = report(balanced.coverage)
        return replace(found, coverage=covered["coverage"]).saying(*covered["warnings"])
