"""Terms of an image's embedding: a component of it, and its similarity to another."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from explainkit.errors import TargetError
from explainkit.expressions.algebra import operand
from explainkit.expressions.leaves import Term, check_index
from explainkit.expressions.outputs import Name, Output, check_names, find_output, rows_of
from explainkit.expressions.scope import Scope

_EMBEDDINGS = ("image_embeds", "pooler_output", "embeddings")


class _OfEmbedding(Term):
    """A term of the embedding of each image, ``[batch, features]``."""

    embedding: Name
    reads_output: ClassVar[bool] = True

    def _embedded(self, scope: Scope) -> Tensor:
        return find_output(self, scope, self.embedding, _EMBEDDINGS, "batch, features")


@dataclass(frozen=True)
class Feature(_OfEmbedding):
    """A component of an image's embedding: ``e[i, index]`` of image i.

    Attributes:
        index: Index of the component.
        embedding: Name of the output ``[batch, features]``; None: ``image_embeds`` or
            ``pooler_output`` (of DINOv2, the class token).
    """

    index: int
    embedding: Name = None
    call = "feature"
    shared = ("embedding",)

    def __post_init__(self) -> None:
        check_index(self, "index", self.index)
        check_names(self, self.embedding)

    def each(self, nodes: Sequence[Self], scope: Scope) -> Tensor:
        """``e[i, index]``."""
        found = self._embedded(scope)
        indices = [node.index for node in nodes]
        if max(indices) >= found.shape[1]:
            raise TargetError(
                f"{self}: expected a feature from 0 to {found.shape[1] - 1}, got {max(indices)}"
            )
        return found[rows_of(found), torch.tensor(indices, device=found.device)]


@dataclass(frozen=True)
class Similarity(_OfEmbedding):
    """The cosine of an image's embedding e and another embedding v: ``e·v / (|e| |v|)``.

    Attributes:
        to: A vector or tensor ``[features]``; a text, embedded by the model's own text tower, which
            `explainkit.adapt` finds if it is given the tokenizer; or an `output` of the model
            ``[batch, features]``, such as ``output("text_embeds")``. The text form of a vector has
            every number.
        embedding: Name of the output e ``[batch, features]``, as in `Feature`.
    """

    to: str | Sequence[float] | Tensor | Output
    embedding: Name = None
    call = "similarity"
    shared = ("to", "embedding")

    def __post_init__(self) -> None:
        check_names(self, self.embedding)
        to: Any = self.to
        if isinstance(to, str | Output):
            if to == "":
                raise TargetError("similarity: expected a text, got an empty one")
            return
        to = to.detach().flatten().tolist() if isinstance(to, Tensor) else to
        if not isinstance(to, list | tuple) or not to or None in map(operand, to):
            raise TargetError(
                f"similarity: expected a vector, a text or an output, got {self.to!r:.60}"
            )
        object.__setattr__(self, "to", tuple(map(float, to)))

    @property
    def text(self) -> str | None:
        """The text to be embedded; None: ``to`` is something else."""
        return self.to if isinstance(self.to, str) else None

    def each(self, nodes: Sequence[Self], scope: Scope) -> Tensor:  # noqa: ARG002
        """``e·v / (|e| |v|)``."""
        found = self._embedded(scope)
        if isinstance(self.to, Output):
            other = self.to.values(scope)
        elif isinstance(self.to, str):
            if self.to not in scope.embeddings:
                raise TargetError(
                    f"{self}: expected a model with a text tower: ek.adapt(model, tokenizer=…) "
                    "makes one of a model that has both towers"
                )
            other = scope.embeddings[self.to].to(found)[None]
        else:
            other = found.new_tensor(self.to)[None]
        if other.dim() != 2 or other.shape[1] != found.shape[1]:
            raise TargetError(
                f"{self.call}: expected an embedding of {found.shape[1]} features, got "
                f"{list(other.shape[1:])}"
            )
        return F.cosine_similarity(found, other, dim=1)
