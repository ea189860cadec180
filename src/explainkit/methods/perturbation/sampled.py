"""What the methods share that draw masks and read their map from a table of scores."""

import sys
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from explainkit.errors import MethodError
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
class Sampled:
    """A method that draws masks, scores them, and estimates a map with its standard error.

    All images start their generators at ``seed``, so that those that are cut alike see the same
    masks, whatever the batch. Ctrl-C and ``max_seconds`` end the drawing with what is there, as a
    partial result; ``tolerance`` ends it for each image as soon as the largest standard error of
    its map is at most this share of the largest absolute value.
    """

    samples: int = 512
    baseline: float | Tensor | Filling = field(default=0.0, metadata={"per_image": True})
    tolerance: float | None = None
    max_seconds: float | None = None
    seed: int = field(default=0, metadata={"seed": True})

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise MethodError(f"samples: expected at least 2, got {self.samples}")
        if self.tolerance is not None and not self.tolerance > 0:
            raise MethodError(f"tolerance: expected a positive share, got {self.tolerance}")
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise MethodError(f"max_seconds: expected a positive time, got {self.max_seconds}")

    @abstractmethod
    def masks(self, inputs: Tensor) -> Masks:
        """The masks that the method wants of images ``[batch, channel, height, width]``."""

    @abstractmethod
    def least(self, rows: Tensor) -> int:
        """How many of an image's rows make a map and its standard error."""

    @abstractmethod
    def estimate(self, table: MaskEvaluations, image: int, label: int) -> tuple[Tensor, Tensor]:
        """Values of one image's features and their standard errors, float64 ``[features]``."""

    def used(self, rows: int, features: int) -> int:  # noqa: ARG002 - others need the features
        """The ``samples`` that so many rows make."""
        return rows

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns ``[batch, 1, height, width]``."""
        masks = self.masks(inputs)

        def done(table: MaskEvaluations) -> tuple[Tensor, str]:
            error = _relative_error(self.from_evaluations(table, target))
            enough = error <= (self.tolerance or -1)
            return enough, f"standard error {float(error.max()):.1%} of the largest value"

        looked_at = self.tolerance is not None or sys.stderr.isatty()
        table = evaluate_masks(
            model, inputs, masks, least=[self.least(rows) for rows in masks.rows],
            done=done if looked_at else None, max_seconds=self.max_seconds,
            title=type(self).__name__,
        )  # fmt: skip
        return self.from_evaluations(table, target)

    def from_evaluations(self, table: MaskEvaluations, target: Tensor) -> Attribution:
        """Reads the map from a table of the method's own `masks`.

        Args:
            table: Filled at least to the method's `least` rows.
            target: int64 ``[batch]``.

        Returns:
            ``[batch, 1, height, width]`` with standard errors.
        """
        dtype = table.masks.baseline.dtype
        maps, errors = [], []
        for image, label in enumerate(target.tolist()):
            values, error = self.estimate(table, image, label)
            maps.append(table.masks.upsample(image, values))
            errors.append(table.masks.upsample(image, error))
        counts = [
            self.used(len(scores), rows.shape[1])
            for scores, rows in zip(table.scores, table.masks.rows, strict=True)
        ]
        diagnostics: dict[str, Any] = {"samples": torch.tensor(counts)}
        values, error = torch.stack(maps).to(dtype), torch.stack(errors).to(dtype)
        found = Attribution(values, error, diagnostics=diagnostics, partial=table.partial)
        return found.saying(*self._remarks(found))

    def _remarks(self, found: Attribution) -> Iterator[str]:
        worst = float(_relative_error(found).max())
        if found.partial:
            least = int(found.diagnostics["samples"].min())
            yield (
                f"stopped after {least} of {self.samples} samples: the standard errors say what "
                "the map is worth"
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
    def rows(self, features: int) -> Tensor:
        """The rows ``[samples, features]`` of images with so many segments."""

    def masks(self, inputs: Tensor) -> SegmentMasks:
        """Masks of the segments of images ``[batch, channel, height, width]``."""
        labels = segment(self.segments, inputs)
        counts = (labels.flatten(1).amax(1) + 1).tolist()
        drawn = {features: self.rows(features).to(inputs.device) for features in set(counts)}
        baseline = fill_images(self.baseline, inputs, self.seed)
        return SegmentMasks(tuple(drawn[features] for features in counts), baseline, labels)


def bernoulli(samples: int, features: int, probability: float, seed: int) -> Tensor:
    """Independent rows ``[samples, features]`` that keep each feature with this probability.

    Methods that want such masks draw them here, and so can share them.
    """
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(samples, features, generator=generator) < probability).float()


def _relative_error(found: Attribution) -> Tensor:
    """Largest standard error of each map as a share of its largest absolute value."""
    assert found.standard_error is not None
    error = found.standard_error.flatten(1).amax(1)
    return error / found.values.flatten(1).abs().amax(1).clamp(min=1e-12)
