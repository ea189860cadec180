"""Maps from a layer's output and the gradient there: they all cost one forward and one backward.

Notation: ``A[k, p]`` is channel k of the layer's output at place p, ``g[k, p] = ∂S_c/∂A[k, p]`` its
gradient, P the number of places. All maps are raw: signed, not normalized.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from explainkit.methods.cam.base import GradientCAM

_CANCELLED = 1e-3
"""A sum this small beside the sum of absolute values has lost its digits."""


def weighted(weights: Tensor, activations: Tensor) -> Tensor:
    """``Σ_k w[k] A[k, p]`` of weights ``[batch, channel]``: a map ``[batch, height, width]``."""
    found = torch.bmm(weights[:, None], activations.flatten(2))
    return found.view(activations[:, 0].shape)


@dataclass(frozen=True)
class GradCAM(GradientCAM):
    """Channels of a layer, weighted by their mean gradient.

    ``L[p] = Σ_k w_k A[k, p]`` with ``w_k = mean_p g[k, p]``, in units of the score. For a head of
    mean pooling and one linear layer the map is 1/P of the class-activation map of Zhou et al.
    (2016), and its sum the score without the bias. The paper's figures show ``relu=True``.

    Attributes:
        layer: Dotted path of the layer, or several: then the mean of their maps, each upsampled.
            None: the layer that the model's `ModelSpec` names, else the last one with places.
        relu: Cut each layer's map to its positive part, before it is upsampled.
        upsample: How a map becomes as large as the image (``align_corners=False``).
        patch_grid: Height and width of the layer's map, where its output doesn't show it.
        prefix_tokens: Number of class and register tokens before the places, where it doesn't show.

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

    def combine(self, activations: Tensor, slopes: Tensor) -> Tensor:
        """``Σ_k mean_p(g) A``."""
        return weighted(slopes.mean((2, 3)), activations)


@dataclass(frozen=True)
class GradCAMPlusPlus(GradientCAM):
    """Grad-CAM with weights that count each place of a class's evidence, however small it is.

    ``L[p] = Σ_k w_k A[k, p]`` with ``w_k = Σ_p α[k, p] · max(g[k, p], 0)`` and
    ``α = g² / (2 g² + g³ Σ_q A[k, q])``, which is ``1 / (2 + g Σ_q A[k, q])`` where g ≠ 0 and
    counts as 0 where g = 0. This is the paper's closed form for the score ``exp(S_c)``, without
    the factor ``exp(S_c)`` that all places of an image share.

    The derivation takes rectified outputs: where the denominator is not positive for a positive
    gradient, a warning says so.

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

    def combine(self, activations: Tensor, slopes: Tensor) -> Tensor:
        """``Σ_k Σ_p(max(g, 0) / (2 + g ΣA)) A``."""
        below = _denominator(activations, slopes)
        # rectified first: where g = 0 the share is 0, whatever 0/0 is
        shares = slopes.clamp(min=0) / torch.where(below == 0, torch.inf, below)
        return weighted(shares.sum((2, 3)), activations)

    def remarks(self, activations: Tensor, slopes: Tensor) -> list[str]:
        """A warning where the closed form does not hold."""
        if not bool(((_denominator(activations, slopes) <= 0) & (slopes > 0)).any()):
            return []
        remark = (
            "the layer's output is negative where its gradient is not, for which Grad-CAM++ is not "
            "derived: name the rectifier after the layer, or use hirescam"
        )
        return [remark]


def _denominator(activations: Tensor, slopes: Tensor) -> Tensor:
    return 2 + slopes * activations.sum((2, 3), keepdim=True)


@dataclass(frozen=True)
class XGradCAM(GradientCAM):
    """Grad-CAM with weights that conserve the score.

    ``L[p] = Σ_k w_k A[k, p]`` with ``w_k = Σ_p g[k, p] A[k, p] / Σ_p A[k, p]``, 0 for a channel
    that sums to 0. The map sums to ``Σ g A``: in a network that is piecewise linear after the layer
    and has no biases there, the score (conservation), and what removing channel k alone takes away
    to first order is its share (sensitivity). In units of the score.

    A channel of both signs that almost cancels gets a very large weight: take a rectified layer.

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

    def combine(self, activations: Tensor, slopes: Tensor) -> Tensor:
        """``Σ_k (Σ_p gA / Σ_p A) A``."""
        total = activations.sum((2, 3))
        shares = (slopes * activations).sum((2, 3)) / torch.where(total == 0, torch.inf, total)
        return weighted(shares, activations)


@dataclass(frozen=True)
class LayerCAM(GradientCAM):
    """Each place of each channel, weighted by its own positive gradient.

    ``L[p] = Σ_k max(g[k, p], 0) · A[k, p]``, in units of the score. Fine enough for early layers.

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

    def combine(self, activations: Tensor, slopes: Tensor) -> Tensor:
        """``Σ_k max(g, 0) A``."""
        return (slopes.clamp(min=0) * activations).sum(1)


@dataclass(frozen=True)
class HiResCAM(GradientCAM):
    """Each place of each channel, weighted by its own gradient.

    ``L[p] = Σ_k g[k, p] · A[k, p]``, in units of the score: gradient times activation. Where the
    score is linear in the layer's output, the map sums to the score without the bias.

    A transformer reads its residual stream through normalizations that don't see the scale of a
    token, so that gradient times activation cancels there: a warning then names the way out.

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

    def combine(self, activations: Tensor, slopes: Tensor) -> Tensor:
        """``Σ_k g A``."""
        return (slopes * activations).sum(1)

    def remarks(self, activations: Tensor, slopes: Tensor) -> list[str]:
        """A warning where the shares of the channels cancel to rounding."""
        shares = slopes * activations
        size = shares.abs().sum(1).amax((1, 2))
        cancelled = shares.sum(1).abs().amax((1, 2)) <= _CANCELLED * size
        if not bool((cancelled & (size > 0)).any()):
            return []
        remark = (
            "gradient times activation cancels to rounding at every place: the model reads this "
            "layer only through a normalization; name that normalization, such as the first of the "
            "next block"
        )
        return [remark]


@dataclass(frozen=True)
class ElementwiseCAM(GradientCAM):
    """The positive shares of HiResCAM: channels that speak against the class are left out.

    ``L[p] = Σ_k max(g[k, p] · A[k, p], 0)``, in units of the score, never negative. For a rectified
    layer it equals LayerCAM.

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

    def combine(self, activations: Tensor, slopes: Tensor) -> Tensor:
        """``Σ_k max(g A, 0)``."""
        return (slopes * activations).clamp(min=0).sum(1)
