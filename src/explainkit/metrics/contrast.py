"""What the test *this class* compares a target with: the next most likely class of each image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from explainkit.engine.targets import Score
from explainkit.expressions import Expression, Rival
from explainkit.expressions.outputs import runners_up
from explainkit.scores import Outputs

_KINDS = {"binary": "the other side of the same logit", "multilabel": "the next most likely label"}

_ALONE = "No map of another class was given, so this map may not be specific to its class."
_ONLY = "There is no next most likely class to compare with."
_NO_CLASS = "The target is not a class, so there is no next most likely class to compare with."


@dataclass(frozen=True, eq=False)
class Contrast:
    """The next most likely class of each image.

    Attributes:
        targets: What to explain for it: the index of a class, or an expression for another class;
            None for an image without one.
        words: The same in words; empty for an image without one.
        reason: Why images without one have none.
    """

    targets: tuple[int | Expression | None, ...]
    words: tuple[str, ...]
    reason: str

    def __bool__(self) -> bool:
        return any(target is not None for target in self.targets)

    def missing(self, index: int, given: bool) -> str:
        """Why the test of an image is missing; empty if it isn't.

        Args:
            index: Of the image.
            given: Whether there are maps of the next most likely classes.
        """
        if self.targets[index] is None:
            return self.reason
        return "" if given else _ALONE

    def explained(self, run: Callable[[Sequence[int], Tensor | Expression], Tensor]) -> Tensor:
        """Maps ``[batch, …]`` of the next most likely class of each image; NaN where there is none.

        Args:
            run: From rows of the batch and what to explain of them to their maps. It is called
                once for all classes, and once for each expression.
        """
        parts: dict[Expression | None, list[int]] = {}
        for i, target in enumerate(self.targets):
            if target is not None:
                parts.setdefault(target if isinstance(target, Expression) else None, []).append(i)
        found: Tensor | None = None
        for score, rows in parts.items():
            chosen = torch.tensor([self.targets[i] for i in rows]) if score is None else score
            maps = run(rows, chosen)
            if found is None:
                found = maps.new_full((len(self.targets), *maps.shape[1:]), float("nan"))
            found[rows] = maps
        assert found is not None, "no image has a next most likely class"
        return found


def next_likely(
    scores: Tensor, classes: Tensor, score: Score, rivals: Sequence[Rival | None], outputs: Outputs
) -> Contrast:
    """The next most likely class of each image.

    Args:
        scores: ``[batch, classes]``.
        classes: The explained class of each image, int64 ``[batch]``.
        score: The expression or function that was explained; None: a class.
        rivals: What the expression itself compares with.
        outputs: What the model's outputs mean.
    """
    count, names = len(scores), outputs.class_names

    def name(label: int) -> str:
        return names[label] if label < len(names) else f"class {label}"

    if rivals:
        return Contrast(
            tuple(None if one is None else one.score for one in rivals),
            tuple(
                f"{name(one.label)}, the next most likely class {one.place}" if one else ""
                for one in rivals
            ),
            _ONLY,
        )
    if score is not None or outputs.task == "regression" or scores.shape[1] < 2:
        return Contrast((None,) * count, ("",) * count, _ONLY if score is None else _NO_CLASS)
    others = runners_up(scores, classes)
    kind = _KINDS.get(outputs.task, "the next most likely class")
    words = ("" if other is None else f"{name(other)}, {kind}" for other in others)
    return Contrast(tuple(others), tuple(words), _ONLY)
