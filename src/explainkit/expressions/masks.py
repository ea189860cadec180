"""The score of a segmented region."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from explainkit.expressions.algebra import Expression, Rival
from explainkit.expressions.leaves import Term, check_label, classes_of
from explainkit.expressions.outputs import (
    SCORES,
    Name,
    check_names,
    find_output,
    rows_of,
    runners_up,
)
from explainkit.expressions.regions import PREDICTED, Region, axes_of, coverage, region_of
from explainkit.expressions.scope import Scope

_AXES = {2: "batch, class, height, width", 3: "batch, class, depth, height, width"}
"""The axes of class scores, by the spatial axes of a region."""


@dataclass(frozen=True)
class Mask(Term):
    """The mean logit of a class over a region, for models that segment.

    For a box or a mask: ``Σ_p w_p L[i, label, p] / Σ_p w_p`` of image i, where L has the axes
    ``[batch, class, height, width]``, or those of a volume with a depth before the height, and w_p
    is the part of cell p that lies in the region. For "predicted", the mean margin
    ``Σ_p max(0, L[i, label, p] - max_{c ≠ label} L[i, c, p]) / P`` with P cells, or
    ``Σ_p max(0, L[i, label, p]) / P`` of a single class. The region is that of each image as the
    model sees it, also where parts of it are hidden. Cells enter and leave it with a margin of 0:
    a logit is no such score, since its zero means nothing, and it would jump there.

    Attributes:
        label: Name or index of the class.
        region: A box (left, top, right, bottom) in fractions of the image's width and height, of a
            volume (left, top, front, right, bottom, back); a bool tensor ``[height, width]`` or
            ``[depth, height, width]`` over the image, of any resolution; or "predicted". The text
            form has the run lengths of a mask, row by row.
        logits: Name of the output L; None: ``logits`` or ``out``.

    Examples:
        >>> str(Mask("cat", torch.eye(2, dtype=torch.bool)))
        'mask("cat", [[2, 2], [0, 1, 2, 1]])'
    """

    label: str | int
    region: Region | Tensor | Sequence[float] = PREDICTED
    logits: Name = None
    call = "mask"
    shared = ("region", "logits")
    reads_output: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_label(self, "label", self.label)
        check_names(self, self.logits)
        object.__setattr__(self, "region", region_of(self.region))

    def _scores(self, scope: Scope) -> Tensor:
        """The output L."""
        region: Any = self.region
        axes = " or ".join(_AXES.values()) if isinstance(region, str) else _AXES[axes_of(region)]
        return find_output(self, scope, self.logits, SCORES, axes)

    def each(self, nodes: Sequence[Self], scope: Scope) -> Tensor:
        """The mean over the region."""
        scores = self._scores(scope)
        labels = classes_of([node.label for node in nodes], scores.shape[1], scope)
        chosen = scores[rows_of(scores), labels]
        region: Any = self.region
        if isinstance(region, str):
            return _margin(scores, labels).flatten(1).mean(1)
        weights = coverage(region, chosen.shape[1:], chosen)
        return (chosen * (weights / weights.sum())).flatten(1).sum(1)

    def rivals(self, scope: Scope) -> Sequence[Rival | None]:
        """The class with the highest mean logit in the same region.

        A region "predicted" is the one in the image as it is, and its scores are scaled like that
        of the class: ``Σ_p [p in region] L[i, other, p] / P``.
        """
        scores = self._scores(scope)
        labels = classes_of([self.label] * len(scores), scores.shape[1], scope)
        region: Any = self.region
        predicted = isinstance(region, str)
        if predicted:
            inside = _margin(scores.detach(), labels) > 0
        else:
            cells = scores.shape[2:]
            inside = coverage(region, cells, scores).expand(len(scores), *cells)
        means = (scores.detach() * inside[:, None]).flatten(2).sum(2)
        found: list[Rival | None] = []
        for here, other in zip(inside, runners_up(means, labels), strict=True):
            if other is None or not bool(here.any()):
                found.append(None)
                continue
            score: Expression = replace(self, label=other)
            if predicted:
                score = float(here.double().mean()) * replace(self, label=other, region=here)
            found.append(Rival(score, other, "in the same region"))
        return found

    def shown_box(self, scope: Scope) -> Tensor | None:
        """The box, if the region is one."""
        if len(self.region) != 4:
            return None
        box = torch.tensor(self.region, device=scope.example.device, dtype=scope.example.dtype)
        return box.expand(len(scope.example), 4)


def _margin(scores: Tensor, labels: Tensor) -> Tensor:
    """By how much the class of each image wins, ``[batch, height, width]``; 0 where it does not."""
    rows = rows_of(scores)
    margin = scores[rows, labels]
    if scores.shape[1] > 1:
        own = torch.zeros_like(scores, dtype=torch.bool)
        own[rows, labels] = True
        margin = margin - scores.masked_fill(own, -torch.inf).amax(1)
    return margin.clamp(min=0)
