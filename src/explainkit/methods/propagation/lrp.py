"""Layer-wise relevance propagation: the score, redistributed layer by layer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from explainkit.errors import MethodError
from explainkit.interfaces import Attribution
from explainkit.methods.propagation.layer_rules import checked_rules
from explainkit.methods.propagation.layerwise import FirstRule, LayerRule
from explainkit.methods.propagation.relevance import KEEP, Settings, relevance
from explainkit.methods.propagation.rules import RuleMethod

Preset = Literal[
    "epsilon", "gamma", "alpha_beta", "epsilon_plus", "epsilon_plus_flat", "epsilon_gamma_box",
    "epsilon_alpha2_beta1", "epsilon_alpha2_beta1_flat",
]  # fmt: skip

_PRESETS: dict[str, tuple[LayerRule, LayerRule, FirstRule]] = {
    "epsilon": ("epsilon", "epsilon", "same"),
    "gamma": ("gamma", "gamma", "same"),
    "alpha_beta": ("alpha_beta", "alpha_beta", "same"),
    "epsilon_plus": ("z_plus", "epsilon", "same"),
    "epsilon_plus_flat": ("z_plus", "epsilon", "flat"),
    "epsilon_gamma_box": ("gamma", "epsilon", "box"),
    "epsilon_alpha2_beta1": ("alpha_beta", "epsilon", "same"),
    "epsilon_alpha2_beta1_flat": ("alpha_beta", "epsilon", "flat"),
}


@dataclass(frozen=True)
class LRP(RuleMethod):
    """Layer-wise relevance propagation: the score, redistributed from layer to layer to the pixels.

    The relevance of a layer's outputs is passed to its inputs in proportion to their
    contributions, by one of these rules:

    - ``epsilon``: ``R_i = Σ_j x_i w_ij / (z_j + ε sign z_j) · R_j``;
    - ``z_plus``: positive contributions only;
    - ``gamma``: contributions with the sign of the output are weighted ``1 + γ`` times;
    - ``alpha_beta``: ``α`` times the positive contributions minus ``β`` times the negative ones;
    - for the first layer: ``flat``, ``w_square``, or ``box`` for bounded pixels.

    Activations pass all relevance on, maxima pass it to the winner, sums and average pooling split
    it proportionally, and batch normalization is merged into the preceding layer. In attention the
    two factors of a product get half each, softmax is expanded to first order, and the scale of a
    normalization counts as a constant (AttnLRP), as does any factor that is a reciprocal, or a
    function of the other factor (``x · σ(x)``). Biases absorb their share of the relevance;
    ``conservation_gap`` = |Σa − S| / max(|S|, 0.05) reports how much, with a warning
    above 0.5.

    Attributes:
        composite: The rule of each type of layer: ``epsilon``, ``gamma``, ``alpha_beta`` (that
            rule everywhere), ``epsilon_plus`` (z⁺ on convolutions, ε on linear layers; with
            ``_flat`` on the first layer), ``epsilon_gamma_box``, ``epsilon_alpha2_beta1`` (and
            ``_flat``).
        epsilon: Stabilizer of every denominator.
        gamma: γ of the γ rule.
        alpha: α of the αβ rule; β is α − 1.
        rules: Rules of single layers, by dotted path or by class, which come before the composite:
            ``{"features": "gamma", "features.0": "w_square", nn.Linear: "epsilon"}``. A path counts
            for all layers inside it, and a longer one comes before a shorter one. ``flat``,
            ``w_square`` and ``box`` are for layers that read the image.
        bias: Whether biases of convolutions and linear layers absorb their share; if not, a layer
            passes on all of its relevance.
        low: Lower bound of pixels in model-input space for ``box``: a number or a tensor that
            broadcasts to the image. None: from the model's spec, else the minimum of the image.
        high: Upper bound, likewise.
        unsupported: What happens at an operator that has no rule: ``"error"``, or ``"gradient"``:
            its plain gradient is used, with a warning.

    Raises:
        MethodError: A field is out of range, an operator has no rule, or no layer takes one of
            ``rules``.

    References:
        Bach et al. (2015), "On Pixel-Wise Explanations for Non-Linear Classifier Decisions by
        Layer-Wise Relevance Propagation", doi:10.1371/journal.pone.0130140. Montavon et al.
        (2019), "Layer-Wise Relevance Propagation: An Overview", doi:10.1007/978-3-030-28954-6_10.
        Attention: Achtibat et al. (2024), "AttnLRP", arXiv:2402.05602.

    Examples:
        >>> import explainkit as ek
        >>> from explainkit.testing import toy_models
        >>> e = ek.explain(*toy_models()["residual"], 0, "lrp", composite="epsilon")
        >>> e.coverage["operators"]["relu"]
        {'passed': 3}
    """

    keep = KEEP
    composite: Preset = "epsilon_plus"
    rules: Mapping[str | type[nn.Module], str] = field(default_factory=dict)
    bias: bool = True
    epsilon: float = field(default=1e-6, metadata={"above": 0})
    gamma: float = field(default=0.25, metadata={"least": 0})
    alpha: float = field(default=2.0, metadata={"least": 1})
    low: float | Tensor | None = None
    high: float | Tensor | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.low is None) != (self.high is None):
            raise MethodError("low, high: expected both bounds or none")
        object.__setattr__(self, "rules", checked_rules(self.rules))

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns ``[batch, channel, height, width]`` in units of the score."""
        convolution, dense, first = _PRESETS[self.composite]
        settings = Settings(
            convolution, dense, first, self.epsilon, self.gamma, self.alpha, bias=self.bias,
            low=self.low, high=self.high, unsupported=self.unsupported,
        )  # fmt: skip
        return relevance(model, inputs, target, settings, rules=checked_rules(self.rules))


