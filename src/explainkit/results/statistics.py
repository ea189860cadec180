"""Statistics of numbers per image: intervals, tests of paired numbers, agreement of groupings."""

from math import atan, erfc, pi, sqrt

import numpy as np
import torch
from torch import Tensor

RESAMPLES = 2000
"""Bootstrap samples, whose quantiles are the ends of an interval."""

EXACT = 50
"""Number of differences up to which a signed-rank test has its exact distribution."""

Z95 = 1.959963984540054
"""The 97.5th percentile of the normal distribution."""

_BLOCK = 1 << 20
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(96)


def bootstrap(values: Tensor, seed: int = 0) -> tuple[float, float, float]:
    """The mean, and the 95 % percentile interval of the bootstrap over images.

    Args:
        values: ``[images]``; NaN is left out.
        seed: Random seed of the samples.

    Returns:
        Mean, lower and upper end; NaN without values. The ends of one value are NaN.

    References:
        Efron (1979), "Bootstrap Methods: Another Look at the Jackknife", The Annals of Statistics
        7, DOI 10.1214/aos/1176344552.

    Examples:
        >>> mean, low, high = bootstrap(torch.arange(20.0))
        >>> mean, low < mean < high
        (9.5, True)
    """
    known = values[~values.isnan()].double().cpu()
    count = len(known)
    mean = float(known.mean()) if count else float("nan")
    if count < 2:
        return mean, float("nan"), float("nan")
    generator = torch.Generator().manual_seed(seed)
    rows = max(_BLOCK // count, 1)
    means = [
        known[torch.randint(count, (min(rows, RESAMPLES - done), count), generator=generator)].mean(
            1
        )
        for done in range(0, RESAMPLES, rows)
    ]
    ends = torch.quantile(torch.cat(means), torch.tensor([0.025, 0.975], dtype=torch.float64))
    return mean, float(ends[0]), float(ends[1])


def wilson(hits: int, count: int) -> tuple[float, float, float]:
    """A share, and its 95 % score interval, which has a width also for shares of 0 and 1.

    Args:
        hits: How many.
        count: Of how many; NaN for none.

    References:
        Wilson (1927), "Probable Inference, the Law of Succession, and Statistical Inference",
        Journal of the American Statistical Association 22, DOI 10.1080/01621459.1927.10502953.

    Examples:
        >>> [round(one, 3) for one in wilson(0, 20)]
        [0.0, 0.0, 0.161]
    """
    if not count:
        return (float("nan"),) * 3
    share, z2 = hits / count, Z95**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z95 * sqrt(share * (1 - share) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return share, middle - half if hits else 0.0, middle + half if hits < count else 1.0


def wilcoxon(differences: Tensor) -> float:
    """Two-sided p-value of the signed-rank test that differences are symmetric around 0.

    Zeros are left out, and ties share their mean rank. Up to `EXACT` differences, p has the exact
    distribution of the rank sum over all signs, given the ties; beyond, the normal one, with the
    variance of tied ranks.

    Args:
        differences: ``[images]``; NaN is left out.

    Returns:
        p in (0, 1]; 1 if no difference is left.

    References:
        Wilcoxon (1945), "Individual Comparisons by Ranking Methods", Biometrics Bulletin 1, DOI
        10.2307/3001968.

    Examples:
        >>> wilcoxon(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 0.0]))
        0.0625
    """
    left = differences[~differences.isnan() & (differences != 0)].double().cpu()
    count = len(left)
    if not count:
        return 1.0
    _, place, ties = np.unique(left.abs().numpy(), return_inverse=True, return_counts=True)
    doubled = torch.from_numpy((2 * ties.cumsum() - ties + 1)[place])  # twice the mean rank
    total = int(doubled[left > 0].sum())
    every = int(doubled.sum())
    if count > EXACT:
        spread = sqrt(float(doubled.double().square().sum()))
        return erfc(abs(2 * total - every) / spread / sqrt(2))
    chances = torch.zeros(every + 1, dtype=torch.float64)
    chances[0] = 1.0
    for rank in doubled.tolist():
        chances = (chances + chances.roll(rank)) / 2  # what is rolled around the end is 0
    tail = min(total, every - total)
    return min(1.0, 2 * float(chances[: tail + 1].sum()))


def student(t: float, freedom: float) -> float:
    """Two-sided p-value of Student's t with so many degrees of freedom, at least 1.

    ``∫_θ^{π/2} cos^{ν−1} φ dφ / ∫_0^{π/2} cos^{ν−1} φ dφ`` with ``tan θ = |t| / √ν``.

    References:
        Student (1908), "The Probable Error of a Mean", Biometrika 6, DOI 10.2307/2331554.

    Examples:
        >>> round(student(2.2281, 10), 4), student(0.0, 10)
        (0.05, 1.0)
    """

    def tail(angle: float) -> float:
        half = (pi / 2 - angle) / 2
        return half * float((_WEIGHTS * np.cos(angle + half * (1 + _NODES)) ** (freedom - 1)).sum())

    return tail(atan(abs(t) / sqrt(freedom))) / tail(0.0)


def student95(freedom: float) -> float:
    """How far a 95 % interval reaches to both sides, in standard errors.

    Examples:
        >>> round(student95(10), 4)
        2.2281
    """
    low, high = 0.0, 16.0  # 12.7 with one degree of freedom
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if student(middle, freedom) > 0.05 else (low, middle)
    return high


def adjusted_rand(one: Tensor, other: Tensor) -> float:
    """The adjusted Rand index: how far two groupings of the same items agree.

    The pairs of items that both groupings put together, minus those expected by chance, over the
    most that groups of these sizes allow: 1 for the same groups, about 0 for unrelated ones.

    Args:
        one: Group of each item, int64 ``[item]``, from 0.
        other: Likewise.

    Returns:
        The index; NaN for fewer than two items.

    References:
        Hubert and Arabie (1985), "Comparing Partitions", Journal of Classification 2, DOI
        10.1007/BF01908075.

    Examples:
        >>> adjusted_rand(torch.tensor([0, 0, 1, 1]), torch.tensor([1, 1, 0, 0]))
        1.0
    """
    if len(one) < 2:
        return float("nan")
    width = int(other.max()) + 1
    table = (one * width + other).bincount(minlength=(int(one.max()) + 1) * width).view(-1, width)

    def pairs(counts: Tensor) -> float:
        return float((counts.double() * (counts - 1) / 2).sum())

    rows, columns = pairs(table.sum(1)), pairs(table.sum(0))
    expected = rows * columns / pairs(table.sum())
    largest = (rows + columns) / 2
    # both have one group only, or one for each item
    return 1.0 if largest == expected else (pairs(table) - expected) / (largest - expected)
