"""Feature ablation: one segment at a time is replaced by the baseline."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from explainkit.methods.perturbation.baselines import Filling, fill_images
from explainkit.methods.perturbation.box_scores import BoxScores, box_scores
from explainkit.methods.perturbation.mask_scores import SegmentMasks, score_masks
from explainkit.methods.perturbation.segments import segment
from explainkit.methods.perturbation.windows import BLOCK


@dataclass(frozen=True)
class FeatureAblation:
    """How much the score drops when one segment of the image is hidden.

    ``a(u) = S_c(x) − S_c(x with the segment of pixel u replaced by the baseline)``.

    Attributes:
        segments: Grid cells per side, ``"slic"``, ``"slic:80"`` or a tensor of integers
            ``[height, width]`` or one per image.
        baseline: Recorners_of the segment: one value, a tensor, ``"mean"``, ``"blur"`` or
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
        >>> torch.allclose(a.flatten(), x.flatten() * net[1].weight[1], atol=1e-6)
        True
    """

    segments: int | str | Tensor = field(default=7, metadata={"per_image": True})
    baseline: float | Tensor | Filling = field(default=0.0, metadata={"per_image": True})
    seed: int = field(default=0, metadata={"seed": True})

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
        """Returns ``[batch, 1, height, width]`` in units of the score."""
        with torch.no_grad():
            clean = model(inputs).gather(1, target[:, None]).double()
        images = inputs.detach()
        labels = segment(self.segments, images)
        samples = [1 - torch.eye(int(one.max()) + 1, device=images.device) for one in labels]
        masks = SegmentMasks(tuple(samples), fill_images(self.baseline, images, self.seed), labels)
        maps = []
        for i, (image, label) in enumerate(zip(images, target.tolist(), strict=True)):
            score = box_scores(model, image, len(samples[i]))
            if score is not None:
                scores = _score_segments(score, image, masks.baseline[i], labels[i])
            else:
                scores = score_masks(model, image, masks, i, slice(None))
            maps.append(masks.upsample(i, clean[i] - scores[:, label]))
        return torch.stack(maps).to(images.dtype)


def _score_segments(score: BoxScores, image: Tensor, fill: Tensor, labels: Tensor) -> Tensor:
    """Scores of an image with one segment at a time filled, each within its bounding box.

    Args:
        score: Scores the image with boxes replaced.
        image: ``[channel, height, width]``.
        fill: Replacement values, of the same shape.
        labels: Segment of each pixel, int64 ``[height, width]``, numbered from 0.

    Returns:
        float64 ``[segments, classes]``.
    """
    count = int(labels.max()) + 1
    corners_of, sizes = [], []
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
        corners_of.append(ends[0].clamp(max=length - sizes[-1]))
    found = []
    for begin in range(0, count, BLOCK):
        corners = torch.stack([start[begin : begin + BLOCK] for start in corners_of], 1)
        patches = image.new_empty(len(corners), len(image), *sizes)
        for number, (patch, (top, left)) in enumerate(
            zip(patches, corners.tolist(), strict=True), begin
        ):
            box = (slice(top, top + sizes[0]), slice(left, left + sizes[1]))
            torch.where(labels[box] == number, fill[:, *box], image[:, *box], out=patch)
        found.append(score(corners, patches).double())
    return torch.cat(found)
