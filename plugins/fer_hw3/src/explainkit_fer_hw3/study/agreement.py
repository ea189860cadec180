"""Two networks on the same images: where they agree, and whether one is better."""

from dataclasses import dataclass
from math import sqrt

from explainkit.errors import DatasetError
from explainkit_fer_hw3.scores import Z95
from explainkit_fer_hw3.study.predictions import Predictions


def mcnemar(only_first: int, only_second: int) -> float:
    """McNemar's exact test, two-sided: is one of two classifiers right more often?

    Only the n images count on which one of them alone is right. If both are equally good, each
    such image is a fair coin, so ``p = min(1, 2 · Σ_{i ≤ min(b, c)} C(n, i) / 2^n)``.

    Args:
        only_first: b, images that the first alone reads rightly.
        only_second: c, images that the second alone reads rightly.

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
    p: float = 2 * total / 2**n  # integers: the quotient is rounded once
    return min(1.0, p)


def paired_difference(only_first: int, only_second: int, n: int) -> tuple[float, float]:
    """The 95 % interval of the difference of two accuracies on the same n images.

    Wald's for matched pairs after half an image is added to each of the four cells:
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
    """How the answers of two networks meet.

    Attributes:
        both: Images that both read rightly.
        only_first: Those that the first alone does.
        only_second: Those that the second alone does.
        neither: Those that none does.
        same: Share of the images that both read as the same class, rightly or not.
        same_mistake: Of those that neither reads rightly, how many both read as the same class.
        p: McNemar's exact test of the two being right equally often.
        difference: Accuracy of the first less that of the second.
        interval: Its 95 % interval.
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
    """Compares two readings of the same images.

    Raises:
        DatasetError: They are of other images.
    """
    if len(first) != len(second) or bool((first.labels != second.labels).any()):
        raise DatasetError(
            f"expected two readings of the same images, got {len(first)} and {len(second)} "
            "with other labels: read the same split with both networks"
        )
    n = len(first)
    same = first.predicted == second.predicted
    only_first = int((first.right & ~second.right).sum())
    only_second = int((second.right & ~first.right).sum())
    return Agreement(
        both=int((first.right & second.right).sum()),
        only_first=only_first,
        only_second=only_second,
        neither=int((~first.right & ~second.right).sum()),
        same=int(same.sum()) / n,
        same_mistake=int((same & ~first.right).sum()),
        p=mcnemar(only_first, only_second),
        difference=(only_first - only_second) / n,
        interval=paired_difference(only_first, only_second, n),
    )
