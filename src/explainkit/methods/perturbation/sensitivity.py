"""Sensitivity analysis: how much the score depends on each segment."""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

from explainkit.methods.perturbation.mask_scores import MaskEvaluations
from explainkit.methods.perturbation.sampled import SegmentSampled, bernoulli

BLOCKS = 16
"""Number of blocks of the jackknife, left out in turn."""

PAIRED = 1024
"""Number of scores whose pairwise distances determine the width of the kernel."""


@dataclass(frozen=True)
class Hsic(SegmentSampled):
    """How much the score depends on whether a segment is kept (Hilbert–Schmidt criterion).

    Segments are kept with probability ½ each. With n masks, ``K`` the kernel ½ − (z − z')² of one
    segment, ``L`` the Gaussian kernel of the scores, whose width is their median distance, and
    ``H = I − 1/n``: ``a_j = tr(K_j H L H) / (n − 1)²``. As ``K_j`` is ½ s sᵀ with ``s = 2 z − 1``,
    this is the quadratic form ``sᵀ H L H s / (2 (n − 1)²)``, for all segments at once. Never
    negative: dependence has no sign. Each pixel has the value of its segment. The standard error is
    a jackknife estimate over 16 blocks of masks.

    Attributes:
        samples: Masks per image.
        segments: As in `KernelShap`, like all other fields.

    Raises:
        MethodError: A field is out of range.

    References:
        Novello, Fel and Vigouroux (2022), "Making Sense of Dependence: Efficient Black-box
        Explanations Using Dependence Measure", arXiv:2206.06219.

    Examples:
        >>> import explainkit as ek
        >>> from explainkit.testing import toy_models
        >>> model, images = toy_models()["plain"]
        >>> e = ek.explain(model, images, 0, "hsic", segments=3, samples=64)
        >>> bool((e.attribution >= 0).all())
        True
    """

    samples: int = field(default=512, metadata={"least": 2 * BLOCKS})

    def draw(self, features: int) -> Tensor:
        """Samples ``[samples, features]`` for images with this many segments."""
        return bernoulli(self.samples, features, 0.5, self.seed)

    def least(self, samples: Tensor) -> int:  # noqa: ARG002 - the same for all
        """How many of an image's samples suffice for a map and its standard error."""
        return 2 * BLOCKS

    def estimate(
        self, evaluations: MaskEvaluations, image: int, label: int
    ) -> tuple[Tensor, Tensor]:
        """Values of one image's features and their standard errors, float64 ``[features]``."""
        scores = evaluations.scores[image][:, label]
        sign = 2 * evaluations.masks.samples[image][: len(scores)].double() - 1
        width = torch.pdist(scores[:PAIRED, None]).median().clamp(min=1e-150)
        with_ones = torch.cat([sign, torch.ones_like(sign[:, :1])], 1)
        block = torch.arange(len(scores), device=scores.device) % BLOCKS
        # kernel sums over pairs of masks, with one mask in the block and with both
        one, both, ends = [], [], []
        for b in range(BLOCKS):
            mine = with_ones[block == b]
            # minus one: centering removes constants, and a constant score gives exactly zero
            apart = (scores[block == b, None] - scores).square()
            kernel = torch.expm1(-apart / (2 * width.square()))
            one.append(_products(mine, kernel @ with_ones))
            both.append(_products(mine, kernel[:, block == b] @ mine))
            ends.append((mine.sum(0), len(mine)))
        total, sums = torch.stack(one).sum(0), with_ones.sum(0)
        values = _criterion(total, sums, len(scores))
        without = torch.stack([
            _criterion(total - 2 * once + twice, sums - mine, len(scores) - count)
            for once, twice, (mine, count) in zip(one, both, ends, strict=True)
        ])  # fmt: skip
        return values, (without.var(0, correction=0) * (BLOCKS - 1)).sqrt()


