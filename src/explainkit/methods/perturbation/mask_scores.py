"""Masks, and the scores of masked images, which methods share.

A method defines its masks (`Masks`), the model evaluates them (`MaskEvaluations`), and the method
computes its map from the evaluations. Within one call of ``explain``, the evaluations are cached
with the engine's forward: methods with equal masks, and all targets of one method, share them.
"""

import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from explainkit.engine.batching import chunk_size, in_chunks
from explainkit.engine.model import ScoreModel
from explainkit.progress import progress

CHECK = 256
"""Samples between two checks of the error; it must not depend on the chunk size."""


@dataclass(frozen=True, eq=False)
class Masks:
    """Masks of images: samples of features in [0, 1], where 1 keeps the image.

    Attributes:
        samples: One ``[samples, features]`` per image; images with equal segments share theirs.
        baseline: Replaces hidden pixels, ``[batch, channel, height, width]``.
    """

    samples: tuple[Tensor, ...]
    baseline: Tensor

    @abstractmethod
    def pixels(self, image: int, samples: Tensor) -> Tensor:
        """The share of each pixel that is kept, ``[len(samples), 1, height, width]``."""

    @abstractmethod
    def upsample(self, image: int, values: Tensor) -> Tensor:
        """A map ``[1, height, width]`` of values of the image's `features`."""

    def alike(self, other: "Masks") -> bool:
        """Whether equal samples give the same masks: both have the same segments, or grid."""
        names = [field.name for field in fields(self) if field.name not in ("samples", "baseline")]
        pairs = ((getattr(self, name), getattr(other, name)) for name in names)
        return type(self) is type(other) and all(
            torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs
        )

    def apply(self, which: int, image: Tensor, samples: Tensor) -> Tensor:
        """The image under each of the masks, ``[len(samples), channel, height, width]``."""
        # lerp is exact at both ends, unlike b + m · (x − b)
        return torch.lerp(self.baseline[which], image, self.pixels(which, samples).to(image))

    def features(self, image: int, samples: Tensor) -> Tensor:  # noqa: ARG002 - others need the image
        """The features that an estimator relates to the scores, ``[len(samples), features]``."""
        return samples

    def agrees(self, other: "Masks") -> bool:
        """Whether all masks that both contain are equal."""
        return (
            self.alike(other)
            and torch.equal(self.baseline, other.baseline)
            and all(
                torch.equal(mine[: len(its)], its[: len(mine)])
                for mine, its in zip(self.samples, other.samples, strict=True)
            )
        )


@dataclass(frozen=True, eq=False)
class SegmentMasks(Masks):
    """Masks that keep or hide whole segments.

    Attributes:
        labels: The segment of each pixel, int64 ``[batch, height, width]``.
    """

    labels: Tensor

    def pixels(self, image: int, samples: Tensor) -> Tensor:
        """The share of each pixel that is kept, ``[len(samples), 1, height, width]``."""
        return samples[:, None, self.labels[image]]

    def upsample(self, image: int, values: Tensor) -> Tensor:
        """A map ``[1, height, width]`` in which every pixel has the value of its segment."""
        return values[self.labels[image]][None]


@dataclass(frozen=True, eq=False)
class MaskEvaluations:
    """The scores of masked images.

    Attributes:
        masks: The masks to evaluate.
        images: ``[batch, channel, height, width]``.
        scores: One float64 ``[samples, classes]`` per image; shorter than its samples if the
            evaluation was stopped.
        clean: Scores of the unmasked images, float64 ``[batch, classes]``.
        partial: Whether a time limit or an interrupt stopped the evaluation.
    """

    masks: Masks
    images: Tensor
    scores: tuple[Tensor, ...]
    clean: Tensor
    partial: bool = False


def score_masks(model: nn.Module, image: Tensor, masks: Masks, which: int, part: slice) -> Tensor:
    """Scores of one image under some of its masks, float64 ``[len, classes]``."""
    samples = masks.samples[which][part]

    def run(chunk: slice) -> Tensor:
        scores: Tensor = model(masks.apply(which, image, samples[chunk]))
        return scores.double()

    with torch.no_grad():
        return in_chunks(run, len(samples), chunk_size(model, image, backward=False))


def evaluate_masks(
    model: nn.Module,
    inputs: Tensor,
    masks: Masks,
    *,
    least: Sequence[int],
    done: Callable[[MaskEvaluations], tuple[Tensor, str]] | None = None,
    max_seconds: float | None = None,
    title: str = "masks",
) -> MaskEvaluations:
    """Scores masked images, alternating between them, until done, out of time or interrupted.

    Args:
        model: Gives scores ``[batch, classes]``.
        inputs: Images ``[batch, channel, height, width]``.
        masks: Their masks.
        least: Number of samples per image that a result needs: with fewer, neither the time limit
            nor an interrupt ends the evaluation with a result.
        done: Called every `CHECK` samples; returns whether the error of each image is small enough,
            bool ``[batch]``, and a text for the progress bar.
        max_seconds: Time limit.
        title: Title of the progress bar.

    Raises:
        KeyboardInterrupt: The user interrupted before there was a result, or a second time.
    """
    begin = time.monotonic()
    images = inputs.detach()
    size = chunk_size(model, images[0], backward=False)
    scorer = model if isinstance(model, ScoreModel) else ScoreModel(model)
    forward = scorer.ready(inputs)
    shared: list[MaskEvaluations] = forward.evaluations if forward else []
    known = [other.scores for other in shared if other.masks.agrees(masks)]
    with torch.no_grad():
        clean = model(inputs).detach().double()
    nothing = clean.new_empty(0, clean.shape[1])
    evaluations = MaskEvaluations(masks, images, (nothing,) * len(images), clean)
    active = list(range(len(images)))
    totals = [len(samples) for samples in masks.samples]
    parts: list[list[Tensor]] = [[] for _ in images]
    counts = [0] * len(images)

    def useful() -> bool:
        return all(count >= needed for count, needed in zip(counts, least, strict=True))

    def late() -> bool:
        over = max_seconds is not None and time.monotonic() - begin >= max_seconds
        return useful() and (over or scorer.interrupted)

    def filled(*, partial: bool) -> MaskEvaluations:
        scores = [torch.cat([nothing, *part]) for part in parts]
        return replace(evaluations, scores=tuple(scores), partial=partial)

    note = ""
    try:
        with progress(title, sum(totals)) as advance:
            start = 0
            while active and not (stopped := late()):
                stop = min(start + size, start - start % CHECK + CHECK)
                for i in active:
                    part = slice(start, min(stop, totals[i]))
                    # only whole chunks, so that sharing does not change any bit
                    found = [scores[i][part] for scores in known if len(scores[i]) >= part.stop]
                    scores = found[0] if found else score_masks(model, images[i], masks, i, part)
                    parts[i].append(scores)
                    counts[i] = part.stop
                    advance(part.stop - part.start, note)
                start = stop
                active = [i for i in active if totals[i] > start]
                if done and active and start % CHECK == 0 and start >= max(least):
                    enough, note = done(filled(partial=False))
                    active = [i for i in active if not enough[i]]
            evaluations = filled(partial=bool(active) and stopped)
    except KeyboardInterrupt:
        if scorer.interrupted or not useful():
            raise
        scorer.interrupted = True
        evaluations = filled(partial=True)
    shared.append(evaluations)
    return evaluations