@dataclass(frozen=True)
class ExcitationBackprop(RuleMethod):
    """The probability that a winner-take-all random walk from the class ends at a pixel.

    ``P_i = Σ_j x_i w_ij⁺ / Σ_i x_i w_ij⁺ · P_j``: from each unit to its excitatory inputs only, in
    proportion to their contributions, without biases. It starts from 1 at the target, so the map is
    not negative and sums to 1 (``conservation_gap`` reports what is lost where a unit has no
    excitatory input). A negative input with a negative weight is excitatory too.

    Attributes:
        unsupported: As in `LRP`.

    References:
        Zhang, Lin, Brandt, Shen and Sclaroff (2016), "Top-down Neural Attention by Excitation
        Backprop", arXiv:1608.00507.

    Examples:
        >>> import explainkit as ek
        >>> from explainkit.testing import toy_models
        >>> e = ek.explain(*toy_models()["plain"], 0, "excitation_backprop")
        >>> bool((e.attribution >= 0).all())
        True
    """

    keep = KEEP

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns ``[batch, channel, height, width]``, probabilities that sum to 1."""
        settings = Settings(
            "z_plus", "z_plus", bias=False, unsupported=self.unsupported, epsilon=1e-9,
            method="excitation_backprop",
        )  # fmt: skip
        return relevance(model, inputs, target, settings, of_one=True)


@dataclass(frozen=True)
class DeepTaylor(RuleMethod):
    """Deep Taylor decomposition: each layer expanded around its own root point.

    The z⁺ rule without biases on hidden layers, whose inputs are not negative; on the first layer
    the ``box`` rule for pixels between two bounds, or ``w²`` for pixels without bounds. For a
    positive score the map is not negative. It sums to the score up to what biases absorb
    (``conservation_gap``).

    Attributes:
        first: Rule of the first layer: ``box`` or ``w_square``.
        low: As in `LRP`.
        high: As in `LRP`.
        unsupported: As in `LRP`.

    Raises:
        MethodError: A field is out of range, or an operator has no rule.

    References:
        Montavon, Lapuschkin, Binder, Samek and Müller (2017), "Explaining NonLinear Classification
        Decisions with Deep Taylor Decomposition", arXiv:1512.02479.

    Examples:
        >>> import explainkit as ek
        >>> from explainkit.testing import toy_models
        >>> e = ek.explain(*toy_models()["plain"], 0, "deep_taylor")
        >>> e.coverage["operators"]["convolution"]
        {'box (first)': 1, 'z_plus': 1}
    """

    keep = KEEP
    first: Literal["box", "w_square"] = "box"
    low: float | Tensor | None = None
    high: float | Tensor | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.low is None) != (self.high is None):
            raise MethodError("low, high: expected both bounds or none")

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns ``[batch, channel, height, width]`` in units of the score."""
        settings = Settings(
            "z_plus", "z_plus", self.first, epsilon=1e-9, bias=False, low=self.low,
            high=self.high, unsupported=self.unsupported, method="deep_taylor",
        )  # fmt: skip
        return relevance(model, inputs, target, settings)
