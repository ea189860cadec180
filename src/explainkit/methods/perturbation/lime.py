"""LIME: a linear model of the score, fitted to masked versions of the image."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from explainkit.errors import MethodError
from explainkit.methods.perturbation.mask_scores import MaskEvaluations
from explainkit.methods.perturbation.regression import least_squares
from explainkit.methods.perturbation.sampled import SegmentSampled, bernoulli

Distance = Literal["segments", "image"]


@dataclass(frozen=True)
class Lime(SegmentSampled):
    """Coefficients of a linear model of the score, fitted to masked images (LIME).

    Segments are kept or hidden with probability ½ each, ``z``; β minimizes
    ``Σ_i π(z_i) (S_c(x_i) − β₀ − z_iᵀ β)² + ridge · |β|² + 2 lasso Σ_i π(z_i) · |β|₁`` with
    ``π = exp(−d² / (2 width²))``, where d is one minus the cosine between ``z`` and the mask that
    keeps everything. Each pixel has the coefficient of its segment. Standard errors are HC3; with a
    lasso, they are those of a regression on the segments that it leaves, and 0 elsewhere.

    Attributes:
        samples: Masks per image.
        distance: ``"segments"`` as above, or ``"image"``: d is one minus the cosine between the
            masked image and the image, as in Captum.
        width: Width of the kernel; None: 0.25 for segments, 1 for images.
        kernel: A function from the distances d, float64 ``[masks]``, to weights π, instead of the
            exponential one. A record has its name alone.
        ridge: Penalty on the squared coefficients.
        lasso: Penalty on the absolute coefficients, which sets small ones to zero: with
            ``ridge=0``, the ``alpha`` of scikit-learn's ``Lasso``, which Captum uses with 0.01.
        segments: As in `KernelShap`, like all other fields.

    Raises:
        MethodError: A field is out of range, or there are too few samples for the segments.

    References:
        Ribeiro, Singh and Guestrin (2016), "'Why Should I Trust You?': Explaining the Predictions
        of Any Classifier", arXiv:1602.04938.

    Examples:
        >>> import torch, explainkit as ek
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2)).eval()
        >>> x = torch.rand(1, 1, 2, 2)
        >>> e = ek.explain(net, x, 1, "lime", segments=2, samples=64, ridge=0.0)
        >>> torch.allclose(e.attribution.flatten(), x.flatten() * net[1].weight[1], atol=1e-6)
        True
    """

    distance: Distance = "segments"
    width: float | None = field(default=None, metadata={"above": 0})
    kernel: Callable[[Tensor], Tensor] | None = None
    ridge: float = field(default=1.0, metadata={"least": 0, "below": torch.inf})
    lasso: float = field(default=0.0, metadata={"least": 0, "below": torch.inf})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernel is not None and not callable(self.kernel):
            raise MethodError(f"kernel: expected a function of distances, got {self.kernel!r}")
        if self.kernel is not None and self.width is not None:
            raise MethodError("expected width= or kernel=, got both: a kernel has its own width")

    def draw(self, features: int) -> Tensor:
        """Samples ``[samples, features]`` for images with this many segments."""
        if self.samples < features + 2:
            raise MethodError(
                f"samples: expected at least {features + 2} for {features} segments, got "
                f"{self.samples}"
            )
        return bernoulli(self.samples, features, 0.5, self.seed)

    def least(self, samples: Tensor) -> int:
        """How many of an image's samples suffice for a map and its standard error."""
        return min(len(samples), 2 * samples.shape[1] + 2)

    def estimate(
        self, evaluations: MaskEvaluations, image: int, label: int
    ) -> tuple[Tensor, Tensor]:
        """Values of one image's features and their standard errors, float64 ``[features]``."""
        # relative to the score of the image: only the intercept changes
        scores = evaluations.scores[image][:, label] - evaluations.clean[image, label]
        kept = evaluations.masks.samples[image][: len(scores)].double()
        ones = torch.ones_like(kept[:, :1])
        weights = self._weights(evaluations, image, kept)
        # no penalty on the intercept
        each = torch.cat([torch.ones_like(kept[0]), kept.new_zeros(1)])
        solution, influence = least_squares(
            torch.cat([kept, ones], 1), scores, weights, self.ridge * each,
            self.lasso * weights.sum() * each if self.lasso else None,
        )  # fmt: skip
        return solution[:-1], influence[:, :-1].square().sum(0).sqrt()

    def _weights(self, evaluations: MaskEvaluations, image: int, kept: Tensor) -> Tensor:
        if self.distance == "segments":
            distance = 1 - kept.mean(1).sqrt()
        else:
            whole = evaluations.images[image].double().flatten()
            samples = evaluations.masks.samples[image][: len(kept)]
            masked = (
                evaluations.masks.apply(image, evaluations.images[image], part)
                for part in torch.split(samples, 64)
            )
            similar = [F.cosine_similarity(one.flatten(1).double(), whole) for one in masked]
            distance = 1 - torch.cat(similar)
        if self.kernel is not None:
            return _checked(self.kernel(distance), distance)
        width = self.width or (0.25 if self.distance == "segments" else 1.0)
        return (-distance.square() / (2 * width**2)).exp()


def _checked(weights: object, distance: Tensor) -> Tensor:
    """The weights that a caller's kernel gave for distances, as float64."""
    if not isinstance(weights, Tensor) or weights.shape != distance.shape:
        got = list(weights.shape) if isinstance(weights, Tensor) else type(weights).__name__
        raise MethodError(
            f"kernel: expected a weight for each distance, [{len(distance)}], got {got}"
        )
    weights = weights.detach().to(distance)
    if not bool((weights.isfinite() & (weights >= 0)).all()) or not bool(weights.any()):
        raise MethodError("kernel: expected finite weights of at least 0, not all of them 0")
    return weights
