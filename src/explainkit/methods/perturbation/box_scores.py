"""Scores of an image with boxes replaced, computed incrementally where possible."""

from collections.abc import Callable

from torch import Tensor, nn

from explainkit.engine.model import ScoreModel
from explainkit.graph.incremental.cost import worth_tracing
from explainkit.graph.incremental.run import Variants
from explainkit.scores import as_scores

BoxScores = Callable[[Tensor, Tensor], Tensor]


def box_scores(model: nn.Module, image: Tensor, count: int) -> BoxScores | None:
    """A function that scores an image with boxes replaced, running only the affected parts.

    Args:
        model: The model that the method is called with, or any model that puts out scores.
        image: ``[channel, height, width]``.
        count: Number of variants to score.

    Returns:
        A function of corners, int64 ``[n, 2]`` (top and left), and patches ``[n, channel, height,
        width]`` inside the image. It returns scores ``[n, classes]``, which differ from full runs
        by rounding only. None if full runs are needed: the model cannot be traced or is too small
        to benefit, or the target reads more than the model's output.

    Examples:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(1, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2304, 2))
        >>> score = box_scores(net.eval(), torch.rand(1, 8, 8), 10**5)
        >>> score(torch.tensor([[0, 0], [5, 6]]), torch.zeros(2, 1, 2, 2)).shape
        torch.Size([2, 2])
    """
    module = model.module if isinstance(model, ScoreModel) else model
    if isinstance(model, ScoreModel) and not model.reads_output_only:
        return None
    if not worth_tracing(module, image, count):
        return None
    variants = Variants(module, image)
    if variants.how == "hooks":
        return None

    def score(corners: Tensor, patches: Tensor) -> Tensor:
        output, batch = variants.run(corners, patches), len(patches)
        if isinstance(model, ScoreModel):
            return model.scores_of(output, batch)
        return as_scores(output, batch)

    return score
