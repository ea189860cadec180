"""Where an explanation comes from: what tests of it need again. Never saved."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from explainkit.expressions import Expression
from explainkit.interfaces import Method

if TYPE_CHECKING:
    from explainkit.results.explanation import Explanation


@dataclass(frozen=True, eq=False)
class Origin:
    """The live objects behind an explanation.

    Attributes:
        model: Gives the model, or None if the caller no longer holds it; a model that was given
            by name is loaded again.
        method: As it was run, on all images of the call.
        score: The expression or function that was explained; None: a class.
        rows: The explained images, as rows of the call's batch.
        count: Number of images of the call.
        receipt: From an explanation and its rows to what it was made from, as hashes.
        results: What has been computed since about this explanation, by name.
    """

    model: Callable[[], nn.Module | None]
    method: Method
    score: Callable[[Any], Tensor] | Expression | None
    rows: tuple[int, ...]
    count: int
    receipt: Callable[["Explanation", Sequence[int]], Mapping[str, Any]]
    results: dict[Hashable, Any] = field(default_factory=dict)

    def of(self, rows: slice) -> "Origin":
        """The origin of some of the images."""
        return replace(self, rows=self.rows[rows], results={})
