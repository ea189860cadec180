"""Accuracy, recall and precision of a classifier, with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from explainkit.results import statistics


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a share, by Wilson's score test; 0 to 1 without trials.

    `explainkit.results.statistics.wilson` has the source.

    Examples:
        >>> low, high = wilson(0, 10)
        >>> print(f"{low:.4f} to {high:.4f}")
        0.0000 to 0.2775
    """
    _, low, high = statistics.wilson(successes, trials)
    return (low, high) if trials else (0.0, 1.0)


@dataclass(frozen=True)
class Confusion:
    """One kind of mistake: the number of images of one class that are predicted as another."""

    true: str
    predicted: str
    count: int
    of: int

    @property
    def share(self) -> float:
        """Share of the true class's images."""
        return self.count / self.of

    def __str__(self) -> str:
        return (
            f"{self.true.capitalize()} is predicted as {self.predicted.capitalize()} in "
            f"{self.share:.0%} of its images ({self.count} of {self.of})"
        )


def confusion_matrix(labels: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """The counts ``[true, predicted]``, int64, of true and predicted classes, int64 ``[n]``.

    Examples:
        >>> confusion_matrix(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), 2).tolist()
        [[1, 0], [1, 1]]
    """
    return torch.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, -1)


def most_confused(counts: Tensor, class_names: Sequence[str], most: int = 5) -> list[Confusion]:
    """The mistakes with the largest shares of their true class, largest first."""
    found = [
        Confusion(class_names[true], class_names[predicted], int(count), int(counts[true].sum()))
        for true in range(len(counts))
        for predicted, count in enumerate(counts[true])
        if true != predicted and count
    ]
    return sorted(found, key=lambda c: (-c.share, c.true, c.predicted))[:most]


def class_scores(counts: Tensor, class_names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Recall and precision per class with 95 % intervals, and the number of images."""
    scores = {}
    for i, name in enumerate(class_names):
        correct, support, predicted = (
            int(v) for v in (counts[i, i], counts[i].sum(), counts[:, i].sum())
        )
        scores[name] = {
            "support": support,
            "recall": correct / support if support else None,
            "recall_interval": wilson(correct, support),
            "precision": correct / predicted if predicted else None,
            "precision_interval": wilson(correct, predicted),
        }
    return scores
