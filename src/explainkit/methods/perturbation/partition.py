"""Owen values: Shapley values over a hierarchy of image regions."""

import heapq
import time
from dataclasses import dataclass, field
from itertools import count
from typing import ClassVar

import torch
from torch import Tensor, nn

from explainkit.catalog.fields import Typed
from explainkit.engine.batching import chunk_size, in_chunks
from explainkit.engine.model import ScoreModel
from explainkit.interfaces import Attribution
from explainkit.methods.perturbation.baselines import Filling, fill_images
from explainkit.progress import progress

SPLITS = 16
"""Regions split at once; a constant, so that the search does not depend on memory."""

LEAST = 33
"""Forwards per image before the time limit or an interrupt can end with a result."""

Box = tuple[int, int, int, int]


@dataclass(frozen=True, order=True)
class _Part:
    """A rectangle in the context of other rectangles, ordered by its weight in the map."""

    rank: float = field(init=False)
    number: int
    box: Box = field(compare=False)
    context: Tensor = field(compare=False)
    weight: float = field(compare=False)
    off: float = field(compare=False)
    on: float = field(compare=False)

    def __post_init__(self) -> None:
        # three digits, so that rounding in the model does not break ties
        object.__setattr__(self, "rank", -float(f"{abs(self.value):.3g}"))

    @property
    def value(self) -> float:
        return self.weight * (self.on - self.off)

    @property
    def pixels(self) -> int:
        top, left, bottom, right = self.box
        return (bottom - top) * (right - left)

    def with_box(self, box: Box) -> Tensor:
        """The context with a box added."""
        kept = self.context.clone()
        kept[box[0] : box[2], box[1] : box[3]] = True
        return kept


@dataclass(eq=False)
class _Search:
    """Best-first search over the regions of one image."""

    image: Tensor
    baseline: Tensor
    label: int
    open: list[_Part]
    numbers: "count[int]"
    closed: list[_Part] = field(default_factory=list)
    used: int = 0

    def step(self, model: nn.Module, most: int) -> int:
        """Splits up to ``most`` regions of the largest weight; returns the number of forwards."""
        parts: list[_Part] = []
        while self.open and len(parts) < min(SPLITS, most):
            part = heapq.heappop(self.open)
            (parts if part.pixels > 1 else self.closed).append(part)
        if not parts:
            return 0
        halves = [halved(part.box) for part in parts]
        masks = [
            part.with_box(box) for part, pair in zip(parts, halves, strict=True) for box in pair
        ]
        scores = self._scores(model, torch.stack(masks)).tolist()
        for i, (part, (one, other)) in enumerate(zip(parts, halves, strict=True)):
            first, second = scores[2 * i : 2 * i + 2]
            with_one, with_other = masks[2 * i : 2 * i + 2]
            for box, context, off, on in [
                (one, part.context, part.off, first), (one, with_other, second, part.on),
                (other, part.context, part.off, second), (other, with_one, first, part.on),
            ]:  # fmt: skip
                child = _Part(next(self.numbers), box, context, part.weight / 2, off, on)
                heapq.heappush(self.open, child)
        self.used += len(masks)
        return len(masks)

    def _scores(self, model: nn.Module, masks: Tensor) -> Tensor:
        def run(part: slice) -> Tensor:
            scores: Tensor = model(torch.where(masks[part, None], self.image, self.baseline))
            return scores[:, self.label].double()

        with torch.no_grad():
            return in_chunks(run, len(masks), chunk_size(model, self.image, backward=False))

    def map(self) -> Tensor:
        """The value of every region, spread over its pixels, float64 ``[1, height, width]``."""
        values = torch.zeros(self.image.shape[1:], dtype=torch.float64)
        for part in (*self.open, *self.closed):
            top, left, bottom, right = part.box
            values[top:bottom, left:right] += part.value / part.pixels
        return values[None]


def halved(box: Box) -> tuple[Box, Box]:
    """A box halved across its longer side.

    Examples:
        >>> halved((0, 0, 2, 5))
        ((0, 0, 2, 2), (0, 2, 2, 5))
    """
    top, left, bottom, right = box
    if bottom - top >= right - left:
        middle = (top + bottom) // 2
        return (top, left, middle, right), (middle, left, bottom, right)
    middle = (left + right) // 2
    return (top, left, bottom, middle), (top, middle, bottom, right)


