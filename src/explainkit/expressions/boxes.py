"""Terms of a detector's boxes: the score of a class for one of them, and its coordinates."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from explainkit.errors import TargetError
from explainkit.expressions.algebra import Rival
from explainkit.expressions.leaves import Term, check_index, check_label, classes_of
from explainkit.expressions.outputs import (
    SCORES,
    Name,
    check_names,
    find_output,
    has_output,
    rows_of,
    runners_up,
)
from explainkit.expressions.scope import Scope

BEST = "best"
"""The query that scores highest for a class."""

_BOXES = ("pred_boxes", "boxes")


SIDES = ("x", "y", "width", "height", "left", "top", "right", "bottom")
"""The center, the size, and the edges of a box."""


def _format(*rows: tuple[float, float, float, float]) -> dict[str, tuple[float, ...]]:
    return dict(zip(SIDES, rows, strict=True))


BOX_FORMATS = {
    "cxcywh": _format(
        (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1),
        (1, 0, -0.5, 0), (0, 1, 0, -0.5), (1, 0, 0.5, 0), (0, 1, 0, 0.5),
    ),
    "xyxy": _format(
        (0.5, 0, 0.5, 0), (0, 0.5, 0, 0.5), (-1, 0, 1, 0), (0, -1, 0, 1),
        (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1),
    ),
    "xywh": _format(
        (1, 0, 0.5, 0), (0, 1, 0, 0.5), (0, 0, 1, 0), (0, 0, 0, 1),
        (1, 0, 0, 0), (0, 1, 0, 0), (1, 0, 1, 0), (0, 1, 0, 1),
    ),
}  # fmt: skip
"""Center and size, two corners, a corner and size: each side as weights of the four numbers.

The names are torchvision's."""


class _OfBox(Term):
    """A term of one query's box, or of the box that scores highest for a class."""

    query: int | str
    label: str | int | None
    logits: Name
    boxes: Name
    box_format: str | None
    reads_output: ClassVar[bool] = True
    shared = ("logits", "boxes", "box_format")

    def _check(self) -> None:
        if self.query != BEST:
            check_index(self, "query", self.query)
        elif self.label is None:
            raise TargetError(f"{self.call}: expected a label with query 'best', got none")
        if self.label is not None:
            check_label(self, "label", self.label)
        check_names(self, self.logits, self.boxes)
        if self.box_format is not None and self.box_format not in BOX_FORMATS:
            raise TargetError(
                f"{self.call}: expected boxes as {', '.join(BOX_FORMATS)}, got {self.box_format!r}"
            )

    def _scores(self, scope: Scope) -> Tensor:
        return find_output(self, scope, self.logits, SCORES, "batch, query, class")

    def _queries(self, nodes: Sequence[Any], scope: Scope, count: int) -> Tensor:
        """The query of each image, int64 ``[batch]``."""
        chosen = torch.tensor([0 if node.query == BEST else node.query for node in nodes])
        if int(chosen.max()) >= count:
            raise TargetError(
                f"{self}: expected a query from 0 to {count - 1}, got {int(chosen.max())}"
            )
        chosen = chosen.to(scope.example.device)
        best = torch.tensor([node.query == BEST for node in nodes], device=chosen.device)
        if not bool(best.any()):
            return chosen
        scores = self._scores(scope).detach()
        if _has_no_object(scores, scope):
            scores = scores.softmax(2)
        given = [0 if node.label is None else node.label for node in nodes]
        labels = classes_of(given, scores.shape[2], scope)
        return torch.where(best, scores[rows_of(scores), :, labels].argmax(1), chosen)

    def _boxes(self, nodes: Sequence[Any], scope: Scope) -> Tensor:
        """The box of each image as the model gives it, ``[batch, 4]``."""
        boxes = find_output(self, scope, self.boxes, _BOXES, "batch, query, side")
        if boxes.shape[2] != 4:
            raise TargetError(f"{self}: expected boxes of 4 numbers, got {boxes.shape[2]}")
        return boxes[rows_of(boxes), self._queries(nodes, scope, boxes.shape[1])]

    def shown_box(self, scope: Scope) -> Tensor | None:
        """The box of each image; see `Expression.shown_boxes`."""
        if self.boxes is None and not any(has_output(scope.output, key) for key in _BOXES):
            return None
        found = self._boxes([self] * len(scope.example), scope).detach()
        sides = BOX_FORMATS[self.box_format or "cxcywh"]
        weights = [sides[side] for side in ("left", "top", "right", "bottom")]
        corners = found @ found.new_tensor(weights).T
        if scope.images is None:
            return corners
        height, width = scope.images.shape[-2:]
        size = corners.new_tensor([width, height, width, height])
        # no box in fractions of an image is twice as large as the image
        in_pixels = corners.abs().amax(1, keepdim=True) > 2
        return torch.where(in_pixels, corners / size, corners)


