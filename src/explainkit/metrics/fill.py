"""What replaces hidden pixels."""

from typing import Literal

import torch
from torch import Tensor

from explainkit.methods.perturbation.baselines import fill_images
from explainkit.metrics.infill import linear_infill

Baseline = float | Tensor | Literal["mean", "blur", "noise", "linear"]
"""A value, an image or one per image; the image's mean per channel; the blurred image; noise; or
what a linear interpolation of the visible pixels and a little noise give."""

NOISE = 0.01
"""Standard deviation of the noise on interpolated pixels, in units of the image's range.

Without it, a smooth patch would tell where pixels were hidden (Rong et al. 2022)."""


class Fill:
    """Replaces hidden pixels of images."""

    def __init__(self, baseline: Baseline, images: Tensor, seed: int) -> None:
        """Prepares the values.

        Args:
            baseline: What replaces hidden pixels.
            images: ``[batch, channel, height, width]``.
            seed: Random seed of the noise, which is the same for every image.

        Raises:
            MethodError: Not a baseline.
        """
        self._images = images
        self._values = None if baseline == "linear" else fill_images(baseline, images, seed)
        if self._values is None:
            generator = torch.Generator().manual_seed(seed)
            noise = torch.randn(images.shape[1:], generator=generator).to(images)
            spread = images.amax((1, 2, 3), True) - images.amin((1, 2, 3), True)
            self._noise = NOISE * spread * noise

    def __call__(self, rows: Tensor, hidden: Tensor) -> Tensor:
        """Images with pixels hidden.

        Args:
            rows: Indices of the images, int64 ``[n]``.
            hidden: bool ``[n, height, width]``.
        """
        images = self._images[rows]
        if self._values is not None:
            return torch.where(hidden[:, None], self._values[rows], images)
        # nothing is left to interpolate where all is hidden: the mean stands in
        whole = hidden.flatten(1).all(1)[:, None, None]
        filled = linear_infill(images, (hidden & ~whole).long())
        filled = torch.where(whole[:, None], images.mean((2, 3), True), filled)
        return torch.where(hidden[:, None], filled + self._noise[rows], images)

    def one_at_a_time(self, labels: Tensor) -> Tensor:
        """Images whose every segment has the values that replace it when it alone is hidden.

        Args:
            labels: Segment of each pixel, int64 ``[height, width]``, numbered from 0; two at least.
        """
        if self._values is not None:
            return self._values
        groups = (labels + 1).expand(len(self._images), *labels.shape)
        return linear_infill(self._images, groups) + self._noise
