"""Base of the methods that estimate their map from the scores of random masks."""

import sys
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from explainkit.catalog.fields import Typed
from explainkit.interfaces import Attribution
from explainkit.methods.perturbation.baselines import Filling, fill_images
from explainkit.methods.perturbation.mask_scores import (
    MaskEvaluations,
    Masks,
    SegmentMasks,
    evaluate_masks,
)
from explainkit.methods.perturbation.segments import segment


@dataclass(frozen=True)
class Sampled(Typed):
    """A method that samples masks, scores them, and estimates a map with its standard error.

    Every image uses the same ``seed``, so images with equal segments get the same masks in any
    batch. Ctrl-C and ``max_seconds`` stop the sampling with a partial result. ``tolerance`` stops
    it for each image as soon as the largest standard error of its map is at most this fraction of
    the largest absolute value.
    """

    hides_parts: ClassVar[bool] = True
    only_runs: ClassVar[bool] = True

    samples: int = field(default=512, metadata={"least": 2})
    baseline: float | Tensor | Filling = field(default=0.0, metadata={"per_image": True})
    tolerance: float | None = field(default=None, metadata={"above": 0})
    max_seconds: float | None = field(default=None, metadata={"above": 0})
    seed: int = field(default=0, metadata={"seed": True})

    @abstractmethod
    def masks(self, inputs: Tensor) -> Masks:
        """The masks for images ``[batch, channel, height, width]``."""

    @abstractmethod
    def least(self, samples: Tensor) -> int:
        """How many of an image's samples suffice for a map and its standard error."""

    @abstractmethod
    def estimate(
        self, evaluations: MaskEvaluations, image: int, label: int
    ) -> tuple[Tensor, Tensor]:
        """Values of one image's features and their standard errors, float64 ``[features]``."""

    def used(self, count: int, features: int) -> int:  # noqa: ARG002 - others need the features
        """The method's ``samples`` that this many mask evaluations amount to."""
        return count

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns ``[batch, 1, height, width]``."""
        masks = self.masks(inputs)

        def done(evaluations: MaskEvaluations) -> tuple[Tensor, str]:
            error = _relative_error(self.from_evaluations(evaluations, target))
            enough = error <= (self.tolerance or -1)
            return enough, f"standard error {float(error.max()):.1%} of the largest value"

        monitored = self.tolerance is not None or sys.stderr.isatty()
        evaluations = evaluate_masks(
            model, inputs, masks, least=[self.least(samples) for samples in masks.samples],
            done=done if monitored else None, max_seconds=self.max_seconds,
            title=type(self).__name__,
        )  # fmt: skip
        return self.from_evaluations(evaluations, target)

    def from_evaluations(self, evaluations: MaskEvaluations, target: Tensor) -> Attribution:
        """Computes the map from evaluations of the method's own `masks`.

        Args:
            evaluations: Scores of at least the method's `least` samples.
            target: int64 ``[batch]``.

        Returns:
            ``[batch, 1, height, width]`` with standard errors.
        """
        dtype = evaluations.masks.baseline.dtype
        maps, errors = [], []
        for image, label in enumerate(target.tolist()):
            values, error = self.estimate(evaluations, image, label)
            maps.append(evaluations.masks.upsample(image, values))
            errors.append(evaluations.masks.upsample(image, error))
        counts = [
            self.used(len(scores), samples.shape[1])
            for scores, samples in zip(evaluations.scores, evaluations.masks.samples, strict=True)
        ]
        diagnostics: dict[str, Any] = {"samples": torch.tensor(counts)}
        values, error = torch.stack(maps).to(dtype), torch.stack(errors).to(dtype)
        found = Attribution(values, error, diagnostics=diagnostics, partial=evaluations.partial)
        return found.saying(*self._warnings(found))

    def _warnings(self, found: Attribution) -> Iterator[str]:
        worst = float(_relative_error(found).max())
        if found.partial:
            least = int(found.diagnostics["samples"].min())
            yield (
                f"stopped after {least} of {self.samples} samples: the standard errors show "
                "how precise the map is"
            )
        elif self.tolerance is not None and worst > self.tolerance:
            yield (
                f"standard error {worst:.3g} of the largest value after {self.samples} samples, "
                f"above the tolerance {self.tolerance:g}: raise samples"
            )


@dataclass(frozen=True)
class SegmentSampled(Sampled):
    """A method that keeps or hides whole segments of the image."""

    segments: int | str | Tensor = field(default=7, metadata={"per_image": True})

    @abstractmethod
    def draw(self, features: int) -> Tensor:
        """Samples ``[samples, features]`` for images with this many segments."""

    def masks(self, inputs: Tensor) -> SegmentMasks:
        """Masks of the segments of images ``[batch, channel, height, width]``."""
        labels = segment(self.segments, inputs)
        counts = (labels.flatten(1).amax(1) + 1).tolist()
        drawn = {features: self.draw(features).to(inputs.device) for features in set(counts)}
        baseline = fill_images(self.baseline, inputs, self.seed)
        return SegmentMasks(tuple(drawn[features] for features in counts), baseline, labels)


def bernoulli(samples: int, features: int, probability: float, seed: int) -> Tensor:
    """Independent samples ``[samples, features]`` that keep each feature with this probability.

    Methods that use this function can share the mask evaluations.
    """
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(samples, features, generator=generator) < probability).float()


def _relative_error(found: Attribution) -> Tensor:
    """Largest standard error of each map, relative to its largest absolute value."""
    assert found.standard_error is not None
    error = found.standard_error.flatten(1).amax(1)
    return error / found.values.flatten(1).abs().amax(1).clamp(min=1e-12)
