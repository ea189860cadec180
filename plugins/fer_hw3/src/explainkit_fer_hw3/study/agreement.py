"""Agreement of two networks on the same images, and whether one is more accurate."""

from dataclasses import dataclass
from math import sqrt

from explainkit.errors import DatasetError
from explainkit.results.statistics import Z95
from explainkit_fer_hw3.study.predictions import Predictions


def mcnemar(only_first: int, only_second: int) -> float:
    """The p-value of McNemar's exact test, two-sided: is one of two classifiers more accurate?

    Only the n images count that exactly one of them classifies correctly. Under the null
    hypothesis each such image is a fair coin flip, so
    ``p = min(1, 2 · Σ_{i ≤ min(b, c)} C(n, i) / 2^n)``.

    Args:
        only_first: b, the number of images that only the first classifies correctly.
        only_second: c, the number of images that only the second classifies correctly.

    References:
        McNemar (1947), "Note on the sampling error of the difference between correlated
        proportions or percentages", Psychometrika 12, doi:10.1007/BF02295996.

    Examples:
        >>> mcnemar(0, 3), mcnemar(5, 5)
        (0.25, 1.0)
    """
    n = only_first + only_second
    term = total = 1
    for i in range(min(only_first, only_second)):
        term = term * (n - i) // (i + 1)
        total += term
    p: float = 2 * total / 2**n  # exact integers, rounded once by the division
    return min(1.0, p)


def paired_difference(only_first: int, only_second: int, n: int) -> tuple[float, float]:
    """The 95 % interval of the difference of two accuracies on the same n images.

    Wald's interval for matched pairs, with half an image added to each of the four cells:
    ``(b − c)/ñ ± z √(b̃ + c̃ − (b̃ − c̃)²/ñ)/ñ`` with ``ñ = n + 2``, ``b̃ = b + ½``, ``c̃ = c + ½``.

    References:
        Agresti and Min (2005), "Simple improved confidence intervals for comparing matched
        proportions", Statistics in Medicine 24, doi:10.1002/sim.1781.

    Examples:
        >>> low, high = paired_difference(30, 10, 100)
        >>> print(f"{low:.4f} to {high:.4f}")
        0.0791 to 0.3131
    """
    total, gap = n + 2, only_first - only_second
    reach = Z95 * sqrt(only_first + only_second + 1 - gap**2 / total) / total
    return max(gap / total - reach, -1.0), min(gap / total + reach, 1.0)


@dataclass(frozen=True)
class Agreement:
    """How the predictions of two networks agree.

    Attributes:
        both: Number of images that both classify correctly.
        only_first: That only the first classifies correctly.
        only_second: That only the second classifies correctly.
        neither: That neither classifies correctly.
        same: Share of the images with the same prediction, correct or not.
        same_mistake: Number of images with the same wrong prediction.
        p: p-value of McNemar's exact test that both are equally accurate.
        difference: Accuracy of the first minus that of the second.
        interval: The 95 % interval of the difference.
    """

    both: int
    only_first: int
    only_second: int
    neither: int
    same: float
    same_mistake: int
    p: float
    difference: float
    interval: tuple[float, float]


def agreement(first: Predictions, second: Predictions) -> Agreement:
    """Compares the predictions of two networks for the same images.

    Raises:
        DatasetError: The predictions are for different images.
    """
    if len(first) != len(second) or bool((first.labels != second.labels).any()):
        raise DatasetError(
            f"expected predictions for the same images, got {len(first)} and {len(second)} "
            "with different labels: evaluate both networks on the same split"
        )
    n = len(first)
    same = first.predicted == second.predicted
    only_first = int((first.correct & ~second.correct).sum())
    only_second = int((second.correct & ~first.correct).sum())
    return Agreement(
        both=int((first.correct & second.correct).sum()),
        only_first=only_first,
        only_second=only_second,
        neither=int((~first.correct & ~second.correct).sum()),
        same=int(same.sum()) / n,
        same_mistake=int((same & ~first.correct).sum()),
        p=mcnemar(only_first, only_second),
        difference=(only_first - only_second) / n,
        interval=paired_difference(only_first, only_second, n),
    )
