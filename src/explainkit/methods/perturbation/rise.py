"""RISE: the mean score under random masks that keep a pixel."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from explainkit.engine.batching import budget_of
from explainkit.methods.perturbation.baselines import fill_images
from explainkit.methods.perturbation.mask_scores import MaskEvaluations, Masks, SegmentMasks
from explainkit.methods.perturbation.sampled import Sampled, bernoulli
from explainkit.methods.perturbation.segments import grid

_BYTES = 32
"""Memory of one mask's pixel in an estimate: as float32 while it is made, twice as float64."""


@dataclass(frozen=True, eq=False)
class ShiftedMasks(Masks):
    """Coarse grids, upsampled bilinearly to one cell more than the image and cropped at random.

    A sample holds the cells of its grid and two shifts as fractions of a cell. The weights of every
    pixel sum to one, so its expectation is exactly that of a cell.

    Attributes:
        cells: Cells per side of the grid.
    """

    cells: int

    def pixels(self, image: int, samples: Tensor) -> Tensor:  # noqa: ARG002 - all images alike
        """The share of each pixel that is kept, ``[len(samples), 1, height, width]``."""
        height, width = self.baseline.shape[2:]
        cell = (-(-height // self.cells), -(-width // self.cells))
        coarse = samples[:, :-2].reshape(-1, 1, self.cells, self.cells)
        size = tuple(side * (self.cells + 1) for side in cell)
        large = F.interpolate(coarse, size=size, mode="bilinear", align_corners=False)
        shift = (samples[:, -2:] * samples.new_tensor(cell)).long()
        down = shift[:, 0, None] + torch.arange(height, device=samples.device)
        across = shift[:, 1, None] + torch.arange(width, device=samples.device)
        which = torch.arange(len(samples), device=samples.device)
        return large[which[:, None, None], 0, down[:, :, None], across[:, None, :]][:, None]

    def features(self, image: int, samples: Tensor) -> Tensor:
        """The pixels, ``[len(samples), height · width]``."""
        return self.pixels(image, samples).flatten(1)

    def upsample(self, image: int, values: Tensor) -> Tensor:  # noqa: ARG002 - all images alike
        """A map ``[1, height, width]``."""
        return values.reshape(1, *self.baseline.shape[2:])


@dataclass(frozen=True)
class Rise(Sampled):
    """The mean score under random masks that keep a pixel, minus the mean over all masks (RISE).

    ``a(u) = E[S_c | M(u) = 1] − E[S_c] = Cov(S_c, M(u)) / E[M(u)]``, where
    ``S_c = S_c(M ⊙ x + (1 − M) ⊙ baseline)``, estimated by
    ``1 / (p (N − 1)) Σ_i (S_i − mean S) M_i(u)``. The published map is
    ``1 / (p N) Σ_i S_i M_i(u)``; it differs by the mean score, which carries no
    information about u but most of the noise (``centered=False`` gives it). ``E[M(u)] = p`` holds
    exactly.

    The standard error of each value is reported.

    Attributes:
        samples: Masks per image.
        cells: Cells per side of the coarse grid.
        probability: Probability p that a cell is kept.
        centered: Subtract the mean score.
        smooth: Upsample the grid bilinearly and shift it at random. If false, the cells are plain
            segments, whose evaluations other methods can share.
        baseline: As in `KernelShap`, like all other fields.

    Raises:
        MethodError: A field is out of range.

    References:
        Petsiuk, Das and Saenko (2018), "RISE: Randomized Input Sampling for Explanation of
        Black-box Models", arXiv:1806.07421.

    Examples:
        >>> import explainkit as ek
        >>> from explainkit.testing import toy_models
        >>> model, images = toy_models()["plain"]
        >>> e = ek.explain(model, images, 0, "rise", samples=64)
        >>> e.diagnostics["standard_error"].shape
        torch.Size([4, 1, 12, 10])
    """

    samples: int = 1024
    cells: int = field(default=7, metadata={"least": 2})
    probability: float = field(default=0.5, metadata={"above": 0, "below": 1})
    centered: bool = True
    smooth: bool = True

    def masks(self, inputs: Tensor) -> Masks:
        """The masks for images ``[batch, channel, height, width]``."""
        baseline = fill_images(self.baseline, inputs, self.seed)
        batch, _, height, width = inputs.shape
        cells = bernoulli(self.samples, self.cells**2, self.probability, self.seed)
        if not self.smooth:
            labels = grid(self.cells, height, width).to(inputs.device)
            samples = cells.to(inputs.device)
            return SegmentMasks((samples,) * batch, baseline, labels.expand(batch, height, width))
        generator = torch.Generator().manual_seed(self.seed + 1)
        shifts = torch.rand(self.samples, 2, generator=generator)
        samples = torch.cat([cells, shifts], 1).to(inputs.device)
        return ShiftedMasks((samples,) * batch, baseline, self.cells)

    def least(self, samples: Tensor) -> int:
        """How many of an image's samples suffice for a map and its standard error."""
        return min(len(samples), 32)

    def estimate(
        self, evaluations: MaskEvaluations, image: int, label: int
    ) -> tuple[Tensor, Tensor]:
        """Values of one image's features and their standard errors, float64 ``[features]``."""
        scores = evaluations.scores[image][:, label]
        count = len(scores)
        if self.centered:
            scores = scores - scores.mean()
        total = square = torch.zeros((), dtype=torch.float64, device=scores.device)
        offset = self.probability if self.centered else 0.0
        samples = evaluations.masks.samples[image][:count]
        height, width = evaluations.images.shape[2:]
        at_once = max(min(budget_of(scores.device) // (_BYTES * height * width), 256), 1)
        parts = zip(torch.split(samples, at_once), torch.split(scores, at_once), strict=True)
        for part, score in parts:
            features = evaluations.masks.features(image, part).double() - offset
            total = total + score @ features
            square = square + score.square() @ features.square()
        mean = total / count
        error = ((square / count - mean.square()).clamp(min=0) / (count - 1)).sqrt()
        share = count - 1 if self.centered else count
        return total / (self.probability * share), error / self.probability
