"""Gradients of which only the positive part passes activations."""

from dataclasses import dataclass

from torch import Tensor, nn

from explainkit.graph.backward import Gradients, Operator
from explainkit.graph.names import ACTIVATIONS
from explainkit.graph.operators import kind_of
from explainkit.interfaces import Attribution
from explainkit.methods.propagation.rules import RuleMethod, Unsupported, fall_back, propagated


@dataclass(frozen=True)
class _Rectified:
    """The rule of both methods: gradients that arrive at an activation are clipped at zero."""

    method: str
    through: bool
    unsupported: Unsupported

    def __call__(self, operator: Operator, gradients: Gradients) -> tuple[Gradients, str]:
        if operator.name in ACTIVATIONS or _clamps_at_zero(operator):
            positive = [None if g is None else g.clamp(min=0) for g in gradients]
            if self.through:
                return operator.gradient(*positive), "rectified gradient"
            return (positive[0], *[None] * (len(operator.depends) - 1)), "rectified"
        found = operator.gradient(*gradients)
        if not kind_of(operator):
            return found, fall_back(operator, self.unsupported, self.method)
        return found, "gradient"


def _clamps_at_zero(operator: Operator) -> bool:
    """Whether this is a ReLU, or a ReLU6, that is written as a clamp."""
    record = operator.record
    if record is None or record.name not in {"clamp", "clamp_min"}:
        return False
    low = record.argument(1, record.options.get("min"))
    return isinstance(low, int | float) and low == 0


@dataclass(frozen=True)
class GuidedBackprop(RuleMethod):
    """The gradient, clipped at zero at every activation of the backward pass.

    ``g_in = f'(x) · max(g_out, 0)`` at each activation f, which for a ReLU is
    ``1[x > 0] · max(g_out, 0)``; the plain gradient everywhere else. The rule applies to operators,
    so functional, reused and in-place ReLUs are all covered, inside any block. Smooth activations
    (GELU, SiLU, …) multiply the positive part by their own derivative.

    The map shows edges that raise the score of *some* class: it hardly depends on the target or on
    the weights of late layers (Adebayo et al., 2018, arXiv:1810.03292).

    Attributes:
        unsupported: What happens at an operator that is not known: ``"error"``, or ``"gradient"``:
            its plain gradient is used, with a warning.

    References:
        Springenberg, Dosovitskiy, Brox and Riedmiller (2015), "Striving for Simplicity: The All
        Convolutional Net", arXiv:1412.6806.

    Examples:
        >>> import explainkit as ek
        >>> from explainkit.testing import toy_models
        >>> e = ek.explain(*toy_models()["functional"], 0, "guided_backprop")
        >>> e.coverage["operators"]["relu"]
        {'rectified gradient': 2}
    """

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns ``[batch, channel, height, width]``, score per unit of input."""
        rules = _Rectified("guided_backprop", through=True, unsupported=self.unsupported)
        return propagated(model, inputs, target, rules)


@dataclass(frozen=True)
class Deconvnet(RuleMethod):
    """The signal propagated back to the image, with a ReLU applied at every activation.

    ``g_in = max(g_out, 0)`` at each activation, whatever its input; the plain gradient everywhere
    else, so max pooling routes through its switches.

    Attributes:
        unsupported: As in `GuidedBackprop`.

    References:
        Zeiler and Fergus (2014), "Visualizing and Understanding Convolutional Networks",
        arXiv:1311.2901.

    Examples:
        >>> import explainkit as ek
        >>> from explainkit.testing import toy_models
        >>> e = ek.explain(*toy_models()["in_place"], 0, "deconvnet")
        >>> e.coverage["operators"]["relu"]
        {'rectified': 2}
    """

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns ``[batch, channel, height, width]``, score per unit of input."""
        rules = _Rectified("deconvnet", through=False, unsupported=self.unsupported)
        return propagated(model, inputs, target, rules)
