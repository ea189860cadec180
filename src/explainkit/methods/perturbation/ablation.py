"""Feature ablation: one segment at a time is taken away."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from explainkit.methods.perturbation.baselines import Filling, fill_images
from explainkit.methods.perturbation.segments import segment
from explainkit.methods.perturbation.table import SegmentMasks, score_masks


@dataclass(frozen=True)
class FeatureAblation:
    """How much the score falls when one segment of the image is taken away.

    ``a(u) = S_c(x) − S_c(x with the segment of pixel u replaced by the baseline)``.

    Attributes:
        segments: Cells on a side of a grid, ``"slic"``, ``"slic:80"`` or a tensor of integers
            ``[height, width]`` or one per image.
        baseline: What takes its place: one value, a tensor, ``"mean"``, ``"blur"`` or ``"noise"``.
        seed: Of the noise; set by the host.

    Raises:
        MethodError: The segments or the baseline don't fit the images.

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

    segments: int | str | Tensor = 7
    baseline: float | Tensor | Filling = 0.0
    seed: int = 0

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
        """Returns ``[batch, 1, height, width]`` in units of the score."""
        with torch.no_grad():
            clean = model(inputs).gather(1, target[:, None]).double()
        images = inputs.detach()
        labels = segment(self.segments, images)
        rows = [1 - torch.eye(int(one.max()) + 1, device=images.device) for one in labels]
        masks = SegmentMasks(tuple(rows), fill_images(self.baseline, images, self.seed), labels)
        maps = []
        for i, (image, label) in enumerate(zip(images, target.tolist(), strict=True)):
            scores = score_masks(model, image, masks, i, slice(None))[:, label]
            maps.append(masks.paint(i, clean[i] - scores))
        return torch.stack(maps).to(images.dtype)
