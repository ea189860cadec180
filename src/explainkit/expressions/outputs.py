"""Values of what a model returns, and how terms find them.

Outputs are found by their names in transformers (``logits``, ``pred_boxes``, ``image_embeds``,
``pooler_output``) and torchvision (``out``); another is named as in `explainkit.explain`'s
``output=``. All have the batch axis first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from explainkit.errors import ModelError, TargetError
from explainkit.expressions.algebra import Expression
from explainkit.expressions.leaves import Term, check_index
from explainkit.expressions.scope import Scope
from explainkit.scores import described, part_of

Name = str | int | None

SCORES = ("logits", "out")
"""Names of class scores."""


def find_output(
    term: Expression, scope: Scope, name: Name, known: Sequence[str], axes: str
) -> Tensor:
    """The output that a term uses, ``[batch, …]``.

    Args:
        term: The term, for errors.
        scope: Holds what the model returned.
        name: Of the output; None: the output itself if it is one tensor, or the first of ``known``.
        known: Names to look for.
        axes: The expected axes, such as "batch, query, class"; several choices are joined by
            " or "; "" for any.

    Raises:
        TargetError: The model returned nothing that fits.
    """
    output = scope.output
    if output is None:
        raise TargetError(f"{term}: expected the model's output, got none")
    found = output
    if name is not None:
        found = _part(term, output, name)
    elif not isinstance(output, Tensor):
        named = [key for key in known if has_output(output, key)]
        if not named:
            raise TargetError(
                f"{term}: expected an output named {' or '.join(known)}, got {described(output)}: "
                "name another"
            )
        found = _part(term, output, named[0])
    wanted = [one.count(",") + 1 for one in axes.split(" or ")] if axes else []
    fits = isinstance(found, Tensor) and found.is_floating_point() and found.dim()
    if not fits or len(found) != len(scope.example) or (wanted and found.dim() not in wanted):
        shown = (axes or "batch, …").replace(" or ", "] or [")
        raise TargetError(f"{term}: expected an output [{shown}], got {described(found)}")
    chosen: Tensor = found
    return chosen


def has_output(output: Any, key: str) -> bool:
    """Whether a model returned a tensor of that name."""
    found = output.get(key) if isinstance(output, Mapping) else getattr(output, key, None)
    return isinstance(found, Tensor)


def _part(term: Expression, output: Any, name: str | int) -> Any:
    try:
        return part_of(output, name)
    except ModelError as error:
        raise TargetError(f"{term}: {error}") from None


def check_names(term: Term, *names: Any) -> None:
    """Raises TargetError unless all are names of outputs, or None."""
    for name in names:
        if isinstance(name, bool) or not isinstance(name, str | int | None):
            raise TargetError(f"{term.call}: expected an output's name or index, got {name!r:.60}")


def rows_of(like: Tensor) -> Tensor:
    """The index of each image, int64 ``[batch]``."""
    return torch.arange(len(like), device=like.device)


def runners_up(scores: Tensor, labels: Tensor) -> list[int | None]:
    """The class that scores highest other than the given one; None if no other is finite.

    Args:
        scores: ``[batch, class]``.
        labels: The given class of each image, int64 ``[batch]``.

    Examples:
        >>> runners_up(torch.tensor([[3.0, 1.0, 2.0], [0.0, 1.0, 5.0]]), torch.tensor([0, 2]))
        [2, 1]
    """
    others = scores.detach().scatter(1, labels[:, None], float("-inf"))
    best = others.argmax(1)
    there = others.gather(1, best[:, None])[:, 0].isfinite()
    return [one if t else None for one, t in zip(best.tolist(), there.tolist(), strict=True)]


@dataclass(frozen=True)
class Output(Term):
    """One value of an output of the model, or the mean of a part of it.

    ``mean output[i, index, …]`` of image i: the mean over the axes that the index leaves open.

    Attributes:
        name: Key, index, attribute or dotted path of the output; None if it is one tensor.
        index: Index along its axes after the batch axis.

    Examples:
        >>> scope = Scope(None, {}, torch.zeros(1, 3, 4, 4), output={"depth": torch.ones(1, 4, 4)})
        >>> Output("depth").each([Output("depth")], scope)
        tensor([1.])
    """

    name: Name = None
    index: Sequence[int] | int | None = None
    call = "output"
    shared = ("name", "index")
    reads_output: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_names(self, self.name)
        index: Any = (self.index,) if isinstance(self.index, int) else self.index
        if index is not None:
            if not isinstance(index, list | tuple):
                raise TargetError(f"output: expected a list of indices, got {index!r:.60}")
            for one in index:
                check_index(self, "index", one)
            object.__setattr__(self, "index", tuple(index) or None)

    def values(self, scope: Scope) -> Tensor:
        """The part of the output, ``[batch, …]``."""
        found = find_output(self, scope, self.name, (), "")
        index: Any = self.index or ()
        sizes = list(found.shape[1:])
        if len(index) > len(sizes) or any(i >= n for i, n in zip(index, sizes, strict=False)):
            raise TargetError(f"{self}: expected an index within {sizes}, got {list(index)}")
        place: Any = (slice(None), *index)
        return found[place]

    def each(self, nodes: Sequence[Self], scope: Scope) -> Tensor:  # noqa: ARG002
        """``mean output[i, index, …]``."""
        found = self.values(scope)
        return found.flatten(1).mean(1) if found.dim() > 1 else found
