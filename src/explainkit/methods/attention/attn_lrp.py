"""Layer-wise relevance propagation with the rules that AttnLRP gives for transformers."""

from dataclasses import dataclass

from torch import Tensor, nn

from explainkit.errors import MethodError
from explainkit.interfaces import Attribution
from explainkit.methods.propagation.relevance import KEEP, Settings, relevance
from explainkit.methods.propagation.rules import RuleMethod


@dataclass(frozen=True)
class AttnLRP(RuleMethod):
    """Layer-wise relevance propagation through attention.

    - a product of features (``Q Kᵀ``, ``A V``, a gate) gives each factor half of its relevance;
    - softmax is expanded at its input: ``R_i = x_i (R_i − s_i Σ_j R_j)``;
    - of a normalization the scale is held, so that all relevance passes;
    - an activation passes all relevance on;
    - convolutions and linear layers have the γ rule, which the paper takes to denoise the maps of
      vision transformers: contributions of the output's sign count ``1 + γ`` times.

    Outside of softmax and biases, which keep what their constant parts hold, relevance is
    conserved: ``conservation_gap`` = |Σa − S| / max(|S|, 0.05) tells what they kept. The best γ
    differs from model to model; ``gamma=0, dense_gamma=0`` is the ε rule everywhere, as the paper
    has it for language models.

    A patent on LRP is claimed by its authors' institutions; see the explanation pages.

    Attributes:
        gamma: γ of convolutions: the embedding of patches.
        dense_gamma: γ of linear layers.
        epsilon: Stabilizer of every denominator.
        unsupported: What happens at an operator that has no rule: ``"error"``, or ``"gradient"``:
            its plain gradient, and a warning.

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
    gamma: float = 0.25
    dense_gamma: float = 0.05
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.epsilon > 0 or not self.gamma >= 0 or not self.dense_gamma >= 0:
            raise MethodError(
                "expected epsilon > 0, gamma >= 0 and dense_gamma >= 0, got "
                f"{self.epsilon}, {self.gamma}, {self.dense_gamma}"
            )

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns ``[batch, channel, height, width]`` in units of the score."""
        settings = Settings(
            "gamma", "gamma", epsilon=self.epsilon, gamma=self.gamma,
            dense_gamma=self.dense_gamma, unsupported=self.unsupported, method="attn_lrp",
        )  # fmt: skip
        return relevance(model, inputs, target, settings)
