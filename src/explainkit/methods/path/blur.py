"""Blur integrated gradients: a path of decreasingly blurred images."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from explainkit.catalog.fields import Typed
from explainkit.interfaces import Attribution
from explainkit.methods.path.straight_line import Visit, line_integral, visit


def scale_space(images: Tensor, sigma: float) -> Tensor:
    """Blurs images exactly, by heat diffusion on the pixel grid for time σ²/2.

    Along each axis ``L(σ) = exp(σ²/2 · Δ) x``, where Δ is the second difference with reflecting
    ends: a cosine transform whose frequency k is damped by ``exp(−σ² (1 − cos(πk / n)))``. This is
    the discrete Gaussian of scale-space theory. For any σ, variances add up (σ₁² + σ₂²), values
    stay in the range of the image, and the mean is preserved; σ → ∞ gives the mean. For σ ≥ 1 it
    hardly differs from a sampled Gaussian kernel.

    Args:
        images: ``[batch, channel, height, width]``.
        sigma: Standard deviation of the blur, in pixels.

    References:
        Lindeberg (1990), "Scale-space for discrete signals", doi:10.1109/34.49051.

    Examples:
        >>> images = torch.rand(1, 1, 6, 5).double()
        >>> twice = scale_space(scale_space(images, 3), 4)
        >>> torch.allclose(twice, scale_space(images, 5))
        True
    """
    height, width = images.shape[-2:]
    rows, columns = (_kernel(n, sigma).to(images) for n in (height, width))
    return rows @ images @ columns.T


def _kernel(size: int, sigma: float) -> Tensor:
    """The blur of one axis as a matrix, float64 ``[size, size]``."""
    index = torch.arange(size, dtype=torch.float64)
    waves = torch.cos(math.pi / size * index[:, None] * (index + 0.5))
    waves /= waves.norm(dim=1, keepdim=True)
    damping = torch.exp(-(sigma**2) * (1 - torch.cos(math.pi / size * index)))
    return waves.T @ (damping[:, None] * waves)


@dataclass(frozen=True)
class BlurIG(Typed):
    """Gradients integrated along the path from a blurred version of the image to the image.

    ``a = −∫₀^σmax ∂S_c(L(σ)) / ∂x · ∂L(σ) / ∂σ dσ``, where L(σ) is the image blurred with standard
    deviation σ (`scale_space`). No baseline color is needed: along the path only detail
    appears. The integral uses the chords between neighboring blurs,
    ``Σ_k (L_{k+1} − L_k) · (∇S(L_k) + ∇S(L_{k+1})) / 2``, so no derivative of the path is needed.
    The exact map sums to ``S_c(x) − S_c(L(σmax))``; ``completeness_gap`` reports the deviation,
    relative to that difference (at least 0.05).

    Attributes:
        max_sigma: The strongest blur, in pixels. None: a third of the shorter side, which leaves
            little more than the mean colors (the paper's 50 pixels are for 224 × 224 images).
        steps: Chords per image, ``σ_k = σmax · (1 − k / steps)²``: shorter where the blur is small.

    Raises:
        MethodError: A field is out of range.

    References:
        Xu, Venugopalan and Sundararajan (2020), "Attribution in Scale and Space",
        arXiv:2004.03383.

    Examples:
        >>> import explainkit as ek
        >>> from explainkit.testing import toy_models
        >>> model, images = toy_models()["vit"]
        >>> e = ek.explain(model, images, 0, "blur_ig")
        >>> bool((e.diagnostics["completeness_gap"] < 0.01).all())
        True
    """

    max_sigma: float | None = field(default=None, metadata={"above": 0, "below": math.inf})
    steps: int = field(default=50, metadata={"least": 1})

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns ``[batch, channel, height, width]`` in units of the score."""
        return line_integral(self.walk(model, inputs, target), inputs.dtype)

    def walk(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Iterator[Visit]:
        """The path from the most blurred image, for methods that use the path."""
        precise = inputs.detach().to(torch.promote_types(inputs.dtype, torch.float32))
        largest = self.max_sigma or min(inputs.shape[-2:]) / 3
        fractions = (k / self.steps for k in range(self.steps, -1, -1))
        path = (scale_space(precise, largest * fraction**2) for fraction in fractions)
        return visit(model, path, inputs, target)
