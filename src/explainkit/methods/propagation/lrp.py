"""Layer-wise relevance propagation: the score shared out layer by layer, by a rule for each."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from explainkit.errors import MethodError
from explainkit.interfaces import Attribution
from explainkit.methods.propagation.relevance import (
    KEEP,
    FirstRule,
    LayerRule,
    Settings,
    relevance,
)
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
    """Layer-wise relevance propagation.

    The target's score is shared out from layer to layer until it reaches the pixels, each
    layer's outputs passing their relevance to its inputs in proportion to what those
    contributed:

    - ``epsilon``: ``R_i = Σ_j x_i w_ij / (z_j + ε sign z_j) · R_j``;
    - ``z_plus``: positive contributions only;
    - ``gamma``: contributions of the output's sign count ``1 + γ`` times;
    - ``alpha_beta``: ``α`` times the positive ones' shares less ``β`` times the negative ones';
    - for layers that see the image: ``flat``, ``w_square``, or ``box`` for bounded pixels.

    Activations pass all relevance on, maxima give it to the winner, sums and pooling share it in
    proportion, batch normalization is merged into the layer before it. In attention the two
    factors of a product take half each, softmax takes its first-order terms, and the scale of a
    normalization counts as a constant (AttnLRP). Biases keep their share, so ``Σa`` falls short of
    the score by what they hold: ``conservation_gap`` = |Σa − S| / max(|S|, 0.05) tells by how much.

    A patent on LRP is claimed by its authors' institutions; see the explanation pages.

    Attributes:
        composite: Which rule each kind of layer has: ``epsilon``, ``gamma``, ``alpha_beta`` (that
            rule everywhere), ``epsilon_plus`` (z⁺ on convolutions, ε on linear layers; with
            ``_flat`` on the first layer), ``epsilon_gamma_box``, ``epsilon_alpha2_beta1`` (and
            ``_flat``).
        epsilon: Stabilizer of every denominator.
        gamma: Of the γ rule.
        alpha: Of the αβ rule; β is α − 1.
        low: Lower bound of pixels in model-input space for ``box``: a number or a tensor that
            broadcasts to the image. None: of the model's spec, else the image's own minimum.
        high: Upper bound, likewise.
        unsupported: What happens at an operator that has no rule: ``"error"``, or ``"gradient"``:
            its plain gradient, and a warning.

    Raises:
        MethodError: A field is out of range, or an operator has no rule.

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
    epsilon: float = 1e-6
    gamma: float = 0.25
    alpha: float = 2.0
    low: float | Tensor | None = None
    high: float | Tensor | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.composite not in _PRESETS:
            raise MethodError(
                f"composite: expected one of {', '.join(get_args(Preset))}, got {self.composite!r}"
            )
        if not self.epsilon > 0 or not self.gamma >= 0 or not self.alpha >= 1:
            raise MethodError(
                "expected epsilon > 0, gamma >= 0 and alpha >= 1, got "
                f"{self.epsilon}, {self.gamma}, {self.alpha}"
            )
        if (self.low is None) != (self.high is None):
            raise MethodError("low, high: expected both bounds or none")

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns ``[batch, channel, height, width]`` in units of the score."""
        convolution, dense, first = _PRESETS[self.composite]
        settings = Settings(
            convolution, dense, first, self.epsilon, self.gamma, self.alpha, self.alpha - 1,
            low=_bound(self.low), high=_bound(self.high), unsupported=self.unsupported,
        )  # fmt: skip
        return relevance(model, inputs, target, settings)


def _bound(value: float | Tensor | None) -> Tensor | None:
    return value if value is None or isinstance(value, Tensor) else torch.tensor(float(value))


@dataclass(frozen=True)
class ExcitationBackprop(RuleMethod):
    """The probability that a winner-take-all walk from the class ends at a pixel.

    ``P_i = Σ_j x_i w_ij⁺ / Σ_i x_i w_ij⁺ · P_j``: from each unit to its excitatory inputs only, in
    proportion to what they contribute, biases left out. It starts with 1 at the target, so the
    map is not negative and sums to 1 (to what ``conservation_gap`` tells, where a unit has no
    excitatory input). Where a layer's input is negative, its product with a negative weight
    excites too.

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
        """Returns ``[batch, channel, height, width]``, a share of 1."""
        settings = Settings(
            "z_plus", "z_plus", bias=False, unsupported=self.unsupported, epsilon=1e-9,
            method="excitation_backprop",
        )  # fmt: skip
        return relevance(model, inputs, target, settings, of_one=True)


@dataclass(frozen=True)
class DeepTaylor(RuleMethod):
    """Deep Taylor decomposition: each layer expanded at a root of its own.

    z⁺ without biases on hidden layers, whose inputs are rectified; on the layer that sees the image
    the ``box`` rule for pixels between two bounds, or ``w²`` for pixels without bounds. For a
    positive score the map is not negative, and it sums to the score as far as biases hold none of
    it (``conservation_gap``).

    Attributes:
        first: ``box`` or ``w_square``.
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
        if self.first not in {"box", "w_square"}:
            raise MethodError(f"first: expected 'box' or 'w_square', got {self.first!r}")
        if (self.low is None) != (self.high is None):
            raise MethodError("low, high: expected both bounds or none")

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns ``[batch, channel, height, width]`` in units of the score."""
        settings = Settings(
            "z_plus", "z_plus", self.first, epsilon=1e-9, bias=False, low=_bound(self.low),
            high=_bound(self.high), unsupported=self.unsupported, method="deep_taylor",
        )  # fmt: skip
        return relevance(model, inputs, target, settings)
