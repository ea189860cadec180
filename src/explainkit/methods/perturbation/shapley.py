"""Shapley values of segments: KernelSHAP and permutation sampling."""

import math
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from explainkit.errors import MethodError
from explainkit.methods.perturbation.mask_scores import MaskEvaluations
from explainkit.methods.perturbation.regression import least_squares
from explainkit.methods.perturbation.sampled import SegmentSampled
from explainkit.methods.perturbation.surrogate import predicted

GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class CoalitionPlan:
    """Which coalitions to evaluate: pairs of a coalition and its complement, by size.

    A size k and its complement carry ``2 (M − 1) / (k (M − k))`` of the Shapley kernel. Starting
    from the smallest, sizes are enumerated if their share of the budget covers all their
    coalitions. The remaining pairs are sampled from the remaining sizes, equally many of each. This
    is in proportion to their leverage, which is more efficient than sampling by the kernel.

    Attributes:
        features: Number of segments, M.
        pairs: Number of pairs to evaluate.
    """

    features: int
    pairs: int

    @property
    def exact(self) -> bool:
        """Whether the budget covers all coalitions."""
        return self.features <= 60 and 2 ** (self.features - 1) - 1 <= self.pairs

    def shares(self) -> Tensor:
        """The kernel's share of sizes 1, 2, … up to half of the features, float64."""
        size = torch.arange(1, self.features // 2 + 1, dtype=torch.float64)
        share = 1 / (size * (self.features - size))
        share[2 * size == self.features] /= 2  # its own complement
        return share / share.sum()

    def count(self, size: int) -> int:
        """Number of pairs of a size."""
        return math.comb(self.features, size) // (2 if 2 * size == self.features else 1)

    def enumerated(self) -> int:
        """The size up to which all coalitions are enumerated."""
        if self.exact:
            return self.features // 2
        shares = self.shares().tolist()
        left = self.pairs
        for size, share in enumerate(shares, 1):
            if self.count(size) > left * share / sum(shares[size - 1 :]) + 1e-9:
                return size - 1
            left -= self.count(size)
        return len(shares)

    def fixed(self) -> int:
        """Number of enumerated pairs."""
        return sum(self.count(size) for size in range(1, self.enumerated() + 1))

    def coalitions(self, seed: int) -> Tensor:
        """One coalition of each pair, float32 ``[pairs, features]``."""
        upto = self.enumerated()
        fixed = [
            members
            for size in range(1, upto + 1)
            for members in combinations(range(self.features), size)
            if 2 * size < self.features or 0 in members
        ]
        rows = torch.zeros(len(fixed), self.features)
        for row, members in zip(rows, fixed, strict=True):
            row[list(members)] = 1
        drawn = 0 if self.exact else self.pairs - len(fixed)
        if not drawn:
            return rows
        generator = torch.Generator().manual_seed(seed)
        # multiples of the golden ratio are evenly distributed for any count: sizes are stratified
        begin = torch.rand((), generator=generator, dtype=torch.float64)
        fraction = (begin + GOLDEN * torch.arange(drawn, dtype=torch.float64)) % 1
        sizes = self.features // 2 - upto
        size = upto + 1 + (fraction * sizes).long().clamp(max=sizes - 1)
        order = torch.rand(drawn, self.features, generator=generator).argsort(1).argsort(1)
        return torch.cat([rows, (order < size[:, None]).float()])

    def weights(self, coalitions: Tensor) -> Tensor:
        """The kernel's share that each of the first coalitions of the plan represents, float64."""
        size = coalitions.sum(1).long()
        size = torch.minimum(size, self.features - size).cpu()
        upto, drawn = self.enumerated(), len(coalitions) - self.fixed()
        represented = [
            self.count(k) if k <= upto else drawn / (self.features // 2 - upto)
            for k in range(1, self.features // 2 + 1)
        ]
        each = self.shares() / torch.tensor(represented, dtype=torch.float64)
        return each[size - 1].to(coalitions.device)


@dataclass(frozen=True)
class KernelShap(SegmentSampled):
    """Shapley values of segments, by regression on paired coalitions (KernelSHAP).

    ``φ = argmin Σ_z k(z) (v(z) − v(∅) − zᵀ φ)²`` subject to ``Σ_j φ_j = v(all) − v(∅)``, with
    ``v(z) = S_c(x on the segments of z, the baseline elsewhere)`` and the Shapley kernel
    ``k(z) = (M − 1) / (C(M, |z|) |z| (M − |z|))``. Each coalition is paired with its complement.
    Small and large sizes are enumerated as far as the budget allows, the others are sampled by
    leverage; if all ``2^M`` coalitions fit the budget, the values are exact. The constraint is
    eliminated, so it holds up to rounding. Each pixel has the value of its segment.

    Interactions between segments are noise in this regression. They are predicted by surrogates
    whose Shapley values are zero, each fitted to other coalitions, and subtracted from the scores
    first (`explainkit.methods.perturbation.surrogate.predicted`): the values are the same in
    expectation, with less error for the same number of forwards.

    The standard errors are HC3 over the sampled pairs; enumerated pairs have none.

    Attributes:
        samples: Coalitions per image, including the empty one.
        surrogate: Subtract surrogates from the scores; if false, use the plain regression.
        segments: Grid cells per side, ``"slic"``, ``"slic:80"`` or a tensor of integers.
        baseline: Replaces absent segments: one value, a tensor, ``"mean"``, ``"blur"`` or
            ``"noise"``.
        tolerance: Stop when an image's largest standard error is at most this fraction of its
            largest value.
        max_seconds: Time limit for all images; the result is then partial.
        seed: Random seed; ``explain(seed=…)`` sets it.

    Raises:
        MethodError: A field is out of range, or there are too few samples for the segments.

    References:
        Lundberg and Lee (2017), "A Unified Approach to Interpreting Model Predictions",
        arXiv:1705.07874. Covert and Lee (2021), "Improving KernelSHAP: Practical Shapley Value
        Estimation via Linear Regression", arXiv:2012.01536. Musco and Witter (2024), "Provably
        Accurate Shapley Value Estimation via Leverage Score Sampling", arXiv:2410.01917. Witter,
        Liu and Musco (2025), "Regression-adjusted Monte Carlo Estimators for Shapley Values and
        Probabilistic Values", arXiv:2506.11849.

    Examples:
        >>> import torch, explainkit as ek
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2)).eval()
        >>> x = torch.rand(1, 1, 2, 2)
        >>> e = ek.explain(net, x, 1, "kernel_shap", segments=2)
        >>> torch.allclose(e.attribution.flatten(), x.flatten() * net[1].weight[1], atol=1e-6)
        True
        >>> int(e.diagnostics["samples"])  # 2⁴ coalitions, less the full one
        15
    """

    surrogate: bool = True

    def _plan(self, features: int) -> CoalitionPlan:
        return CoalitionPlan(features, (self.samples - 1) // 2)

    def draw(self, features: int) -> Tensor:
        """Samples ``[samples, features]`` for images with this many segments."""
        plan = self._plan(features)
        if not plan.exact and plan.pairs < features + 1:
            raise MethodError(
                f"samples: expected at least {min(2 * features + 3, 2**features - 1)} to determine "
                f"the values of {features} segments, got {self.samples}: raise samples or use "
                "fewer segments"
            )
        pairs = plan.coalitions(self.seed)
        paired = torch.stack([pairs, 1 - pairs], 1).flatten(0, 1)
        return torch.cat([torch.zeros(1, features), paired])

    def least(self, samples: Tensor) -> int:
        """How many of an image's samples suffice for a map and its standard error."""
        plan = self._plan(samples.shape[1])
        return min(1 + 2 * (max(plan.fixed(), plan.features) + 8), len(samples))

    def estimate(
        self, evaluations: MaskEvaluations, image: int, label: int
    ) -> tuple[Tensor, Tensor]:
        """Values of one image's features and their standard errors, float64 ``[features]``."""
        scores = evaluations.scores[image][:, label]
        pairs = (len(scores) - 1) // 2
        kept = evaluations.masks.samples[image][1 : 1 + 2 * pairs : 2].double()
        features = kept.shape[1]
        plan = self._plan(features)
        change = evaluations.clean[image, label] - scores[0]
        # only the difference of a pair depends on φ: half of v(z) − v(¬z) is (z − ½)ᵀ φ
        half = (scores[1 : 1 + 2 * pairs : 2] - scores[2 : 1 + 2 * pairs : 2]) / 2
        centered = kept - 0.5
        basis, weights, fixed = _sums_to_zero(features).to(kept), plan.weights(kept), plan.fixed()
        if self.surrogate:
            half = half - predicted(kept, half, weights, fixed)
        solution, influence = least_squares(
            centered @ basis, half - centered.sum(1) * change / features, weights
        )
        drawn = influence[fixed:] @ basis.T
        count = len(drawn)
        error = torch.zeros_like(kept[0])
        if count > 1:
            error = (drawn.var(0) * count).sqrt()
        return change / features + basis @ solution, error


def _sums_to_zero(features: int) -> Tensor:
    """Orthonormal basis ``[features, features − 1]`` of the vectors that sum to zero."""
    mirror = torch.full((features,), features**-0.5, dtype=torch.float64)
    mirror[0] -= 1
    # a Householder reflection that maps the first axis to the diagonal
    reflection = torch.eye(features, dtype=torch.float64)
    reflection -= 2 * torch.outer(mirror, mirror) / mirror.square().sum()
    return reflection[:, 1:]


@dataclass(frozen=True)
class ShapleySampling(SegmentSampled):
    """Shapley values of segments, by permutation sampling.

    ``φ_j = mean over permutations of v(those before j, and j) − v(those before j)``, with v as in
    `KernelShap`. Every permutation is paired with its reverse (antithetic sampling), which uses the
    complements of its coalitions. The values always sum to ``v(all) − v(∅)``. Each pixel has the
    value of its segment. The standard error is computed over the pairs of permutations.

    Attributes:
        samples: Permutations per image, an even number; each costs ``segments − 1`` forwards.
        segments: As in `KernelShap`, like all other fields.

    Raises:
        MethodError: A field is out of range.

    References:
        Castro, Gómez and Tejada (2009), "Polynomial calculation of the Shapley value based on
        sampling", doi:10.1016/j.cor.2008.04.004. Mitchell, Cooper, Frank and Holmes (2022),
        "Sampling Permutations for Shapley Value Estimation", arXiv:2104.12199.

    Examples:
        >>> import torch, explainkit as ek
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2)).eval()
        >>> x = torch.rand(1, 1, 2, 2)
        >>> e = ek.explain(net, x, 1, "shapley_sampling", segments=2, samples=4)
        >>> torch.allclose(e.attribution.flatten(), x.flatten() * net[1].weight[1], atol=1e-6)
        True
    """

    samples: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 4 or self.samples % 2:
            raise MethodError(
                f"samples: expected an even number of at least 4 permutations, got {self.samples}"
            )

    def draw(self, features: int) -> Tensor:
        """The samples for this many segments: the empty coalition, then those of each pair."""
        generator = torch.Generator().manual_seed(self.seed)
        rank = torch.rand(self.samples // 2, features, generator=generator).argsort(1).argsort(1)
        kept = (rank[:, None] < torch.arange(1, features)[None, :, None]).float()
        pairs = torch.stack([kept, 1 - kept], 2)
        return torch.cat([torch.zeros(1, features), pairs.reshape(-1, features)])

    def least(self, samples: Tensor) -> int:
        """How many of an image's samples suffice for a map and its standard error."""
        return 1 + 4 * (samples.shape[1] - 1)

    def used(self, count: int, features: int) -> int:
        """The permutations that this many mask evaluations amount to."""
        return 2 * ((count - 1) // (2 * (features - 1)))

    def estimate(
        self, evaluations: MaskEvaluations, image: int, label: int
    ) -> tuple[Tensor, Tensor]:
        """Values of one image's features and their standard errors, float64 ``[features]``."""
        samples, scores = evaluations.masks.samples[image], evaluations.scores[image][:, label]
        features = samples.shape[1]
        pairs = self.used(len(scores), features) // 2
        end = 1 + pairs * 2 * (features - 1)
        kept = samples[1:end:2].reshape(pairs, features - 1, features).double()
        values = scores[1:end].reshape(pairs, features - 1, 2)
        first, last = scores[0].expand(pairs, 1), evaluations.clean[image, label].expand(pairs, 1)
        ahead = torch.cat([first, values[:, :, 0], last], 1).diff(dim=1)
        # the complements remove the features in the same order
        back = -torch.cat([last, values[:, :, 1], first], 1).diff(dim=1)
        ends = kept.new_zeros(pairs, 1, features), kept.new_ones(pairs, 1, features)
        joined = torch.cat([ends[0], kept, ends[1]], 1).diff(dim=1)
        each = torch.einsum("pkf,pk->pf", joined, (ahead + back) / 2)
        return each.mean(0), (each.var(0) / pairs).sqrt()
