"""Scores of an image with boxes replaced, for methods that see a model as scores."""

from collections.abc import Callable

from torch import Tensor, nn

from explainkit.engine.model import ScoreModel
from explainkit.graph.incremental.cost import worth_tracing
from explainkit.graph.incremental.run import Variants
from explainkit.scores import as_scores

BoxScores = Callable[[Tensor, Tensor], Tensor]


def box_scores(model: nn.Module, image: Tensor, count: int) -> BoxScores | None:
    """A function that scores an image with boxes replaced, running only what they reach.

    Args:
        model: What a method is called with, or any model that puts out scores.
        image: ``[channel, height, width]``.
        count: How many variants will be scored.

    Returns:
        A function of places, int64 ``[n, 2]`` (top and left), and patches ``[n, channel, height,
        width]`` that lie in the image, which gives scores ``[n, classes]`` that differ from full
        runs by rounding. None where full runs are the way: the model can't be traced or is too
        small to gain from it, or the target reads more than the model's output.

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

    def score(places: Tensor, patches: Tensor) -> Tensor:
        output, batch = variants.run(places, patches), len(patches)
        if isinstance(model, ScoreModel):
            return model.scores_of(output, batch)
        return as_scores(output, batch)

    return score
