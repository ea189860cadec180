"""What a maximizer is asked, and what it answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Statistics:
    """What images of a data set have in common, in model-input space.

    Attributes:
        magnitude: Mean amplitude of each frequency, ``[channel, height, width // 2 + 1]``, of the
            orthonormal real Fourier transform; of three colors, after ``color`` is undone.
        color: ``[channel, channel]``: for three channels the square root of their covariance,
            scaled so that its longest column has length 1; otherwise the identity.
    """

    magnitude: Tensor
    color: Tensor

    @classmethod
    def of(cls, images: Tensor) -> "Statistics":
        """Measures images ``[n, channel, height, width]``."""
        images = images.float()
        color = torch.eye(images.shape[1])
        if images.shape[1] == 3:
            flat = images.movedim(1, 0).flatten(1).double()
            values, vectors = torch.linalg.eigh(torch.cov(flat))
            root = vectors @ torch.diag(values.clamp_min(1e-12).sqrt()) @ vectors.T
            color = (root / root.norm(dim=0).max()).float()
        return cls(_amplitude(images, color), color)


def _amplitude(images: Tensor, color: Tensor) -> Tensor:
    plain = torch.einsum("ij,njyx->niyx", torch.linalg.inv(color), images)
    amplitude: Tensor = torch.fft.rfft2(plain, norm="ortho").abs().mean(0)
    return amplitude


@dataclass(frozen=True, eq=False)
class Problem:
    """Images to find, one per unit, all of one size.

    Attributes:
        score: ``score(shown, images, opacity)`` gives ``[unit]``: what each unit says of
            ``shown`` ``[unit, channel, height, width]``, with penalties on ``images``, from which
            they were made, and on their ``opacity`` ``[unit, 1, height, width]``, which may be left
            out. Differentiable in all.
        shape: Channel, height, width.
        generators: One per unit, on the CPU: the only source of random numbers.
        start: An image ``[channel, height, width]`` to start from, or None.
        flat: A flat image per unit to start from, ``[unit, channel, 1, 1]``, where the first try
            ended below it or nowhere; gradients then also pass rectifiers that are off. Or None.
        transparent: Whether to find an opacity, too: an objective reads `alpha`.
        low: Smallest valid value per channel ``[channel, 1, 1]``; None where it isn't known.
        high: Largest valid value per channel.
        statistics: Of a data set, if one was given.
        keep: Steps after which the images are kept as frames.
        progress: Is called after each step.
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
        """Standard normal numbers ``[unit, *shape]``, each unit's from its own generator.

        Drawn on the CPU in float32, so that every device and dtype sees the same.
        """
        rows = [torch.randn(shape, generator=generator) for generator in self.generators]
        return torch.stack(rows).to(self.device, self.dtype)

    def uniform(self, *shape: int) -> Tensor:
        """Numbers in [0, 1), ``[unit, *shape]``, drawn like `normal`."""
        rows = [torch.rand(shape, generator=generator) for generator in self.generators]
        return torch.stack(rows).to(self.device, self.dtype)


@dataclass(frozen=True, eq=False)
class OptimizedImages:
    """What a maximizer found.

    Attributes:
        images: ``[unit, channel, height, width]``.
        trace: The score at each step, ``[step, unit]``, as the maximizer saw it.
        moved: Whether each unit answered to a change of its image and was not lost again,
            ``[unit]``.
        frames: Images on the way, ``[frame, unit, channel, height, width]``.
        opacity: ``[unit, 1, height, width]`` where the problem is transparent: images and frames
            then lie on a flat ground.
    """

    images: Tensor
    trace: Tensor
    moved: Tensor
    frames: Tensor
    opacity: Tensor | None = None
