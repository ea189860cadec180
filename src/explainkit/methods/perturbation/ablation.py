"""Feature ablation: one segment at a time is replaced by the baseline."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from explainkit.catalog.fields import Typed
from explainkit.interfaces import Attribution
from explainkit.methods.perturbation.baselines import Filling, fill_images
from explainkit.methods.perturbation.box_scores import BoxScores, box_scores, evaluation
from explainkit.methods.perturbation.mask_scores import SegmentMasks, score_masks
from explainkit.methods.perturbation.segments import segment
from explainkit.methods.perturbation.windows import BLOCK


@dataclass(frozen=True)
class FeatureAblation(Typed):
    """How much the score drops when one segment of the image is hidden.

    ``a(u) = S_c(x) − S_c(x with the segment of pixel u replaced by the baseline)``.

    Attributes:
        segments: Grid cells per side, ``"slic"``, ``"slic:80"`` or a tensor of integers
            ``[height, width]`` or one per image.
        baseline: Replaces the segment: one value, a tensor, ``"mean"``, ``"blur"`` or
            ``"noise"``.
        seed: Random seed of the noise; ``explain(seed=…)`` sets it.

    Raises:
        MethodError: The segments or the baseline do not fit the images.

    References:
        Zeiler and Fergus (2013), arXiv:1311.2901; Kokhlikyan et al. (2020), "Captum: A unified and
        generic model interpretability library for PyTorch", arXiv:2009.07896.

    Examples:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
        >>> x = torch.rand(1, 1, 2, 2)
        >>> a = FeatureAblation(segments=2)(net, x, torch.tensor([1]))
        >>> torch.allclose(a.values.flatten(), x.flatten() * net[1].weight[1], atol=1e-6)
        True
    """

    hides_parts: ClassVar[bool] = True
    only_runs: ClassVar[bool] = True

    segments: int | str | Tensor = field(default=7, metadata={"per_image": True})
    baseline: float | Tensor | Filling = field(default=0.0, metadata={"per_image": True})
    seed: int = field(default=0, metadata={"seed": True})

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns ``[batch, 1, height, width]`` in units of the score.

        The diagnostic ``evaluation`` says whether only the affected parts of the model ran.
        """
        with torch.no_grad():
            clean = model(inputs).gather(1, target[:, None]).double()
        images = inputs.detach()
        labels = segment(self.segments, images)
        samples = [1 - torch.eye(int(one.max()) + 1, device=images.device) for one in labels]
        masks = SegmentMasks(tuple(samples), fill_images(self.baseline, images, self.seed), labels)
        maps, reasons = [], []
        for i, (image, label) in enumerate(zip(images, target.tolist(), strict=True)):
            corners, size = bounding_boxes(labels[i])
            score = box_scores(model, image, corners, size)
            if isinstance(score, str):
                reasons.append(score)
                scores = score_masks(model, image, masks, i, slice(None))
            else:
                reasons.append("")
                fill = masks.baseline[i]
                scores = score_segments(score, image, fill, labels[i], corners, size)
            maps.append(masks.upsample(i, clean[i] - scores[:, label]))
        values = torch.stack(maps).to(images.dtype)
        return Attribution(values, diagnostics=evaluation(reasons))


def bounding_boxes(labels: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Boxes of one size, inside the image, that each contain one segment.

    Args:
        labels: Segment of each pixel, int64 ``[height, width]``, numbered from 0.

    Returns:
        Their top and left, int64 ``[segments, 2]``, and their height and width.

    Examples:
        >>> corners, size = bounding_boxes(torch.tensor([[0, 0, 1], [2, 2, 1]]))
        >>> corners.tolist(), size
        ([[0, 0], [0, 1], [0, 0]], (2, 2))
    """
    count = int(labels.max()) + 1
    corners, sizes = [], []
    for axis, length in enumerate(labels.shape):
        where = torch.arange(length, device=labels.device)
        where = where.expand_as(labels) if axis else where[:, None].expand_as(labels)
        ends = [
            where.new_zeros(count).scatter_reduce(
                0, labels.flatten(), where.flatten(), reduce, include_self=False
            )
            for reduce in ("amin", "amax")
        ]
        sizes.append(int((ends[1] - ends[0]).max()) + 1)
        corners.append(ends[0].clamp(max=length - sizes[-1]))
    return torch.stack(corners, 1), (sizes[0], sizes[1])


def score_segments(
    score: BoxScores,
    image: Tensor,
    fill: Tensor,
    labels: Tensor,
    corners: Tensor,
    size: tuple[int, int],
) -> Tensor:
    """Scores of an image with one segment at a time filled, each within its bounding box.

    Args:
        score: Scores the image with boxes replaced.
        image: ``[channel, height, width]``.
        fill: Replacement values, of the same shape.
        labels: Segment of each pixel, int64 ``[height, width]``, numbered from 0.
        corners: Top and left of the segments' boxes, int64 ``[segments, 2]``.
        size: Height and width of the boxes.

    Returns:
        float64 ``[segments, classes]``.
    """
    found = []
    for begin in range(0, len(corners), BLOCK):
        block = corners[begin : begin + BLOCK]
        patches = image.new_empty(len(block), len(image), *size)
        for number, (patch, (top, left)) in enumerate(
            zip(patches, block.tolist(), strict=True), begin
        ):
            box = (slice(top, top + size[0]), slice(left, left + size[1]))
            torch.where(labels[box] == number, fill[:, *box], image[:, *box], out=patch)
        found.append(score(block, patches).double())
    return torch.cat(found)
