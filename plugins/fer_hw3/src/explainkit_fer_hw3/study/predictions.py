"""A network's predictions for labeled images."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from explainkit_fer_hw3.faces import CLASS_NAMES
from explainkit_fer_hw3.scores import class_scores, confusion_matrix, wilson


@dataclass(frozen=True, eq=False)
class Predictions:
    """The predictions of one network for a set of images.

    Attributes:
        labels: True classes, int64 ``[n]``.
        logits: The network's outputs, float ``[n, classes]``.
        class_names: Class names, in the order of the logits.
    """

    labels: Tensor
    logits: Tensor
    class_names: tuple[str, ...] = CLASS_NAMES

    def __len__(self) -> int:
        return len(self.labels)

    def facts(self) -> dict[str, Any]:
        """The scores, for JSON."""
        return {
            "n": len(self),
            "accuracy": self.accuracy,
            "interval": self.interval,
            "classes": class_scores(self.counts, self.class_names),
            "counts": self.counts.tolist(),
        }

    @cached_property
    def predicted(self) -> Tensor:
        """The predicted class of each image, int64 ``[n]``."""
        return self.logits.argmax(1)

    @cached_property
    def correct(self) -> Tensor:
        """Which images are classified correctly, bool ``[n]``."""
        return self.predicted == self.labels

    @cached_property
    def counts(self) -> Tensor:
        """The confusion matrix ``[true, predicted]``, int64."""
        return confusion_matrix(self.labels, self.predicted, len(self.class_names))

    @cached_property
    def shares(self) -> Tensor:
        """The confusion matrix, each row divided by its sum, float ``[true, predicted]``."""
        return self.counts / self.counts.sum(1, keepdim=True).clamp(min=1)

    @property
    def accuracy(self) -> float:
        """Share of the images that are classified correctly."""
        return int(self.correct.sum()) / len(self)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval of the accuracy."""
        return wilson(int(self.correct.sum()), len(self))
