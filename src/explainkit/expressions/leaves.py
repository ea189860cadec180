"""The base classes of terms: leaves that read the model or the image."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from explainkit.errors import TargetError
from explainkit.expressions.algebra import Expression, Number
from explainkit.expressions.scope import Scope
from explainkit.scores import class_index


class Term(Expression):
    """A leaf: a value from the model or the image.

    Its text is ``call(fields)``. Fields that are None are left out, and those after one are named.
    """

    call: ClassVar[str] = ""
    shared: ClassVar[tuple[str, ...]] = ()
    """Fields that terms which are evaluated together have in common."""

    @property
    def form(self) -> tuple[Any, ...]:
        """See `Expression.form`."""
        return (type(self), *(getattr(self, name) for name in self.shared))

    def __str__(self) -> str:
        values = [getattr(self, f.name) for f in fields(self)]  # type: ignore[arg-type]
        while values and values[-1] is None:
            values.pop()
        named = values.index(None) if None in values else len(values)
        shown = [_literal(value) for value in values[:named]]
        shown += [
            f"{f.name}={_literal(value)}"
            for f, value in list(zip(fields(self), values, strict=False))[named:]  # type: ignore[arg-type]
            if value is not None
        ]
        return f"{self.call}({', '.join(shown)})"


def _literal(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, tuple):
        return f"[{', '.join(map(_literal, value))}]"
    return str(Number(value)) if isinstance(value, float) else str(value)


def check_index(term: Term, name: str, value: Any) -> None:
    """Raises TargetError unless a field is an integer from 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TargetError(f"{term.call}: {name}: expected an integer from 0, got {value!r:.60}")


def check_label(term: Term, name: str, value: Any) -> None:
    """Raises TargetError unless a field is a class name or index."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise TargetError(f"{term.call}: {name}: expected a class name or index, got {value!r:.60}")


def classes_of(labels: Sequence[str | int], count: int, scope: Scope) -> Tensor:
    """The classes of the labels, int64 ``[batch]``."""
    found = [class_index(label, count, scope.class_names) for label in labels]
    return torch.tensor(found, device=scope.example.device)


@dataclass(frozen=True)
class LayerTerm(Term):
    """A leaf that uses one inner layer."""

    layer: str
    shared: ClassVar[tuple[str, ...]] = ("layer",)

    def __post_init__(self) -> None:
        if not isinstance(self.layer, str) or not self.layer:
            raise TargetError(f"{self.call}: expected a layer's dotted path, got {self.layer!r}")

    @property
    def own_layer(self) -> str:
        """The layer."""
        return self.layer


class Family(Term):
    """A leaf that stands for one term per unit; `Expression.expand` lists them."""

    is_family: ClassVar[bool] = True

    def each(self, nodes: Sequence[Self], scope: Scope) -> Tensor:  # noqa: ARG002
        """A family is not a single score."""
        raise TargetError(f"{self} stands for several objectives: only maximize accepts it")