def _products(mine: Tensor, others: Tensor) -> Tensor:
    """``[3, features]``: s K s, ½ (1 K s + s K 1) and 1 K 1, summed over the samples."""
    signs, ones = mine[:, :-1], others[:, -1:]
    mixed = (others[:, :-1] + signs * ones) / 2
    return torch.stack([signs * others[:, :-1], mixed, ones.expand_as(signs)]).sum(1)


def _criterion(products: Tensor, sums: Tensor, count: int) -> Tensor:
    """``(s − mean s)ᵀ K (s − mean s) / (2 (n − 1)²)`` from its expansion."""
    mean = sums[:-1] / count
    quadratic = products[0] - 2 * mean * products[1] + mean.square() * products[2]
    return quadratic.clamp(min=0) / (2 * (count - 1) ** 2)


@dataclass(frozen=True)
class Sobol(SegmentSampled):
    """Fraction of the score's variance that involves a segment (total Sobol index).

    Masks hold one value in [0, 1] per segment, ``m``; the image is ``m ⊙ x + (1 − m) ⊙ baseline``.
    ``a_j = E[Var(S_c | all but m_j)] / Var(S_c)``, by Jansen's estimator
    ``1 / (2 N V) Σ_n (S_c(A_n) − S_c(A_n with m_j of B_n))²``, where the rows of A and B are a
    scrambled Sobol sequence and V is the variance over both. Each pixel has the value of its
    segment. The standard error assumes independent rows, which is conservative.

    Attributes:
        samples: Rows of A; each costs ``segments + 2`` forwards.
        segments: As in `KernelShap`, like all other fields.

    Raises:
        MethodError: A field is out of range.

    References:
        Fel, Cadène, Chalvidal, Cord, Vigouroux and Serre (2021), "Look at the Variance! Efficient
        Black-box Explanations with Sobol-based Sensitivity Analysis", arXiv:2111.04138. Jansen
        (1999), doi:10.1016/S0010-4655(98)00154-4.

    Examples:
        >>> import explainkit as ek
        >>> from explainkit.testing import toy_models
        >>> model, images = toy_models()["plain"]
        >>> e = ek.explain(model, images, 0, "sobol", segments=2, samples=16)
        >>> bool((e.attribution >= 0).all())
        True
    """

    samples: int = field(default=32, metadata={"least": 4})

    def draw(self, features: int) -> Tensor:
        """The rows of A, of B, and of A with one column of B each, for this many segments."""
        engine = SobolEngine(2 * features, scramble=True, seed=self.seed)  # type: ignore[no-untyped-call]
        first, second = torch.split(engine.draw(self.samples), features, 1)
        swapped = first[:, None].repeat(1, features, 1)
        diagonal = torch.arange(features)
        swapped[:, diagonal, diagonal] = second
        return torch.cat([first[:, None], second[:, None], swapped], 1).flatten(0, 1)

    def least(self, samples: Tensor) -> int:
        """How many of an image's samples suffice for a map and its standard error."""
        return 4 * (samples.shape[1] + 2)

    def used(self, count: int, features: int) -> int:
        """The rows of A that this many mask evaluations amount to."""
        return count // (features + 2)

    def estimate(
        self, evaluations: MaskEvaluations, image: int, label: int
    ) -> tuple[Tensor, Tensor]:
        """Values of one image's features and their standard errors, float64 ``[features]``."""
        scores = evaluations.scores[image][:, label]
        features = evaluations.masks.samples[image].shape[1]
        count = self.used(len(scores), features)
        groups = scores[: count * (features + 2)].reshape(count, features + 2)
        apart = (groups[:, :1] - groups[:, 2:]).square() / 2
        deviation = (groups[:, :2] - groups[:, :2].mean()).square().mean(1, keepdim=True)
        variance = deviation.mean().clamp(min=1e-300)
        index = apart.mean(0) / variance
        # a ratio of means: to first order its error is that of numerator − index · denominator
        error = ((apart - index * deviation).var(0) / count).sqrt() / variance
        return index, error
