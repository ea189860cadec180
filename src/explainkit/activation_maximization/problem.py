"""The input of a maximizer (`Problem`) and its output (`OptimizedImages`)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Statistics:
    """Statistics of a data set's images, in model-input space.

    Attributes:
        magnitude: Mean amplitude of each frequency of the orthonormal real Fourier transform,
            ``[channel, height, width // 2 + 1]``; for three channels, of decorrelated colors.
        color: ``[channel, channel]``: for three channels, the square root of their covariance,
            scaled so that its longest column has norm 1; otherwise the identity.
    """

    magnitude: Tensor
    color: Tensor

    @classmethod
    def of(cls, images: Tensor) -> "Statistics":
        """Computes the statistics of images ``[n, channel, height, width]``."""
        images = images.float()
        color = torch.eye(images.shape[1])
        if images.shape[1] == 3:
            flat = images.movedim(1, 0).flatten(1).double()
            values, vectors = torch.linalg.eigh(torch.cov(flat))
            root = vectors @ torch.diag(values.clamp_min(1e-12).sqrt()) @ vectors.T
            color = (root / root.norm(dim=0).max()).float()
        plain = torch.einsum("ij,njyx->niyx", torch.linalg.inv(color), images)
        return cls(torch.fft.rfft2(plain, norm="ortho").abs().mean(0), color)


@dataclass(frozen=True, eq=False)
class Problem:
    """An optimization problem: find one image per unit, all of the same size.

    Attributes:
        score: ``score(shown, images, opacity)`` returns each unit's objective, ``[unit]``: its
            activation for ``shown`` ``[unit, channel, height, width]``, the transformed images,
            with penalties on the ``images`` themselves and on their ``opacity`` ``[unit, 1,
            height, width]``, which is optional. Differentiable in all arguments.
        shape: Channels, height, width.
        generators: One per unit, on the CPU; the only source of random numbers.
        start: Initial image ``[channel, height, width]``, or None.
        flat: Single-color initial image per unit, ``[unit, channel, 1, 1]``, for units whose first
            run ended below it. Or None.
        transparent: Whether to optimize an opacity as well, because the objective uses `alpha`.
        low: Smallest valid value per channel, ``[channel, 1, 1]``, or None if unknown.
        high: Largest valid value per channel, or None.
        statistics: Of the data set, or None.
        keep: Steps before which the images are recorded as frames; the number of steps stands for
            the final images.
        progress: To be called after each step.
        dtype: Of the images.
        device: Of the images.
    """

    score: Callable[..., Tensor]
    shape: tuple[int, int, int]
    generators: Sequence[torch.Generator]
    start: Tensor | None = None
    flat: Tensor | None = None
    transparent: bool = False
    low: Tensor | None = None
    high: Tensor | None = None
    statistics: Statistics | None = None
    keep: frozenset[int] = frozenset()
    progress: Callable[[], None] = lambda: None
    dtype: torch.dtype = torch.float32
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers ``[unit, *shape]``, each row from its unit's own generator.

        They are drawn on the CPU in float32, so that all devices and dtypes get the same values.
        """
        rows = [torch.randn(shape, generator=generator) for generator in self.generators]
        return torch.stack(rows).to(self.device, self.dtype)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), ``[unit, *shape]``, drawn like `normal`."""
        rows = [torch.rand(shape, generator=generator) for generator in self.generators]
        return torch.stack(rows).to(self.device, self.dtype)


@dataclass(frozen=True, eq=False)
class OptimizedImages:
    """The result of a maximizer.

    Attributes:
        images: ``[unit, channel, height, width]``.
        trace: The objective at each step, under that step's transforms, ``[step, unit]``.
        moved: Whether the optimization changed each unit's activation and did not lose it again,
            ``[unit]``. The others are reported as dead.
        frames: Intermediate images, ``[frame, unit, channel, height, width]``.
        opacity: ``[unit, 1, height, width]`` if the problem is transparent; images and frames are
            then composited on a uniform background.
    """

    images: Tensor
    trace: Tensor
    moved: Tensor
    frames: Tensor
    opacity: Tensor | None = None
