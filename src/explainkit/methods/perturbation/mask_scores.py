"""One table of masks and scores, from which many methods are read.

A method says which masks it wants (`Masks`), the table holds what the model made of them
(`MaskEvaluations`), and the method turns a table into maps. In one call of ``explain``, tables stay
with the engine's forward: methods whose masks agree, and all targets of one method, share their
forwards.
"""

import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from explainkit.engine.batching import chunk_size, in_chunks
from explainkit.engine.model import ScoreModel
from explainkit.progress import progress

CHECK = 256
"""Rows between two looks at the error: it must not depend on how many images run at once."""


@dataclass(frozen=True, eq=False)
class Masks:
    """Masks of some images: rows of features in [0, 1], where 1 keeps the image.

    Attributes:
        rows: One ``[samples, features]`` per image; images that are cut alike share theirs.
        baseline: What shows through, ``[batch, channel, height, width]``.
    """

    rows: tuple[Tensor, ...]
    baseline: Tensor

    @abstractmethod
    def pixels(self, image: int, rows: Tensor) -> Tensor:
        """The share of each pixel that rows keep, ``[len(rows), 1, height, width]``."""

    @abstractmethod
    def upsample(self, image: int, values: Tensor) -> Tensor:
        """A map ``[1, height, width]`` of values of the image's `features`."""

    @abstractmethod
    def alike(self, other: "Masks") -> bool:
        """Whether equal rows of both look the same."""

    def apply(self, which: int, image: Tensor, rows: Tensor) -> Tensor:
        """The image under each of the rows, ``[len(rows), channel, height, width]``."""
        # lerp gives both ends exactly, unlike b + m · (x − b)
        return torch.lerp(self.baseline[which], image, self.pixels(which, rows).to(image))

    def features(self, image: int, rows: Tensor) -> Tensor:  # noqa: ARG002 - others need the image
        """What an estimator correlates with the scores, ``[len(rows), features]``."""
        return rows

    def agrees(self, other: "Masks") -> bool:
        """Whether all rows that both have are the same masks."""
        return (
            self.alike(other)
            and torch.equal(self.baseline, other.baseline)
            and all(
                torch.equal(mine[: len(its)], its[: len(mine)])
                for mine, its in zip(self.rows, other.rows, strict=True)
            )
        )


@dataclass(frozen=True, eq=False)
class SegmentMasks(Masks):
    """Masks that keep or hide whole segments.

    Attributes:
        labels: The segment of each pixel, int64 ``[batch, height, width]``.
    """

    labels: Tensor

    def pixels(self, image: int, rows: Tensor) -> Tensor:
        """The share of each pixel that rows keep, ``[len(rows), 1, height, width]``."""
        return rows[:, None, self.labels[image]]

    def upsample(self, image: int, values: Tensor) -> Tensor:
        """A map ``[1, height, width]`` in which every pixel of a segment has its value."""
        return values[self.labels[image]][None]

    def alike(self, other: Masks) -> bool:
        """Whether both cut the images alike."""
        return isinstance(other, SegmentMasks) and torch.equal(self.labels, other.labels)


@dataclass(frozen=True, eq=False)
class MaskEvaluations:
    """What a model made of masked images.

    Attributes:
        masks: The masks that were to be scored.
        images: ``[batch, channel, height, width]``.
        scores: One float64 ``[samples, classes]`` per image, shorter than its rows where the work
            was stopped.
        clean: Scores of the images as they are, float64 ``[batch, classes]``.
        partial: Whether a deadline or an interrupt stopped the work.
    """

    masks: Masks
    images: Tensor
    scores: tuple[Tensor, ...]
    clean: Tensor
    partial: bool = False


def score_masks(model: nn.Module, image: Tensor, masks: Masks, which: int, part: slice) -> Tensor:
    """Scores of one image under some of its masks, float64 ``[len, classes]``."""
    rows = masks.rows[which][part]

    def run(chunk: slice) -> Tensor:
        scores: Tensor = model(masks.apply(which, image, rows[chunk]))
        return scores.double()

    with torch.no_grad():
        return in_chunks(run, len(rows), chunk_size(model, image))


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
    """Scores masked images, all of them by turns, until the masks, the time or the patience end.

    Args:
        model: Gives scores ``[batch, classes]``.
        inputs: Images ``[batch, channel, height, width]``.
        masks: Their masks.
        least: Rows of each image that a table must hold to be of use: before, neither the time nor
            an interrupt ends the work with a result.
        done: Looks at a table every `CHECK` rows and says for each image, bool ``[batch]``, whether
            its error is small enough, and what to show beside the progress bar.
        max_seconds: When to stop.
        title: The name of the work, for the progress bar.

    Raises:
        KeyboardInterrupt: The user stopped the work before it was of use, or a second time.
    """
    begin = time.monotonic()
    images = inputs.detach()
    size = chunk_size(model, images[0])
    scorer = model if isinstance(model, ScoreModel) else ScoreModel(model)
    forward = scorer.ready(inputs)
    shared: list[MaskEvaluations] = forward.evaluations if forward else []
    known = [other.scores for other in shared if other.masks.agrees(masks)]
    with torch.no_grad():
        clean = model(inputs).detach().double()
    nothing = clean.new_empty(0, clean.shape[1])
    table = MaskEvaluations(masks, images, (nothing,) * len(images), clean)
    active = list(range(len(images)))
    totals = [len(rows) for rows in masks.rows]
    parts: list[list[Tensor]] = [[] for _ in images]
    counts = [0] * len(images)

    def useful() -> bool:
        return all(count >= needed for count, needed in zip(counts, least, strict=True))

    def late() -> bool:
        over = max_seconds is not None and time.monotonic() - begin >= max_seconds
        return useful() and (over or scorer.interrupted)

    def filled(*, partial: bool) -> MaskEvaluations:
        scores = [torch.cat([nothing, *part]) for part in parts]
        return replace(table, scores=tuple(scores), partial=partial)

    remark = ""
    try:
        with progress(title, sum(totals)) as advance:
            start = 0
            while active and not (stopped := late()):
                stop = min(start + size, start - start % CHECK + CHECK)
                for i in active:
                    part = slice(start, min(stop, totals[i]))
                    # only whole chunks, so that sharing doesn't change a bit
                    found = [scores[i][part] for scores in known if len(scores[i]) >= part.stop]
                    scores = found[0] if found else score_masks(model, images[i], masks, i, part)
                    parts[i].append(scores)
                    counts[i] = part.stop
                    advance(part.stop - part.start, remark)
                start = stop
                active = [i for i in active if totals[i] > start]
                if done and active and start % CHECK == 0 and start >= max(least):
                    enough, remark = done(filled(partial=False))
                    active = [i for i in active if not enough[i]]
            table = filled(partial=bool(active) and stopped)
    except KeyboardInterrupt:
        if scorer.interrupted or not useful():
            raise
        scorer.interrupted = True
        table = filled(partial=True)
    shared.append(table)
    return table
