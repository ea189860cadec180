"""What hiding parts of an image does to a model's scores: one table serves all of its maps."""

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from explainkit.engine.batching import chunk_size, in_chunks
from explainkit.engine.model import ScoreModel
from explainkit.graph.cached import Cached
from explainkit.methods.cam.placement import state_of
from explainkit.methods.perturbation.ablation import bounding_boxes, score_segments
from explainkit.methods.perturbation.box_scores import box_scores
from explainkit.metrics.cells import Cells
from explainkit.metrics.fill import NOISE
from explainkit.metrics.infill import linear_infill

SUBSETS = 48
"""Number of random quarters of the cells that are hidden together."""

KEPT = 128
"""Tables kept per model."""


@dataclass(frozen=True, eq=False)
class HidingEffects:
    """Scores of one image with parts of it hidden, for all classes.

    Attributes:
        cells: The cells that are hidden.
        subsets: Which cells each subset hides, 0 or 1, float64 ``[subsets, cells]``.
        clean: Scores of the image, float64 ``[classes]``.
        single: Scores with one cell hidden, for two draws of noise, ``[2, cells, classes]``.
        several: Scores with each subset hidden, ``[subsets, classes]``.
    """

    cells: Cells
    subsets: Tensor
    clean: Tensor
    single: Tensor
    several: Tensor

    def of_cells(self, target: int) -> Tensor:
        """How much hiding each cell lowers a score, ``[cells]``."""
        return self.clean[target] - self.single[0, :, target]

    def of_subsets(self, target: int) -> Tensor:
        """How much hiding each subset lowers a score, ``[subsets]``."""
        return self.clean[target] - self.several[:, target]

    def noise(self, target: int) -> float:
        """Standard deviation of the effects of cells between draws of the noise."""
        first, second = self.single[..., target]
        return float((first - second).std()) / 2**0.5

    def beside(self, other: "HidingEffects") -> "HidingEffects":
        """These scores, followed by other scores of the same image with the same parts hidden."""
        return replace(
            self,
            clean=torch.cat([self.clean, other.clean]),
            single=torch.cat([self.single, other.single], 2),
            several=torch.cat([self.several, other.several], 1),
        )

    def changes(self, target: int) -> bool:
        """Whether hiding changes a score by more than noise and rounding do."""
        most = max(abs(float(self.clean[target])), float(self.single[..., target].abs().max()))
        least = max(3 * self.noise(target), 1e-5 * most)
        return float(self.of_cells(target).std()) > least


_known = Cached[HidingEffects](KEPT)


def hiding_effects(
    model: ScoreModel,
    image: Tensor,
    clean: Tensor,
    cells: Cells,
    seed: int,
    score: Hashable | None = None,
) -> HidingEffects:
    """Hides single cells and subsets of cells of one image, filled linearly from what remains.

    The table of an image is kept until the model's weights change.

    Args:
        model: Gives scores ``[1, classes]``.
        image: ``[channel, height, width]``.
        clean: Its scores, ``[classes]``.
        cells: What to hide.
        seed: Random seed of the subsets and the noise.
        score: Identifies the scores among all those of the model; None: the table is not kept.
    """
    digest = hashlib.sha256(image.detach().contiguous().view(torch.uint8).cpu().numpy().tobytes())
    key = (digest.digest(), image.shape, image.dtype, image.device, cells, seed, score)
    state = state_of(model.owner)
    clean = clean.double().cpu()
    known = _known.get(model.owner, key, state) if score is not None else None
    # the clean scores tell what the versions of the weights do not
    if known is not None and torch.equal(known.clean, clean):
        return known
    found = _measure(model, image, cells, seed, clean)
    if score is not None:
        _known.put(model.owner, key, found, state)
    return found


def _measure(
    model: ScoreModel, image: Tensor, cells: Cells, seed: int, clean: Tensor
) -> HidingEffects:
    count = len(cells)
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(SUBSETS, count, generator=generator).argsort(1)
    subsets = torch.zeros(SUBSETS, count, dtype=torch.float64)
    subsets.scatter_(1, order[:, : count // 4], 1.0)
    labels = cells.labels()
    shape = image.shape
    noise = torch.randn(2, *shape, generator=generator).to(image)
    apart = torch.randn(SUBSETS, *shape, generator=generator).to(image)
    spread = NOISE * (image.amax() - image.amin())
    labels = labels.to(image.device)
    filled = linear_infill(image[None], labels[None] + 1) + spread * noise
    hidden = subsets.to(image.device)[:, labels] > 0
    masked = linear_infill(image.expand(SUBSETS, *shape), hidden.long())
    masked += spread * apart * hidden[:, None]
    single = torch.stack([score_cells(model, image, fill, labels) for fill in filled])

    def run(part: slice) -> Tensor:
        scores: Tensor = model(masked[part])
        return scores.double()

    with torch.no_grad():
        several = in_chunks(run, SUBSETS, chunk_size(model, image, backward=False))
    return HidingEffects(cells, subsets, clean, single.cpu(), several.cpu())


def score_cells(model: ScoreModel, image: Tensor, fill: Tensor, labels: Tensor) -> Tensor:
    """Scores with one cell at a time replaced; only what a cell changes is run again.

    With a given batch size, the last chunk is padded to it: some models run on no other.

    Args:
        model: Gives scores ``[1, classes]``.
        image: ``[channel, height, width]``.
        fill: Replacement values, of the same shape.
        labels: Cell of each pixel, int64 ``[height, width]``, numbered from 0.

    Returns:
        float64 ``[cells, classes]``.
    """
    corners, size = bounding_boxes(labels)
    score = box_scores(model, image, corners, size)
    if not isinstance(score, str):
        with torch.no_grad():
            return score_segments(score, image, fill, labels, corners, size)

    def run(part: slice) -> Tensor:
        length = part.stop - part.start
        numbers = torch.arange(max(length, model.batch_size or 1), device=image.device)
        inside = labels == part.start + numbers[:, None, None]  # beyond the last cell: nowhere
        scores: Tensor = model(torch.where(inside[:, None], fill, image))
        return scores[:length].double()

    with torch.no_grad():
        return in_chunks(run, len(corners), chunk_size(model, image, backward=False))
