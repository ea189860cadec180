"""Scores of an image with boxes replaced, computed incrementally where possible."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from explainkit.engine.model import ScoreModel
from explainkit.graph.cached import Cached
from explainkit.graph.incremental.cost import worth_tracing
from explainkit.graph.incremental.run import MOST, NO_GAIN, Variants
from explainkit.scores import as_scores

BoxScores = Callable[[Tensor, Tensor], Tensor]

_verdicts = Cached[str]()


def box_scores(
    model: nn.Module, image: Tensor, corners: Tensor, size: tuple[int, int]
) -> BoxScores | str:
    """A function that scores an image with boxes replaced, running only the affected parts.

    Whether boxes are used is decided once for each model, image shape and set of boxes: the model
    can be traced, the boxes save time, and two variants have the scores of full runs.

    Args:
        model: The model that the method is called with, or any model that outputs scores.
        image: ``[channel, height, width]``.
        corners: Top and left of every box to be replaced, int64 ``[n, 2]``.
        size: Height and width of the boxes, which lie inside the image.

    Returns:
        A function of some of the corners, ``[k, 2]``, and their patches ``[k, channel, height,
        width]``. It returns scores ``[k, classes]``, which differ from full runs by rounding only.
        If full runs are needed, the reason instead.

    Examples:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(1, 64, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> corners = torch.tensor([[0, 0], [5, 6]]).repeat(5000, 1)
        >>> score = box_scores(net.eval(), torch.rand(1, 32, 32), corners, (2, 2))
        >>> score(corners[:2], torch.zeros(2, 1, 2, 2)).shape
        torch.Size([2, 64])
    """
    module, most = model, MOST
    if isinstance(model, ScoreModel):
        module, most = model.module, model.batch_size or MOST
        if model.precision is not None:
            return "a lower precision"
        if not model.reads_output_only:
            return "the target reads more than the model's output"
    key = (image.shape, image.dtype, image.device, size, most, corners.cpu().numpy().tobytes())
    verdict = _verdicts.get(module, key)
    if verdict:
        return verdict
    if verdict is None and not worth_tracing(module, image, len(corners)):
        variants, verdict = None, NO_GAIN
    else:
        variants = Variants(module, image, most)
        verdict = variants.decide(corners, size) if verdict is None else variants.refusal
    _verdicts.put(module, key, verdict)
    if variants is None or verdict:
        return verdict

    def score(corners: Tensor, patches: Tensor) -> Tensor:
        output, batch = variants.run(corners, patches), len(patches)
        if isinstance(model, ScoreModel):
            return model.scores_of(output, batch)
        return as_scores(output, batch)

    return score


def evaluation(reasons: Sequence[str]) -> dict[str, str]:
    """The diagnostic that says how images were scored.

    Args:
        reasons: For each image why full runs were needed; empty if they were not.

    Examples:
        >>> evaluation(["", ""])
        {'evaluation': 'incremental'}
    """
    ways = dict.fromkeys(f"full runs: {why}" if why else "incremental" for why in reasons)
    return {"evaluation": "; ".join(ways)}
