"""Layer-wise relevance propagation with the rules of AttnLRP for transformers."""

from dataclasses import dataclass, field

from torch import Tensor, nn

from explainkit.interfaces import Attribution
from explainkit.methods.propagation.relevance import KEEP, Settings, relevance
from explainkit.methods.propagation.rules import RuleMethod


@dataclass(frozen=True)
class AttnLRP(RuleMethod):
    """Layer-wise relevance propagation with rules for attention (AttnLRP).

    - each factor of a product of features (``Q Kᵀ``, ``A V``, a gate) gets half of its relevance;
    - softmax is expanded at its input: ``R_i = x_i (R_i − s_i Σ_j R_j)``;
    - the scale of a normalization is treated as constant, so that all relevance passes, whether it
      is one operator, a quotient ``x / sqrt(v)`` or a product ``x * rsqrt(v)``;
    - an activation passes all relevance on;
    - convolutions and linear layers have the γ rule, which the paper uses to denoise the maps of
      vision transformers: contributions with the sign of the output are weighted ``1 + γ`` times.

    Relevance is conserved except in softmax and biases, whose constant parts absorb some:
    ``conservation_gap`` = |Σa − S| / max(|S|, 0.05) reports how much, with a warning
    above 0.5. The best γ depends on the
    model; ``gamma=0, dense_gamma=0`` is the ε rule everywhere, as the paper uses it for language
    models.

    Attributes:
        gamma: γ of convolutions, such as the patch embedding.
        dense_gamma: γ of linear layers.
        epsilon: Stabilizer of every denominator.
        unsupported: What happens at an operator that has no rule: ``"error"``, or ``"gradient"``:
            its plain gradient is used, with a warning.

    Raises:
        MethodError: A field is out of range, or an operator has no rule.

    References:
        Achtibat, Hatefi, Dreyer, Jain, Wiegand, Lapuschkin and Samek (2024), "AttnLRP:
        Attention-Aware Layer-Wise Relevance Propagation for Transformers", arXiv:2402.05602.

    Examples:
        >>> import explainkit as ek
        >>> from explainkit.testing import toy_models
        >>> e = ek.explain(*toy_models()["vit"], 0, "attn_lrp")
        >>> e.coverage["operators"]["native_layer_norm"]
        {'scale held': 5}
    """

    keep = KEEP
    gamma: float = field(default=0.25, metadata={"least": 0})
    dense_gamma: float = field(default=0.05, metadata={"least": 0})
    epsilon: float = field(default=1e-6, metadata={"above": 0})

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns ``[batch, channel, height, width]`` in units of the score."""
        settings = Settings(
            "gamma", "gamma", epsilon=self.epsilon, gamma=self.gamma,
            dense_gamma=self.dense_gamma, unsupported=self.unsupported, method="attn_lrp",
        )  # fmt: skip
        return relevance(model, inputs, target, settings)
