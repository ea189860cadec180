"""Attention followed through all layers, as it is or weighted by its gradient."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from explainkit.engine.passes import Needs, recorded_forward
from explainkit.errors import MethodError
from explainkit.interfaces import Attribution
from explainkit.methods.attention.matrices import KEEP, Matrix, matrices, readout_tokens
from explainkit.methods.cam.base import unwrapped
from explainkit.methods.cam.layout import layout_of


@dataclass(frozen=True)
class TokenMap:
    """Fields and steps of every method that gives each token a number.

    Attributes:
        upsample: How the map of patches becomes as large as the image (``align_corners=False``).
        patch_grid: Height and width of the map of patches, where the model doesn't show it.
        prefix_tokens: Number of class and register tokens before the patches, where it doesn't show.
    """

    upsample: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    patch_grid: tuple[int, int] | None = None
    prefix_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.upsample not in ("bilinear", "bicubic", "nearest"):
            raise MethodError(
                f"upsample: expected 'bilinear', 'bicubic' or 'nearest', got {self.upsample!r}"
            )

    def needs(self, _model: nn.Module, _inputs: Tensor) -> Needs:
        """A recorded forward, with the attention matrices."""
        return Needs(values=KEEP)

    def upsampled(self, tokens: Tensor, model: nn.Module, inputs: Tensor) -> Attribution:
        """Numbers of tokens ``[batch, token]`` as a map ``[batch, 1, height, width]``.

        What class and register tokens hold is not in the map: its sum is ``elsewhere``.
        """
        value = tokens[..., None]
        layout = layout_of(
            value, "attention", unwrapped(model), inputs, self.patch_grid, self.prefix_tokens
        )
        places = layout.to_nchw(value)
        smooth = {} if self.upsample == "nearest" else {"align_corners": False}
        large = F.interpolate(places, inputs.shape[2:], mode=self.upsample, **smooth)
        end = layout.prefix_tokens + places[0, 0].numel()
        elsewhere = torch.cat([tokens[:, : layout.prefix_tokens], tokens[:, end:]], 1).sum(1)
        return Attribution(
            large.to(inputs.dtype),
            diagnostics={"patch_grid": list(layout.patch_grid), "elsewhere": elsewhere},
        )


def rollout(reading: Tensor, layers: Sequence[Tensor], identity: float) -> Tensor:
    """A row of the product of all layers, from the last to the first.

    ``r_{l-1} = r_l (A_l + identity · I)``, from one token's (or several tokens' mean) row of the
    identity; a last matrix that is not square, by which the head reads the tokens, has no ``I``.

    Args:
        reading: ``[batch, 1, query]``.
        layers: ``[batch, query, key]``, first to last.
        identity: Share of a token itself.

    Returns:
        ``[batch, key]``.
    """
    for layer in reversed(layers):
        own = identity * reading if layer.shape[1] == layer.shape[2] else 0
        reading = reading @ layer + own
    return reading[:, 0]


@dataclass(frozen=True)
class AttentionRollout(TokenMap):
    """Attention multiplied through all layers: how much each patch can have reached the output.

    ``R = Ã_L ⋯ Ã_1``, ``Ã_l = ½ mean_h A_l + ½ I``: the residual path counts as much as attention.
    The map is the row of R of the token that the head reads (the class token), or the mean of
    their rows where it reads several; which ones, the gradient of the score tells. A last attention
    by which the head gathers the tokens counts as it is. Rows of R sum to one: the map at patch
    level and ``elsewhere`` (class and register tokens) add up to 1.

    It does not depend on the target, and attention is no evidence of importance by itself
    (registers and the class token draw much of it).

    Attributes:
        upsample: How the map of patches becomes as large as the image (``align_corners=False``).
        patch_grid: Height and width of the map of patches, where the model doesn't show it.
        prefix_tokens: Number of class and register tokens before the patches, where it doesn't show.

    Raises:
        MethodError: The model has no attention, or attends within windows.

    References:
        Abnar and Zuidema (2020), "Quantifying Attention Flow in Transformers", arXiv:2005.00928.

    Examples:
        >>> import explainkit as ek
        >>> from explainkit.testing import toy_models
        >>> e = ek.explain(*toy_models()["vit"], 0, "attention_rollout")
        >>> e.diagnostics["patch_grid"]
        [6, 5]
    """

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns ``[batch, 1, height, width]``, shares of 1 per patch, not negative."""
        found = matrices(
            recorded_forward(model, inputs, KEEP), target, "attention_rollout", every=False
        )
        layers = [_halved(matrix.values.mean(1)) for matrix in found]
        return self.upsampled(rollout(readout_tokens(found[-1]), layers, 0.5), model, inputs)


def _halved(mean: Tensor) -> Tensor:
    return mean / 2 if mean.shape[1] == mean.shape[2] else mean


@dataclass(frozen=True)
class GradientRollout(TokenMap):
    """Attention weighted by its positive gradient, summed over all paths through the layers.

    ``R ← R + Ā_l R`` from ``R = I``, ``Ā_l = mean_h (∂S_c/∂A_l ⊙ A_l)⁺``; the map is the row of R
    that the head reads, as in `AttentionRollout`. It speaks for one class, and only for it.

    Attributes:
        upsample: As in `AttentionRollout`.
        patch_grid: As in `AttentionRollout`.
        prefix_tokens: As in `AttentionRollout`.

    Raises:
        MethodError: The model has no attention, or attends within windows.

    References:
        Chefer, Gur and Wolf (2021), "Generic Attention-model Explainability for Interpreting
        Bi-Modal and Encoder-Decoder Transformers", arXiv:2103.15679.

    Examples:
        >>> import explainkit as ek
        >>> from explainkit.testing import toy_models
        >>> e = ek.explain(*toy_models()["vit"], 0, "gradient_rollout")
        >>> bool((e.attribution >= 0).all())
        True
    """

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns ``[batch, 1, height, width]``, not negative, score per unit of attention."""
        found = matrices(
            recorded_forward(model, inputs, KEEP), target, "gradient_rollout", every=True
        )
        layers = [_relevance(matrix) for matrix in found]
        return self.upsampled(rollout(readout_tokens(found[-1]), layers, 1.0), model, inputs)


def _relevance(matrix: Matrix) -> Tensor:
    gradient = matrix.gradient
    if gradient is None:
        return torch.zeros_like(matrix.values[:, 0])
    return (gradient * matrix.values).clamp(min=0).mean(1)
