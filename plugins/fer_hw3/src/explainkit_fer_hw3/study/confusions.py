"""Why one class is read as another: examples of a confusion, explained for both classes."""

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
    """Images of one confusion, the surest mistakes first.

    Attributes:
        confusion: Which, and how often.
        rows: Places of the images in the reading, int64 ``[k]``.
        indices: Their numbers in the file, int64 ``[k]``.
        true: Their explanation for the true class.
        predicted: Their explanation for the class that was read.
    """

    confusion: Confusion
    rows: Tensor
    indices: Tensor
    true: Explanation
    predicted: Explanation

    @property
    def difference(self) -> Tensor:
        """What spoke for the class that was read more than for the true one, ``[k, 48, 48]``."""
        return self.predicted.heatmap() - self.true.heatmap()


def explain_confusion(
    confusion: Confusion,
    model: nn.Module,
    faces: FaceDataset,
    reading: Predictions,
    *,
    most: int = 3,
    method: str = "explainkit/saliency",
    params: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Examples:
    """The surest mistakes of one kind, explained for the true class and for the one that was read.

    Args:
        confusion: One that occurs in the reading.
        model: The network that read.
        faces: The images of the reading, in its order.
        reading: What the network read.
        most: Images at most: those with the largest difference of the two logits.
        method: A saliency method.
        params: Its parameters.
        seed: Of the method.
    """
    true, read = map(reading.class_names.index, (confusion.true, confusion.predicted))
    rows = ((reading.labels == true) & (reading.predicted == read)).nonzero().flatten()
    margin = reading.logits[rows, read] - reading.logits[rows, true]
    rows = rows[margin.argsort(descending=True, stable=True)[:most]]
    images = faces.subset(rows).images.to(next(model.parameters()).device)
    for_true, for_read = (
        ek.explain(model, images, label, method, seed=seed, **(params or {}))
        for label in (true, read)
    )
    return Examples(confusion, rows, faces.indices[rows], for_true, for_read)
