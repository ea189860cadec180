"""What the scores lose when a concept is removed from a layer, or how much they vary with it."""

from collections.abc import Callable

import torch
from torch import Tensor

from explainkit.concept_discovery.factorize import encode
from explainkit.concept_discovery.layer import LayerMaps

DESIGNS = 32
"""Masks from which total Sobol indices are estimated, as in CRAFT; each takes n + 1 runs."""

ROUNDING = 1e-6
"""Standard deviation up to which scores do not vary, as a share of the largest absolute score."""


class Moments:
    """Mean and standard error over images, collected over chunks."""

    def __init__(self) -> None:
        self._count = 0
        self._sum = self._squares = torch.zeros(())

    def add(self, values: Tensor) -> None:
        """Adds the images of a chunk, ``[batch, …]``."""
        self._count += len(values)
        self._sum = self._sum.to(values) + values.sum(0)
        self._squares = self._squares.to(values) + values.square().sum(0)

    @property
    def mean(self) -> Tensor:
        """Over images."""
        return self._sum / self._count

    @property
    def mean_square(self) -> Tensor:
        """Over images."""
        return self._squares / self._count

    @property
    def standard_error(self) -> Tensor:
        """Of the mean; NaN for a single image."""
        variance = (self.mean_square - self.mean.square()).clamp_min(0)
        return (variance / (self._count - 1)).sqrt()


class Effects:
    """The effects of concepts on the scores, collected over chunks of images.

    A layer's output is ``A = U W + R``: the concepts ``u_k w_k``, and what they leave out. The
    effect of concept k on an image's score is ``s(A) − s(A − u_k w_k)``.

    Args:
        directions: W, ``[n, channel]``, of length 1.

    Attributes:
        losses: The effects, ``[n, class]``.
    """

    def __init__(self, directions: Tensor) -> None:
        self.directions = directions
        self.losses = Moments()
        self._lost = self._whole = 0.0

    def add(self, layer: LayerMaps, maps: Tensor) -> Tensor:
        """Adds the images of the last `LayerMaps.maps`.

        Args:
            layer: The layer.
            maps: Its output, ``[batch, height, width, channel]``.

        Returns:
            The weights U of each concept, ``[batch, n, height, width]``.
        """
        weights = concept_maps(maps, self.directions)
        each = torch.arange(len(maps), device=maps.device)
        whole = layer.scores(maps, each)
        losses = []
        for k, direction in enumerate(self.directions):  # one at a time: n times less memory
            without = maps - weights[:, k, :, :, None] * direction
            losses.append(whole - layer.scores(without, each))
        self.losses.add(torch.stack(losses, 1))
        built = torch.einsum("bnhw,nc->bhwc", weights, self.directions)
        self._lost += float((whole - layer.scores(built, each)).abs().sum())
        self._whole += float((whole - layer.scores(torch.zeros_like(maps), each)).abs().sum())
        return weights

    @property
    def size(self) -> Tensor:
        """Root mean square of each concept's effect over images and classes, ``[n]``."""
        return self.losses.mean_square.mean(1).sqrt()

    @property
    def unexplained(self) -> float:
        """The share of the layer's effect that is lost when concepts take the place of its output.

        ``Σ |s(A) − s(U W)| / Σ |s(A) − s(0)|`` over images and classes; NaN if the layer has no
        effect.
        """
        return self._lost / self._whole if self._whole else float("nan")


def sobol_indices(
    layer: LayerMaps, maps: Tensor, weights: Tensor, directions: Tensor, *, seed: int
) -> Tensor:
    """The share of the scores' variance due to each concept when random parts of all are removed.

    A mask ``m`` in [0, 1] changes the layer's output to ``A − Σ_k (1 − m_k) u_k w_k``. What the
    concepts leave out is kept, so that a mask of ones gives the image's own score; CRAFT uses
    ``Σ_k m_k u_k w_k`` alone.

    Args:
        layer: The layer.
        maps: Its output for its last images, ``[batch, height, width, channel]``.
        weights: U, ``[batch, n, height, width]``.
        directions: W, ``[n, channel]``.
        seed: Random seed of the masks, which are the same for all images.

    Returns:
        Total Sobol indices of each image, ``[batch, n, class]``.
    """
    each = torch.arange(len(maps), device=maps.device)

    def scores(mask: Tensor) -> Tensor:
        removed = torch.einsum("n,bnhw,nc->bhwc", 1 - mask.to(maps), weights, directions)
        return layer.scores(maps - removed, each)

    return total_indices(scores, len(directions), seed=seed)


def total_indices(
    scores: Callable[[Tensor], Tensor], n: int, *, seed: int, designs: int = DESIGNS
) -> Tensor:
    r"""Total Sobol indices of a function of masks that are uniform in [0, 1].

    The share of the variance that remains if all other elements are known, by Jansen's estimator:

    .. math::

        S_k = \frac{E[V(s \mid m_{\sim k})]}{V(s)} \approx
        \frac{\frac{1}{2N} \sum_j \left(s(a_j) - s(a_j^k)\right)^2}
        {\frac{1}{N - 1} \sum_j \left(s(a_j) - \bar s\right)^2}

    a and b are the halves of a scrambled Sobol sequence, and :math:`a^k` is a with element k of b.

    Args:
        scores: From a mask ``[n]`` to scores ``[batch, class]``.
        n: Number of elements.
        seed: Random seed of the masks.
        designs: N.

    Returns:
        ``[batch, n, class]``; 0 where a score varies by no more than rounding.

    References:
        Jansen (1999), "Analysis of variance designs for model output", DOI
        10.1016/S0010-4655(98)00154-4; Fel et al. (2023), "CRAFT: Concept Recursive Activation
        FacTorization for Explainability", arXiv:2211.10154.

    Examples:
        >>> found = total_indices(lambda mask: (2 * mask[0] + mask[1]).view(1, 1), 2, seed=0,
        ...                       designs=1024)
        >>> [round(one, 2) for one in found.flatten().tolist()]
        [0.8, 0.2]
    """
    engine = torch.quasirandom.SobolEngine(2 * n, scramble=True, seed=seed)  # type: ignore[no-untyped-call]
    kept, other = engine.draw(designs, dtype=torch.float64).chunk(2, 1)
    values = torch.stack([scores(a) for a in kept])
    variance = values.var(0)
    left = []
    for one in torch.eye(n).bool():
        changed = torch.stack(
            [scores(torch.where(one, b, a)) for a, b in zip(kept, other, strict=True)]
        )
        left.append((values - changed).square().mean(0) / 2)
    varies = variance.sqrt() > ROUNDING * values.abs().amax((0, 2))[:, None]
    return torch.where(varies[:, None], torch.stack(left, 1) / variance[:, None], 0)


def concept_maps(maps: Tensor, directions: Tensor) -> Tensor:
    """The weights of concepts in a layer's output, ``[batch, n, height, width]``.

    Args:
        maps: ``[batch, height, width, channel]``.
        directions: ``[n, channel]``, of length 1.
    """
    weights = encode(maps.flatten(0, 2), directions)
    return weights.reshape(*maps.shape[:3], len(directions)).permute(0, 3, 1, 2)
