"""Maps from a layer's output and its gradient: each needs one forward and one backward pass.

Notation: ``A[k, p]`` is channel k of the layer's output at spatial position p,
``g[k, p] = ∂S_c/∂A[k, p]`` its gradient, P the number of positions. All maps are signed and not
normalized.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from explainkit.methods.cam.base import GradientCAM
from explainkit.methods.cam.layout import spatial_axes

_CANCELLED = 1e-3
"""A sum this small relative to the sum of absolute values has cancelled."""


def weighted(weights: Tensor, activations: Tensor) -> Tensor:
    """``Σ_k w[k] A[k, p]`` with weights ``[batch, channel]``: a map ``[batch, height, width]``."""
    found = torch.bmm(weights[:, None], activations.flatten(2))
    return found.view(activations[:, 0].shape)


@dataclass(frozen=True)
class GradCAM(GradientCAM):
    """Channels of a layer, weighted by their mean gradient.

    ``L[p] = Σ_k w_k A[k, p]`` with ``w_k = mean_p g[k, p]``, in units of the score. For a head of
    mean pooling and one linear layer, the map is 1/P of the class activation map of Zhou et al.
    (2016), and it sums to the score without the bias. The paper's figures use ``relu=True``.

    Attributes:
        layer: Dotted path of the layer; several: the mean of their drawn maps. None: the layer
            of the model's `ModelSpec`, else the last one that the explained score reads.
        relu: Keep only the positive part of each layer's map, before it is drawn.
        upsample: Interpolation to the size of the image, where maps are stretched
            (``align_corners=False``). In a volume, ``"bilinear"`` is trilinear.
        patch_grid: Height and width of the layer's map, if it cannot be inferred; of a volume
            depth, height and width.
        prefix_tokens: Number of class and register tokens before the patches, if it cannot be
            inferred.
        placement: Where the cells of a layer's map are drawn. ``"stretch"`` interpolates the map to
            the image, where each pixel has the unit of a cell. ``"receptive_field"`` spreads each
            cell's value over the pixels that it depends on, with weights
            ``Σ_c |∂ Σ_k A_k[cell] / ∂x_c|`` (the mean of a few fixed random images, found once per
            model) that sum to 1, so the map sums to what its cells sum to. ``"auto"`` takes the
            receptive field where its center lies more than half a cell from where stretching draws
            the cell, as without padding; otherwise, and where receptive fields are unknown, as for
            tokens, it stretches. ``"layer"`` draws nothing: the map has the layer's own size.
            Nothing is drawn at cells that the score does not read or at pixels that the layer does
            not see.

    References:
        Selvaraju, Cogswell, Das, Vedantam, Parikh and Batra (2017), "Grad-CAM: Visual Explanations
        from Deep Networks via Gradient-Based Localization", arXiv:1610.02391.

    Examples:
        >>> import explainkit as ek
        >>> from explainkit.testing import toy_models
        >>> e = ek.explain(*toy_models()["plain"], 0, "gradcam")
        >>> e.attribution.shape, e.layer
        (torch.Size([4, 1, 12, 10]), '4')
    """

    def combine(self, activations: Tensor, grads: Tensor) -> Tensor:
        """``Σ_k mean_p(g) A``."""
        return weighted(grads.mean(spatial_axes(grads)), activations)


@dataclass(frozen=True)
class GradCAMPlusPlus(GradientCAM):
    """Grad-CAM with weights that count small and large regions of evidence equally.

    ``L[p] = Σ_k w_k A[k, p]`` with ``w_k = Σ_p α[k, p] · max(g[k, p], 0)`` and
    ``α = g² / (2 g² + g³ Σ_q A[k, q])``, which is ``1 / (2 + g Σ_q A[k, q])`` where g ≠ 0, and 0
    where g = 0. This is the paper's closed form for the score ``exp(S_c)``, without the constant
    factor ``exp(S_c)``.

    The derivation assumes outputs that are not negative. A warning reports a denominator that is
    not positive for a positive gradient.

    Attributes:
        layer: As in `GradCAM`, like all fields.

    References:
        Chattopadhay, Sarkar, Howlader and Balasubramanian (2018), "Grad-CAM++: Generalized
        Gradient-Based Visual Explanations for Deep Convolutional Networks", arXiv:1710.11063.

    Examples:
        >>> import explainkit as ek
        >>> from explainkit.testing import toy_models
        >>> ek.explain(*toy_models()["plain"], 0, "gradcam_plus_plus").attribution.shape
        torch.Size([4, 1, 12, 10])
    """

    def combine(self, activations: Tensor, grads: Tensor) -> Tensor:
        """``Σ_k Σ_p(max(g, 0) / (2 + g ΣA)) A``."""
        below = _denominator(activations, grads)
        # clamp first: where g = 0 the share is 0, not 0/0
        shares = grads.clamp(min=0) / torch.where(below == 0, torch.inf, below)
        return weighted(shares.sum(spatial_axes(shares)), activations)

    def warnings(self, activations: Tensor, grads: Tensor) -> Iterator[str]:
        """A warning if the closed form does not hold."""
        if bool(((_denominator(activations, grads) <= 0) & (grads > 0)).any()):
            yield (
                "the layer's output is negative where its gradient is positive, which Grad-CAM++ "
                "does not allow: name the ReLU after the layer, or use hirescam"
            )


def _denominator(activations: Tensor, grads: Tensor) -> Tensor:
    return 2 + grads * activations.sum(spatial_axes(activations), keepdim=True)


@dataclass(frozen=True)
class XGradCAM(GradientCAM):
    """Grad-CAM with weights that conserve the score.

    ``L[p] = Σ_k w_k A[k, p]`` with ``w_k = Σ_p g[k, p] A[k, p] / Σ_p A[k, p]``, 0 for a channel
    that sums to 0. The map sums to ``Σ g A``, which is the score if the network is piecewise
    linear without biases after the layer (conservation). The share of channel k is, to first order,
    the score's drop without it (sensitivity). In units of the score.

    A channel whose values almost cancel gets a very large weight: use the output of a ReLU.

    Attributes:
        layer: As in `GradCAM`, like all fields.

    References:
        Fu, Hu, Dong, Guo, Gao and Li (2020), "Axiom-based Grad-CAM: Towards Accurate Visualization
        and Explanation of CNNs", arXiv:2008.02312.

    Examples:
        >>> import explainkit as ek
        >>> from explainkit.testing import toy_models
        >>> ek.explain(*toy_models()["plain"], 0, "xgradcam").attribution.shape
        torch.Size([4, 1, 12, 10])
    """

    def combine(self, activations: Tensor, grads: Tensor) -> Tensor:
        """``Σ_k (Σ_p gA / Σ_p A) A``."""
        axes = spatial_axes(activations)
        total = activations.sum(axes)
        shares = (grads * activations).sum(axes) / torch.where(total == 0, torch.inf, total)
        return weighted(shares, activations)


@dataclass(frozen=True)
class LayerCAM(GradientCAM):
    """Each activation of a layer, weighted by its own positive gradient.

    ``L[p] = Σ_k max(g[k, p], 0) · A[k, p]``, in units of the score. Also suited to early layers.

    Attributes:
        layer: As in `GradCAM`, like all fields.

    References:
        Jiang, Zhang, Hou, Cheng and Wei (2021), "LayerCAM: Exploring Hierarchical Class Activation
        Maps for Localization", IEEE Transactions on Image Processing, doi:10.1109/TIP.2021.3089943.

    Examples:
        >>> import explainkit as ek
        >>> from explainkit.testing import toy_models
        >>> ek.explain(*toy_models()["plain"], 0, "layercam", layer="1").layer
        '1'
    """

    def combine(self, activations: Tensor, grads: Tensor) -> Tensor:
        """``Σ_k max(g, 0) A``."""
        return (grads.clamp(min=0) * activations).sum(1)


@dataclass(frozen=True)
class HiResCAM(GradientCAM):
    """Each activation of a layer, weighted by its own gradient.

    ``L[p] = Σ_k g[k, p] · A[k, p]``, in units of the score: gradient times activation. If the
    score is linear in the layer's output, the map sums to the score without the bias.

    A transformer reads its residual stream through normalizations, which ignore the scale of a
    token, so gradient times activation cancels there. A warning then suggests another layer.

    Attributes:
        layer: As in `GradCAM`, like all fields.

    References:
        Draelos and Carin (2020), "Use HiResCAM instead of Grad-CAM for faithful explanations of
        convolutional neural networks", arXiv:2011.08891.

    Examples:
        >>> import explainkit as ek
        >>> from explainkit.testing import toy_models
        >>> ek.explain(*toy_models()["in_place"], 0, "hirescam").layer
        '3'
    """

    def combine(self, activations: Tensor, grads: Tensor) -> Tensor:
        """``Σ_k g A``."""
        return (grads * activations).sum(1)

    def warnings(self, activations: Tensor, grads: Tensor) -> Iterator[str]:
        """A warning if the contributions of the channels cancel."""
        shares = grads * activations
        size = shares.abs().sum(1).flatten(1).amax(1)
        cancelled = shares.sum(1).abs().flatten(1).amax(1) <= _CANCELLED * size
        if bool((cancelled & (size > 0)).any()):
            yield (
                "gradient times activation cancels at every spatial position: the model reads this "
                "layer only through a normalization; name that normalization, such as the first "
                "one of the next block"
            )


@dataclass(frozen=True)
class ElementwiseCAM(GradientCAM):
    """HiResCAM restricted to positive contributions.

    ``L[p] = Σ_k max(g[k, p] · A[k, p], 0)``, in units of the score, never negative. For the
    output of a ReLU it equals LayerCAM.

    Attributes:
        layer: As in `GradCAM`, like all fields.

    References:
        Gildenblat and contributors (2021), "PyTorch library for CAM methods", where it is called
        GradCAMElementWise, github.com/jacobgil/pytorch-grad-cam.

    Examples:
        >>> import explainkit as ek
        >>> from explainkit.testing import toy_models
        >>> e = ek.explain(*toy_models()["tuple"], 0, "elementwise_cam", layer="features.0")
        >>> bool((e.attribution >= 0).all())
        True
    """

    def combine(self, activations: Tensor, grads: Tensor) -> Tensor:
        """``Σ_k max(g A, 0)``."""
        return (grads * activations).clamp(min=0).sum(1)