@dataclass(frozen=True)
class PartitionShap(Typed):
    """Owen values of pixels, over a hierarchy of halved image regions.

    The image is halved across its longer side, recursively down to pixels. The value of a region is
    its mean marginal contribution over the orders in which the halves of every larger region stay
    together; this needs the score of each half with and without the other. Regions with the largest
    weight in the map are split first, until ``samples`` forwards are used; the value of a region
    that is not split is spread evenly over its pixels. The map always sums to
    ``S_c(x) − S_c(baseline)``. The method is deterministic.

    Attributes:
        samples: Forwards per image.
        baseline: Replaces hidden regions: one value, a tensor, ``"mean"``, ``"blur"`` or
            ``"noise"``.
        max_seconds: Time limit; the result is then partial.
        seed: Random seed of the noise; ``explain(seed=…)`` sets it.

    Raises:
        MethodError: A field is out of range.

    References:
        Owen (1977), "Values of Games with a Priori Unions", doi:10.1007/978-3-642-45494-3_7.
        Lundberg and Lee (2017), arXiv:1705.07874, whose package introduced the search.

    Examples:
        >>> import torch, explainkit as ek
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2)).eval()
        >>> x = torch.rand(1, 1, 2, 2)
        >>> e = ek.explain(net, x, 1, "partition_shap", samples=64)
        >>> torch.allclose(e.attribution.flatten(), x.flatten() * net[1].weight[1], atol=1e-6)
        True
    """

    hides_parts: ClassVar[bool] = True
    only_runs: ClassVar[bool] = True

    samples: int = field(default=512, metadata={"least": 3})
    baseline: float | Tensor | Filling = field(default=0.0, metadata={"per_image": True})
    max_seconds: float | None = field(default=None, metadata={"above": 0})
    seed: int = field(default=0, metadata={"seed": True})

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns ``[batch, 1, height, width]`` in units of the score."""
        begin = time.monotonic()
        scorer = model if isinstance(model, ScoreModel) else ScoreModel(model)
        searches = self._begin(model, inputs, target)
        partial = False
        try:
            with progress("PartitionShap", self.samples * len(searches)) as advance:
                active = searches
                while active:
                    for search in active:
                        advance(search.step(model, (self.samples - search.used) // 2), "")
                    active = [s for s in active if s.open and s.used + 2 <= self.samples]
                    late = self.max_seconds and time.monotonic() - begin >= self.max_seconds
                    if (
                        active
                        and (late or scorer.interrupted)
                        and min(s.used for s in searches) >= LEAST
                    ):
                        partial = True
                        break
        except KeyboardInterrupt:
            if scorer.interrupted or min(search.used for search in searches) < LEAST:
                raise
            scorer.interrupted = partial = True
        used = [search.used for search in searches]
        maps = torch.stack([search.map() for search in searches])
        found = Attribution(maps.to(inputs.detach()), partial=partial)
        found = found.saying(samples=torch.tensor(used))
        if not partial:
            return found
        return found.saying(
            f"stopped after {min(used)} of {self.samples} samples: the values of regions that were "
            "not split are spread evenly over their pixels"
        )

    def _begin(self, model: nn.Module, inputs: Tensor, target: Tensor) -> list[_Search]:
        with torch.no_grad():
            clean = model(inputs).gather(1, target[:, None])[:, 0].tolist()
        images = inputs.detach()
        baselines = fill_images(self.baseline, images, self.seed)
        nothing = torch.zeros(images.shape[2:], dtype=torch.bool, device=images.device)
        searches = []
        for image, baseline, label, on in zip(
            images, baselines, target.tolist(), clean, strict=True
        ):
            search = _Search(image, baseline, label, [], count(1), used=1)
            off = float(search._scores(model, nothing[None])[0])
            search.open = [_Part(0, (0, 0, *image.shape[1:]), nothing, 1.0, off, on)]
            searches.append(search)
        return searches
