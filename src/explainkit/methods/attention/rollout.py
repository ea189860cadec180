"""Attention rollout through all layers, plain or weighted by the gradient."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from explainkit.catalog.fields import Typed
from explainkit.engine.model import unwrapped
from explainkit.engine.passes import Needs, recorded_forward
from explainkit.interfaces import Attribution
from explainkit.methods.attention.matrices import KEEP, Matrix, matrices, readout_tokens
from explainkit.methods.cam.layout import layout_of


@dataclass(frozen=True)
class TokenMap(Typed):
    """Base of the methods that give each token a value.

    Attributes:
        upsample: Interpolation from patches to the size of the image (``align_corners=False``).
        patch_grid: Height and width of the patch grid, if it cannot be inferred from the model.
        prefix_tokens: Number of class and register tokens before the patches, likewise.
    """

    upsample: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    patch_grid: tuple[int, int] | None = None
    prefix_tokens: int | None = None

    def needs(self, _model: nn.Module, _inputs: Tensor) -> Needs:
        """A recorded forward, with the attention matrices."""
        return Needs(values=KEEP)

    def upsampled(self, tokens: Tensor, model: nn.Module, inputs: Tensor) -> Attribution:
        """Values of tokens ``[batch, token]`` as a map ``[batch, 1, height, width]``.

        The values of class and register tokens are not in the map: their sum is ``elsewhere``.
        """
        value = tokens[..., None]
        layout = layout_of(
            value, "attention", unwrapped(model), inputs, self.patch_grid, self.prefix_tokens
        )
        positions = layout.to_nchw(value)
        smooth = {} if self.upsample == "nearest" else {"align_corners": False}
        large = F.interpolate(positions, inputs.shape[2:], mode=self.upsample, **smooth)
        end = layout.prefix_tokens + positions[0, 0].numel()
        elsewhere = torch.cat([tokens[:, : layout.prefix_tokens], tokens[:, end:]], 1).sum(1)
        return Attribution(
            large.to(inputs.dtype),
            diagnostics={"patch_grid": list(layout.patch_grid), "elsewhere": elsewhere},
        )


def rollout(readout: Tensor, layers: Sequence[Tensor], identity: float) -> Tensor:
    """The rows of the readout tokens in the product of all layers, averaged.

    ``r_{l-1} = r_l (A_l + identity · I)``, from the last layer to the first. A last matrix that is
    not square, by which the head pools the tokens, has no ``I``.

    Args:
        readout: Weights of the readout tokens, ``[batch, 1, query]``.
        layers: ``[batch, query, key]``, in forward order.
        identity: Weight of the residual path.

    Returns:
        ``[batch, key]``.
    """
    for layer in reversed(layers):
        residual = identity * readout if layer.shape[1] == layer.shape[2] else 0
        # a matrix product may round an image differently at another place in the batch
        readout = (readout.mT * layer).sum(1, keepdim=True) + residual
    return readout[:, 0]


@dataclass(frozen=True)
class AttentionRollout(TokenMap):
    """Attention multiplied through all layers. It ignores the target.

    ``R = Ã_L ⋯ Ã_1``, ``Ã_l = ½ mean_h A_l + ½ I``: the residual path and attention have equal
    weight. The map is the row of R of the readout token (usually the class token), or the mean of
    the rows if the head reads several tokens; they are found by the gradient of the score. An
    attention by which the head pools the tokens is used as it is. Rows of R sum to one: the map at
    patch level and ``elsewhere`` (class and register tokens) add up to 1.

    The map shows how much of each patch can reach the output, whatever the class. Attention alone
    is no evidence of importance; registers and the class token attract much of it.

    Attributes:
        upsample: Interpolation from patches to the size of the image (``align_corners=False``).
        patch_grid: Height and width of the patch grid, if it cannot be inferred from the model.
        prefix_tokens: Number of class and register tokens before the patches, likewise.

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
    """Attention weighted by its positive gradient, accumulated through all layers.

    ``R ← R + Ā_l R`` from ``R = I``, ``Ā_l = mean_h (∂S_c/∂A_l ⊙ A_l)⁺``; the map is the row of R
    of the readout tokens, as in `AttentionRollout`. Unlike that one, it depends on the target.

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