def _has_no_object(scores: Tensor, scope: Scope) -> bool:
    """Whether the last class of scores ``[batch, query, class]`` is "no object"."""
    return bool(scope.class_names) and scores.shape[2] == len(scope.class_names) + 1


@dataclass(frozen=True)
class BoxScore(_OfBox):
    """The logit of a class for one of a detector's queries (or anchors, or cells).

    ``L[i, query, label]`` of image i, where the output L has the axes ``[batch, query, class]``.
    Query "best" is the one that scores highest for the class, in each image anew:
    ``argmax_q P[i, q, label]``, where P is a softmax if the model has one class more than names
    ("no object", as in DETR and YOLOS), and L otherwise. "No object" is the class with the last
    index.

    Attributes:
        query: Index of the query, or "best".
        label: Name or index of the class.
        logits: Name of the output L; None: ``logits``.
        boxes: Name of the output with the boxes, which figures show; None: ``pred_boxes``.
        box_format: As in `BoxCoordinate`.
    """

    query: int | str
    label: str | int
    logits: Name = None
    boxes: Name = None
    box_format: str | None = None
    call = "box_score"

    def __post_init__(self) -> None:
        check_label(self, "label", self.label)
        self._check()

    def each(self, nodes: Sequence[Self], scope: Scope) -> Tensor:
        """``L[i, query, label]``."""
        scores = self._scores(scope)
        queries = self._queries(nodes, scope, scores.shape[1])
        labels = classes_of([node.label for node in nodes], scores.shape[2], scope)
        return scores[rows_of(scores), queries, labels]

    def rivals(self, scope: Scope) -> Sequence[Rival | None]:
        """The class that scores highest at the same query, other than "no object"."""
        scores = self._scores(scope).detach()
        labels = classes_of([self.label] * len(scores), scores.shape[2], scope)
        queries = self._queries([self] * len(scores), scope, scores.shape[1])
        objects = scores[rows_of(scores), queries]
        if _has_no_object(scores, scope):
            objects[:, -1] = float("-inf")
        return [
            None
            if other is None
            else Rival(replace(self, query=query, label=other), other, "for the same query")
            for query, other in zip(queries.tolist(), runners_up(objects, labels), strict=True)
        ]


@dataclass(frozen=True)
class BoxCoordinate(_OfBox):
    """A coordinate of one of a detector's boxes, in the unit of the model's output.

    A linear function of the four numbers of the box ``B[i, query]``: the center ``x`` and ``y``,
    ``width`` and ``height``, or the edges ``left``, ``top``, ``right``, ``bottom``. DETR, YOLOS,
    RT-DETR and OWL-ViT of transformers give ``cxcywh`` in fractions of the image's size;
    torchvision's detectors give ``xyxy`` and Ultralytics' ``cxcywh``, in pixels of the input.

    Attributes:
        query: Index of the query, or "best": that of the highest score for ``label``, as in
            `BoxScore`.
        side: One of the eight names above.
        label: Name or index of the class, for query "best".
        logits: Name of the output with the class scores, for query "best"; None: ``logits``.
        boxes: Name of the output ``[batch, query, 4]``; None: ``pred_boxes``.
        box_format: ``"cxcywh"``, ``"xyxy"`` or ``"xywh"``; None: ``"cxcywh"``.
    """

    query: int | str
    side: str
    label: str | int | None = None
    logits: Name = None
    boxes: Name = None
    box_format: str | None = None
    call = "box_coordinate"

    def __post_init__(self) -> None:
        if self.side not in SIDES:
            raise TargetError(
                f"box_coordinate: side: expected one of {', '.join(SIDES)}, got {self.side!r:.60}"
            )
        self._check()

    def each(self, nodes: Sequence[Self], scope: Scope) -> Tensor:
        """``Σ_k w_k B[i, query, k]``."""
        boxes = self._boxes(nodes, scope)
        sides = BOX_FORMATS[self.box_format or "cxcywh"]
        return (boxes * boxes.new_tensor([sides[node.side] for node in nodes])).sum(1)
