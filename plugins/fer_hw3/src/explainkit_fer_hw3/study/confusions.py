"""Examples of a confusion, explained for the true and for the predicted class."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

import explainkit as ek
from explainkit.results.explanation import Explanation
from explainkit_fer_hw3.data import FaceDataset
from explainkit_fer_hw3.scores import Confusion
from explainkit_fer_hw3.study.predictions import Predictions


@dataclass(frozen=True, eq=False)
class Examples:
    """Images of one confusion, most confident mistakes first.

    Attributes:
        confusion: The two classes, and how often they are confused.
        rows: Row of each image in the predictions, int64 ``[k]``.
        indices: Index of each image in the file, int64 ``[k]``.
        true: The explanation for the true class.
        predicted: The explanation for the predicted class.
    """

    confusion: Confusion
    rows: Tensor
    indices: Tensor
    true: Explanation
    predicted: Explanation

    @property
    def difference(self) -> Tensor:
        """The map for the predicted class minus the map for the true one, ``[k, 48, 48]``."""
        return self.predicted.heatmap() - self.true.heatmap()


def explain_confusion(
    confusion: Confusion,
    model: nn.Module,
    faces: FaceDataset,
    predictions: Predictions,
    *,
    most: int = 3,
    method: str = "explainkit/saliency",
    params: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Examples:
    """Explains the most confident mistakes of one kind, for both classes.

    Args:
        confusion: A confusion that occurs in the predictions.
        model: The network.
        faces: The images of the predictions, in the same order.
        predictions: The network's predictions.
        most: Maximum number of images: those with the largest difference of the two logits.
        method: An attribution method.
        params: Its parameters.
        seed: Random seed of the method.
    """
    true, wrong = map(predictions.class_names.index, (confusion.true, confusion.predicted))
    rows = ((predictions.labels == true) & (predictions.predicted == wrong)).nonzero().flatten()
    margin = predictions.logits[rows, wrong] - predictions.logits[rows, true]
    rows = rows[margin.argsort(descending=True, stable=True)[:most]]
    images = faces.subset(rows).images.to(next(model.parameters()).device)
    for_true, for_wrong = (
        ek.explain(model, images, label, method, seed=seed, **(params or {}))
        for label in (true, wrong)
    )
    return Examples(confusion, rows, faces.indices[rows], for_true, for_wrong)
